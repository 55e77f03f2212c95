package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// stateDir is all that a cluster writes on the machine. It is on a disk, as containers' layers must be:
//
//	cluster.json  the Cluster
//	pki/          keys, certificates and kubeconfigs
//	conf/         configuration of the processes
//	logs/         what they print
//	etcd/         the API's objects
//	nN/           what node N keeps: kubelet, containerd, pod logs, its own view of /etc, /var/lib and /var/log
const stateDir = "/var/tmp/meshwatch-cluster"

// lockFile keeps two processes from building or removing at the same time. It stays, empty.
const lockFile = "/run/lock/meshwatch-cluster.lock"

// modulePath is how the tree is recognised in which the cluster finds its programs.
const modulePath = "module github.com/meshwatch/meshwatch"

func path(elem ...string) string { return filepath.Join(append([]string{stateDir}, elem...)...) }

func lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(lockFile), 0o755); err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the cluster: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func open(root string) (*Cluster, error) {
	c := &Cluster{root: root}
	if err := readJSON(path("cluster.json"), c); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cluster) save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return writeJSON(path("cluster.json"), c)
}

// writeJSON replaces a file at once.
func writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.WriteFile(name+".new", append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func readJSON(name string, v any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// tails are the last words of every process, for the error of a cluster that did not come up.
func tails() error {
	const last = 600                                 // bytes of each
	files, _ := filepath.Glob(path("logs", "*.log")) //nolint:errcheck // the pattern is right
	var errs []error
	for _, f := range files {
		text, err := os.ReadFile(f)
		if text = bytes.TrimSpace(text); err == nil && len(text) > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", filepath.Base(f), text[max(0, len(text)-last):]))
		}
	}
	return errors.Join(errs...)
}

// moduleRoot is the tree of this module that the working directory is in.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the source tree: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		mod, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if line, _, _ := strings.Cut(string(mod), "\n"); err == nil && strings.TrimSpace(line) == modulePath {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("find the source tree: %s is not in it", dir)
		}
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
