package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
)

// netnsPrefix starts the name of every namespace; four hexadecimal digits and the pod's name follow.
const netnsPrefix = "mw"

// netnsDir is where iproute2 keeps namespaces that have a name.
const netnsDir = "/run/netns"

// inNetns calls fn on a thread that is in the namespace. The thread returns to its own namespace, or ends.
func inNetns(name string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err, restored := switched(name, fn)
		if restored {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// switched calls fn in the namespace on this thread, and says whether the thread is back in its own.
func switched(name string, fn func() error) (err error, restored bool) { //nolint:revive // the error is fn's
	own, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err), true
	}
	defer own.Close()
	target, err := netns.GetFromPath(filepath.Join(netnsDir, name))
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", name, err), true
	}
	defer target.Close()
	if err := netns.Set(target); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err), true
	}
	err = fn()
	if back := netns.Set(own); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace %s: %w", name, back)), false
	}
	return err, true
}

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
