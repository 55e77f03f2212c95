package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/meshwatch/meshwatch/test/await"
)

// cgroupRoot is the cluster's cgroup in every hierarchy of the machine:
//
//	sys/NAME  a process of ours and its children, version 2 only
//	nN        what node N's kubelet makes for pods
const cgroupRoot = "meshwatch-cluster"

// cgroupTrees are the machine's cgroup hierarchies.
type cgroupTrees struct {
	v2 string   // where cgroup2 is mounted
	v1 []string // the others
}

func (t cgroupTrees) all() []string { return append([]string{t.v2}, t.v1...) }

// hierarchies reads where they are mounted.
func hierarchies() (cgroupTrees, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return cgroupTrees{}, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var t cgroupTrees
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 3:
		case f[2] == "cgroup2" && t.v2 == "":
			t.v2 = f[1]
		case f[2] == "cgroup" && !slices.Contains(t.v1, f[1]):
			t.v1 = append(t.v1, f[1])
		}
	}
	if t.v2 == "" || t.v2 == "/sys/fs/cgroup" {
		return t, fmt.Errorf("build a cluster: cgroup2 is mounted at %q; wanted are version 1 hierarchies with a cgroup2 beside them,"+
			" as /sys/fs/cgroup/unified: other layouts were not tried", t.v2)
	}
	return t, nil
}

// makeCgroups makes the root and a cgroup for each node.
func (c *Cluster) makeCgroups() error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees.all() {
		for n := range c.Options.Nodes + 1 {
			dir := filepath.Join(tree, cgroupRoot)
			if n > 0 {
				dir = filepath.Join(dir, nodeName(n))
			}
			if err := makeCgroup(tree, dir); err != nil {
				return err
			}
		}
	}
	if c.Options.Nodes == 1 {
		return nil
	}
	return c.enableHugePages(trees.v2)
}

// makeCgroup makes one; a new cpuset has neither CPUs nor memory until it is told.
func makeCgroup(tree, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(tree, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), value, 0)
		}
		if err != nil {
			return fmt.Errorf("set up cgroup: %w", err)
		}
	}
	return nil
}

// enableHugePages gives a node that sees only version 2 the one controller that version 1 leaves: its kubelet wants some.
func (c *Cluster) enableHugePages(v2 string) error {
	on, err := os.ReadFile(filepath.Join(v2, "cgroup.subtree_control"))
	if err != nil {
		return fmt.Errorf("set up cgroup: %w", err)
	}
	c.HugePages = !slices.Contains(strings.Fields(string(on)), "hugetlb")
	if err := c.save(); err != nil { // first, so that it is undone whatever comes
		return err
	}
	if err := hugePages(true, c.HugePages); err != nil {
		return err
	}
	return write(filepath.Join(v2, cgroupRoot, "cgroup.subtree_control"), "+hugetlb")
}

// hugePages switches the controller at the machine's root, if it is this cluster's to switch.
func hugePages(on, ours bool) error {
	if !ours {
		return nil
	}
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	sign := "-"
	if on {
		sign = "+"
	}
	return write(filepath.Join(trees.v2, "cgroup.subtree_control"), sign+"hugetlb")
}

func write(file, value string) error {
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set up cgroup: %w", err)
	}
	return nil
}

// sysCgroup is a process's own, which it makes. The descriptor is for starting the process right inside.
func sysCgroup(name string) (dir string, f *os.File, err error) {
	trees, err := hierarchies()
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(trees.v2, cgroupRoot, "sys", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make cgroup: %w", err)
	}
	if f, err = os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0); err != nil {
		return "", nil, fmt.Errorf("open cgroup: %w", err)
	}
	return dir, f, nil
}

// members are the processes of a cgroup and of those below it.
func members(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // it went meanwhile
		}
		procs, _ := os.ReadFile(filepath.Join(name, "cgroup.procs")) //nolint:errcheck // the same
		for _, p := range strings.Fields(string(procs)) {
			var pid int
			if _, err := fmt.Sscan(p, &pid); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// killAll ends every process of the cluster, and waits until they are gone: the kernel kills a whole tree of cgroups at once,
// whatever forks meanwhile.
func killAll(ctx context.Context) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	dir := filepath.Join(trees.v2, cgroupRoot)
	err = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill processes: %w", err)
	}
	err = await.Until(ctx, func() bool {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		return errors.Is(err, os.ErrNotExist) || strings.Contains(string(events), "populated 0")
	})
	if err != nil {
		return fmt.Errorf("wait for processes to end, left are %v: %w", members(dir), err)
	}
	return nil
}

// removeCgroups removes the cluster's, deepest first. The kernel frees them a moment after their last process has gone.
func removeCgroups(ctx context.Context) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees.all() {
		var last error
		err := await.Until(ctx, func() bool {
			last = removeTree(filepath.Join(tree, cgroupRoot))
			return last == nil
		})
		if err != nil {
			return fmt.Errorf("remove cgroups: %w", errors.Join(err, last))
		}
	}
	return nil
}

func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, name)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	slices.Reverse(dirs)
	for _, d := range dirs {
		err = errors.Join(err, syscall.Rmdir(d))
	}
	return err
}
