package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxNodes is as many as were tried on two cores.
const maxNodes = 3

func nodeName(n int) string { return "n" + strconv.Itoa(n) }

// nodeNumber is the n of the name nN.
func nodeNumber(name string) (int, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "n"))
	if err != nil || n < 1 || n > maxNodes {
		return 0, fmt.Errorf("node %q: want n1 to n%d", name, maxNodes)
	}
	return n, nil
}

// v2 says whether a node sees cgroup version 2 only.
func (c *Cluster) v2(node int) bool { return node > 1 && node == c.Options.Nodes }

// keeper is the process that keeps a node's namespaces.
func keeper(node int) (int, error) { return processOf(nodeName(node) + "-keeper") }

// addNode makes a node's namespaces and links.
func (c *Cluster) addNode(node int) error {
	for _, dir := range nodeDirs {
		if err := os.MkdirAll(path(nodeName(node), dir), 0o755); err != nil {
			return fmt.Errorf("add node %d: %w", node, err)
		}
	}
	_, cgroup, err := sysCgroup(nodeName(node) + "-keeper") // now: in the node it has another path
	if err != nil {
		return fmt.Errorf("add node %d: %w", node, err)
	}
	defer cgroup.Close()
	trees, err := hierarchies()
	if err != nil {
		return fmt.Errorf("add node %d: %w", node, err)
	}
	if !c.v2(node) {
		trees.v2 = "/sys/fs/cgroup" // all of them
	}
	if err := onOwnThread(func() error { return makeNamespaces(node, trees.v2, int(cgroup.Fd())) }); err != nil {
		return fmt.Errorf("add node %d: %w", node, err)
	}
	if err := linkNode(node); err != nil {
		return fmt.Errorf("add node %d: %w", node, err)
	}
	return nil
}

// onOwnThread calls fn on a thread that ends after it, with whatever namespaces it is in by then.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the first thread does not end with a goroutine that has locked it
			done <- onOwnThread(fn) // on another, as this one is locked
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// makeNamespaces moves this thread into new namespaces, furnishes them with cgroups of a layout, and leaves a process in them.
func makeNamespaces(node int, layout string, cgroup int) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := mountNode(node, layout); err != nil {
		return err
	}
	if err := sysctl(nodeSysctls); err != nil {
		return err
	}
	cmd := exec.Command("sleep", "infinity")
	cmd.Env = []string{tag}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: cgroup}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// nodeSysctls make a node forward, answer on any of its links, and show iptables what its bridge passes on.
var nodeSysctls = map[string]string{
	"net/ipv4/ip_forward":                "1",
	"net/ipv4/conf/all/rp_filter":        "0",
	"net/ipv6/conf/all/disable_ipv6":     "0",
	"net/bridge/bridge-nf-call-iptables": "1",
}

// sysctl sets values in the thread's network namespace.
func sysctl(values map[string]string) error {
	for key, value := range values {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl %s to %s: %w", key, value, err)
		}
	}
	return nil
}

// nodeDirs are under a node's state directory. Directories of the machine's in which Kubernetes has its own are covered by
// overlays, so that the machine's stay as they are; overlays cannot carry containers' layers, which are bound.
var nodeDirs = []string{
	"kubelet", "containerd", "pods", "oldsys", "values",
	"over/etc", "over/etc.work", "over/lib", "over/lib.work", "over/log", "over/log.work",
}

var overlaid = map[string]string{"etc": "/etc", "lib": "/var/lib", "log": "/var/log"}

var bound = [][2]string{ // below the node's directory, and where
	{"kubelet", "/var/lib/kubelet"},
	{"containerd", "/var/lib/containerd"},
	{"pods", "/var/log/pods"},
}

// shown are machine-wide settings that a kubelet insists on. It sees these files instead, and so changes nothing.
var shown = map[string]string{
	"/proc/sys/vm/overcommit_memory":      "1",
	"/proc/sys/vm/panic_on_oom":           "0",
	"/proc/sys/kernel/panic":              "10",
	"/proc/sys/kernel/panic_on_oops":      "1",
	"/proc/sys/kernel/keys/root_maxkeys":  "1000000",
	"/proc/sys/kernel/keys/root_maxbytes": "25000000",
}

// mountNode furnishes this thread's mount namespace. Propagation is off until the end: a new /sys would otherwise cover the
// copy of the old one too, and the node would use the machine's bpffs.
func mountNode(node int, layout string) error {
	dir := path(nodeName(node))
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mountSys(filepath.Join(dir, "oldsys"), layout); err != nil {
		return err
	}
	if err := mountRun(); err != nil {
		return err
	}
	for name, over := range overlaid {
		upper := filepath.Join(dir, "over", name)
		opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s.work", over, upper, upper)
		if err := mount("overlay", over, "overlay", 0, opts); err != nil {
			return err
		}
	}
	for _, b := range bound {
		if err := bind(filepath.Join(dir, b[0]), b[1]); err != nil {
			return err
		}
	}
	for file, value := range shown {
		from := filepath.Join(dir, "values", strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(from, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("write the value of %s: %w", file, err)
		}
		if err := mount(from, file, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// mountSys gives the node the /sys of its network namespace, its own bpffs and tracefs, and cgroups: what the machine has at
// the path layout.
func mountSys(old, layout string) error {
	if err := mount("/sys", old, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	err := mount(filepath.Join(old, strings.TrimPrefix(layout, "/sys")), "/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
	err = errors.Join(err, mount("bpf", "/sys/fs/bpf", "bpf", 0, ""), mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""))
	if err := errors.Join(err, unix.Unmount(old, unix.MNT_DETACH)); err != nil {
		return fmt.Errorf("set up /sys: %w", err)
	}
	return nil
}

// mountRun gives the node an empty /run. What was mounted below goes first: covered, it would still keep others'
// network namespaces alive.
func mountRun() error {
	info, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var below []string
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/run/") {
			below = append(below, f[4])
		}
	}
	for _, at := range slices.Backward(below) {
		_ = unix.Unmount(at, unix.MNT_DETACH) // an outer one may have taken it along
	}
	if err := mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"/run/netns", "/run/lock", "/run/containerd"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("set up /run: %w", err)
		}
	}
	return nil
}

func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("mount at %s: %w", to, err)
	}
	return mount(from, to, "", unix.MS_BIND, "")
}

func mount(from, to, kind string, flags uintptr, data string) error {
	if err := unix.Mount(from, to, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", from, to, err)
	}
	return nil
}
