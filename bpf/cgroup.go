package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// rootCgroup is where the root of the node's cgroups of version 2 can be opened: what is attached there sees the sockets of all
// processes. A container's own view shows only a part, so the first process is asked first.
func rootCgroup() (string, error) {
	for _, way := range []struct{ mounts, root string }{{"/proc/1/mounts", "/proc/1/root"}, {"/proc/self/mounts", ""}} {
		mounts, err := os.ReadFile(way.mounts)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(mounts) {
			f := strings.Fields(string(line))
			if len(f) > 2 && f[2] == "cgroup2" && isRootCgroup(way.root+f[1]) {
				return way.root + f[1], nil
			}
		}
	}
	return "", fmt.Errorf("find the root of the node's cgroups: no mount of cgroup2 shows it; mount it, or give the agent the host's processes (hostPID: true): %w", errors.ErrUnsupported)
}

// isRootCgroup says whether a directory is the root of the hierarchy: its inode is the first.
func isRootCgroup(dir string) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	return unix.Stat(dir, &st) == nil && unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC && st.Ino == 1
}
