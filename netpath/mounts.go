package netpath

import (
	"bytes"
	"os"
	"strconv"
)

// mount is a network namespace bound to a path.
type mount struct {
	inum uint32
	path string
}

// view is a mount namespace whose mounts hold network namespaces, and the path prefix by which we reach them.
type view struct{ mountinfo, prefix string }

// views are our own mount namespace, and pid 1's where it is another one that we may look into (an agent in a container).
func views() []view {
	vs := []view{{mountinfo: "/proc/self/mountinfo"}}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return vs
	}
	if first, err := os.Readlink("/proc/1/ns/mnt"); err == nil && first != own {
		vs = append(vs, view{mountinfo: "/proc/1/mountinfo", prefix: "/proc/1/root"})
	}
	return vs
}

// parseMountinfo finds the network namespaces among mounts, see proc_pid_mountinfo(5). A line such as
//
//	43 42 0:4 net:[4026532177] /run/netns/a rw shared:2 - nsfs nsfs rw
//
// names the inode itself, so no path is touched. Lines of another form are other mounts.
func parseMountinfo(data []byte) []mount {
	var out []mount
	for line := range bytes.Lines(data) {
		if !bytes.Contains(line, []byte(" - nsfs ")) {
			continue
		}
		fields := bytes.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if inum, ok := parseNetLink(fields[3]); ok {
			out = append(out, mount{inum, unescape(fields[4])})
		}
	}
	return out
}

// parseNetLink reads "net:[4026531833]", the form of a namespace link and of an nsfs root.
func parseNetLink(b []byte) (uint32, bool) {
	b, ok := bytes.CutPrefix(b, []byte("net:["))
	if !ok {
		return 0, false
	}
	b, ok = bytes.CutSuffix(b, []byte("]"))
	if !ok || len(b) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + uint64(c-'0'); n > 1<<32-1 {
			return 0, false
		}
	}
	return uint32(n), n != 0
}

// unescape undoes the octal escapes (\040 is a space) of a path in mountinfo.
func unescape(b []byte) string {
	var out []byte
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if n, err := strconv.ParseUint(string(b[i+1:i+4]), 8, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}
