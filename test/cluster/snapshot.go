package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Snapshot is the state of the machine that a cluster could change and must not: one line for each thing.
type Snapshot map[string]bool

// TakeSnapshot looks at files, namespaces, mounts, cgroups, processes, links, netfilter rules and sysctls of the machine. What labs of
// package lab have, which may come and go meanwhile, is left out.
func TakeSnapshot() (Snapshot, error) {
	s := Snapshot{}
	links, err := net.Interfaces()
	for _, l := range links {
		s.add("link", l.Name)
	}
	err = errors.Join(err, s.files(), s.mounts(), s.cgroups(), s.rules(), s.sysctls())
	s.processes()
	if err != nil {
		return nil, fmt.Errorf("look at the machine: %w", err)
	}
	return s, nil
}

// Diff says what a later snapshot has that this one had not, and the other way round; processes, namespaces and links may go:
// others have theirs.
func (s Snapshot) Diff(later Snapshot) []string {
	var lines []string
	for line := range later {
		if !s[line] {
			lines = append(lines, "new: "+line)
		}
	}
	for line := range s {
		kind, _, _ := strings.Cut(line, " ")
		if !later[line] && kind != "process" && kind != "namespace" && kind != "link" {
			lines = append(lines, "gone: "+line)
		}
	}
	slices.Sort(lines)
	return lines
}

func (s Snapshot) add(kind, what string) { s[kind+" "+what] = true }

// ofLab is how names of another lab's namespaces, cgroups and files look.
var ofLab = regexp.MustCompile(`\bmw[0-9a-f]{4}-|meshwatch-lab|^/run/meshwatch$`)

// files are what is in directories in which parts of Kubernetes have theirs by default.
func (s Snapshot) files() error {
	var err error
	for _, dir := range []string{"/", "/etc", "/opt", "/root", "/run", "/srv", "/usr/lib", "/usr/libexec", "/var", "/var/cache", "/var/lib", "/var/log", "/var/tmp"} {
		entries, e := os.ReadDir(dir)
		if e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
		for _, entry := range entries {
			if name := filepath.Join(dir, entry.Name()); !ofLab.MatchString(name) {
				s.add("file", name)
			}
		}
	}
	return err
}

func (s Snapshot) mounts() error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 6 && !ofLab.MatchString(f[4]) {
			s.add("mount", strings.Join(f[3:6], " "))
		}
	}
	return err
}

func (s Snapshot) cgroups() error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees.all() {
		top, err := os.ReadDir(tree)
		if err != nil {
			return err
		}
		for _, e := range top { // what is below is of who made these
			if e.IsDir() && !ofLab.MatchString(e.Name()) {
				s.add("cgroup", filepath.Join(tree, e.Name()))
			}
		}
	}
	on, err := os.ReadFile(filepath.Join(trees.v2, "cgroup.subtree_control"))
	s.add("cgroup controllers", strings.TrimSpace(string(on)))
	return err
}

// processes adds those of a cluster, and the namespaces that processes are in.
func (s Snapshot) processes() {
	dirs, _ := filepath.Glob("/proc/[0-9]*") //nolint:errcheck // the pattern is right
	for _, dir := range dirs {
		env, err := os.ReadFile(dir + "/environ")
		if err != nil || bytes.Contains(env, []byte("MESHWATCH_LAB=")) {
			continue
		}
		own, _ := os.ReadFile(dir + "/cgroup") //nolint:errcheck // it ended meanwhile
		if bytes.Contains(env, []byte(tag)) || bytes.Contains(own, []byte("/"+cgroupRoot)) {
			s.add("process", filepath.Base(dir))
		}
		for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc", "cgroup"} {
			if ns, err := os.Readlink(filepath.Join(dir, "ns", kind)); err == nil {
				s.add("namespace", ns)
			}
		}
	}
}

var counters = regexp.MustCompile(`\[[0-9]+:[0-9]+\]`)

func (s Snapshot) rules() error {
	for _, cmd := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(cmd).Output()
		if err != nil {
			return fmt.Errorf("run %s: %w", cmd, err)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") {
				s.add(cmd, strings.TrimSpace(counters.ReplaceAllString(line, "")))
			}
		}
	}
	return nil
}

// volatile are sysctls that change by themselves.
var volatile = regexp.MustCompile(`/random/|ns_last_pid|/pty/nr|dentry-state|file-nr|inode-nr|inode-state|aio-nr|_count$|stat_refresh|` +
	`/binfmt_misc/|perf_event_max_sample_rate|/sched_domain/|hostname|fs/epoll|fs/quota|tcp_fastopen_key|max_lock_depth`)

// ofLink are sysctls of one link, which come and go with it.
var ofLink = regexp.MustCompile(`^/proc/sys/net/ipv[46]/(conf|neigh)/`)

func (s Snapshot) sysctls() error {
	return filepath.WalkDir("/proc/sys", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || volatile.MatchString(name) || ofLink.MatchString(name) && !strings.Contains(name, "/all/") && !strings.Contains(name, "/default/") {
			return nil //nolint:nilerr // a link went meanwhile
		}
		if value, err := os.ReadFile(name); err == nil {
			s.add("sysctl", name+" = "+strings.Join(strings.Fields(string(value)), " "))
		}
		return nil
	})
}
