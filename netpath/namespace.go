package netpath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone says that nothing leads to a namespace any more: no process is in it and no mount holds it.
var ErrGone = errors.New("network namespace is gone")

// MaxPids bounds Namespace.Pids: enough ways in when some of the processes exit.
const MaxPids = 16

// The ports that Istio redirects an app's traffic to, out of and into the pod.
const (
	IstioOutbound = 15001
	IstioInbound  = 15006
)

// Namespace is a network namespace as it was when it was last read. It is a value without descriptors: it pins nothing.
type Namespace struct {
	Inum      uint32   `json:"inode"`
	Name      string   `json:"name"` // base name of its mount, else "host", else "pid:<lowest pid> <comm>"; kept while it lives
	Host      bool     `json:"host,omitempty"`
	Mounts    []string `json:"mounts,omitempty"` // paths at which it is bound, sorted
	Pids      []int    `json:"pids,omitempty"`   // the MaxPids lowest, in the agent's pid namespace
	Processes int      `json:"processes"`
	Links     []Link   `json:"links"` // by index
	Forwards  bool     `json:"ip_forward"`
	Forwards6 bool     `json:"ip6_forward"`
	BridgeNF  bool     `json:"bridge_nf_call_iptables"` // bridged packets pass iptables; a bridge's own switch is not read
	Filter    Filter   `json:"filter"`
	Problem   string   `json:"problem,omitempty"` // why its links or rules could not be read
}

// Link is a network interface.
type Link struct {
	Index  uint32 `json:"ifindex"`
	Name   string `json:"name"`
	Kind   string `json:"kind"` // "lo", "device" (physical or virtio), else the kernel's: veth, bridge, vxlan, tun, …
	Up     bool   `json:"up"`   // administratively
	MTU    uint32 `json:"mtu"`
	Master uint32 `json:"master,omitempty"` // bridge, bond or VRF it is a port of
	Parent uint32 `json:"parent,omitempty"` // the link below: of a vlan, macvlan, ipvlan, …
	Peer   uint32 `json:"peer,omitempty"`   // the other end of a veth or netkit pair
	// PeerNetns is the namespace of Peer or Parent, 0 when it is not one that we know.
	PeerNetns uint32         `json:"peer_netns,omitempty"`
	Addrs     []netip.Prefix `json:"addresses,omitempty"`

	nsid int32 // of Peer or Parent, as the link's own namespace numbers others; -1: its own
}

// The kinds that have a meaning here.
const (
	KindLoopback = "lo"
	KindDevice   = "device"
	KindVeth     = "veth"
	KindNetkit   = "netkit"
	KindBridge   = "bridge"
)

// Tunnel says whether packets leave the link inside other packets.
func (l *Link) Tunnel() bool {
	switch l.Kind {
	case "vxlan", "geneve", "ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "ip6gretap", "vti", "vti6",
		"wireguard", "xfrm", "gtp", "bareudp", "fou":
		return true
	}
	return false
}

func (l *Link) paired() bool { return l.Kind == KindVeth || l.Kind == KindNetkit }

// Link is the link with that index, nil when there is none. The result belongs to the namespace.
func (n *Namespace) Link(index uint32) *Link {
	i := sort.Search(len(n.Links), func(i int) bool { return n.Links[i].Index >= index })
	if i < len(n.Links) && n.Links[i].Index == index {
		return &n.Links[i]
	}
	return nil
}

// Redirects says whether rules send traffic to Istio's ports, which tells a sidecar from a gateway.
func (n *Namespace) Redirects() bool {
	return slices.Contains(n.Filter.Redirects, IstioOutbound) || slices.Contains(n.Filter.Redirects, IstioInbound)
}

// Open returns a handle on the namespace, by a mount or else by a process. While it is open it pins the namespace. ErrGone
// when no way leads there.
func (n *Namespace) Open() (*os.File, error) {
	var denied error
	for _, path := range n.ways() {
		f, err := os.Open(path) //nolint:gosec // a path that mountinfo or /proc named
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				denied = err
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err == nil && st.Ino == uint64(n.Inum) {
			return f, nil
		}
		f.Close() //nolint:errcheck,gosec // read only; another namespace is here now
	}
	if denied != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", n.Name, denied)
	}
	return nil, fmt.Errorf("open network namespace %s: %w", n.Name, ErrGone)
}

func (n *Namespace) ways() []string {
	ways := slices.Clone(n.Mounts)
	for _, pid := range n.Pids {
		ways = append(ways, "/proc/"+strconv.Itoa(pid)+"/ns/net")
	}
	return ways
}

// Do runs f on an OS thread that is in the namespace: sockets that f opens belong to it, as do /proc/sys/net and
// /proc/thread-self/net. f must not start goroutines that rely on it. The thread is used by nobody else, and is thrown
// away should it fail to return.
func (n *Namespace) Do(f func() error) error {
	ns, err := n.Open()
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // read only
	done := make(chan error, 1)
	go func() { done <- inside(ns, n.Name, f) }()
	return <-done
}

// inside must run on a goroutine of its own: on failure it ends with its thread locked, so Go discards that thread.
func inside(ns *os.File, name string, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer home.Close() //nolint:errcheck // read only
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace %s: %w", name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// nameOf is what an operator calls a namespace. Docker binds the host's as "default", so only the folders of `ip netns`
// name that one.
func nameOf(mounts []string, host bool, process string) string {
	for _, m := range mounts {
		if dir := filepath.Dir(m); strings.HasSuffix(dir, "/run/netns") {
			return filepath.Base(m)
		}
	}
	switch {
	case host:
		return "host"
	case len(mounts) > 0:
		return filepath.Base(mounts[0])
	}
	return process
}
