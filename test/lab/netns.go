package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// netnsPrefix starts the name of every namespace; four hexadecimal digits and the pod's name follow.
const netnsPrefix = "mw"

// netnsDir is where iproute2 keeps namespaces that have a name.
const netnsDir = "/run/netns"

// addNetns makes a namespace with a name. It is left to ip, which also makes /run/netns a mount that other programs see.
func addNetns(name string) error { return command("ip", "netns", "add", name) }

// deleteNetns deletes a namespace; one that is not there is no error. Its links go when the last process has left.
func deleteNetns(name string) error {
	err := command("ip", "netns", "del", name)
	if _, statErr := os.Lstat(filepath.Join(netnsDir, name)); errors.Is(statErr, os.ErrNotExist) {
		return nil
	}
	return err
}

// netnsOf lists the namespaces of a lab.
func netnsOf(id string) ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), netnsPrefix+id+"-") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
