package netpath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The transports of a socket, for Owner.
const (
	TCP = "tcp"
	UDP = "udp"
)

// ErrNoOwner says that a local address is no one process's of this node.
var ErrNoOwner = errors.New("not of one process of this node")

// Owner finds the process (in the agent's pid namespace) that has the socket with this local address, in whichever network namespace has
// that address; a loopback one is the agent's own namespace's. A socket that several processes share is nobody's: ErrNoOwner. It dumps
// the namespace's sockets and reads the descriptors of its processes, some ms: whoever serves strangers bounds how often.
func (s *State) Owner(transport string, local netip.AddrPort) (pid int, err error) {
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	var pids []int
	for _, n := range s.having(local.Addr()) {
		var inodes []uint32
		err = errors.Join(err, n.Do(func() (err error) {
			inodes, err = socketsAt(transport, local)
			return err
		}))
		for _, inode := range inodes {
			holders, e := holdersOf(n.Inum, inode)
			pids, err = append(pids, holders...), errors.Join(err, e)
		}
	}
	slices.Sort(pids)
	pids = slices.Compact(pids)
	switch {
	case len(pids) == 1:
		return pids[0], nil
	case err != nil:
		return 0, fmt.Errorf("find the process at %s %s: %w", transport, local, err)
	}
	return 0, fmt.Errorf("find the process at %s %s: %w", transport, local, ErrNoOwner)
}

// having are the live namespaces that have an address.
func (s *State) having(addr netip.Addr) (out []*Namespace) {
	if addr.IsLoopback() {
		if inum, err := netnsOf("self"); err == nil && s.Namespaces[inum] != nil {
			return []*Namespace{s.Namespaces[inum]}
		}
		return nil
	}
	for _, n := range s.Namespaces {
		if slices.ContainsFunc(n.Links, func(l Link) bool {
			return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr })
		}) {
			out = append(out, n)
		}
	}
	return out
}

// socketsAt are the inodes of this thread's namespace's sockets with a local address and port, or with that port on any address.
func socketsAt(transport string, local netip.AddrPort) (out []uint32, err error) {
	dump := netlink.SocketDiagTCP
	if transport == UDP {
		dump = netlink.SocketDiagUDP
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, e := dump(family)
		if e != nil && !errors.Is(e, netlink.ErrDumpInterrupted) {
			err = errors.Join(err, fmt.Errorf("dump %s sockets: %w", transport, e))
		}
		for _, one := range list {
			addr, ok := netip.AddrFromSlice(one.ID.Source)
			if !ok || one.ID.SourcePort != local.Port() || one.INode == 0 {
				continue
			}
			// a TCP socket without a peer only listens
			if addr = addr.Unmap(); addr == local.Addr() && (transport == UDP || one.ID.DestinationPort != 0) || transport == UDP && addr.IsUnspecified() {
				out = append(out, one.INode)
			}
		}
	}
	return out, err
}

// holdersOf are the processes of a network namespace that have a socket open.
func holdersOf(netns, inode uint32) (pids []int, err error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	for _, p := range all {
		pid, e := strconv.Atoi(p.Name())
		if e != nil {
			continue
		}
		if inum, e := netnsOf(p.Name()); e != nil || inum != netns {
			continue
		}
		fds, e := os.ReadDir("/proc/" + p.Name() + "/fd")
		if e != nil && errors.Is(e, os.ErrPermission) {
			err = errors.Join(err, fmt.Errorf("list the descriptors of process %d: %w", pid, e))
		}
		if slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
			to, e := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name())
			return e == nil && to == want
		}) {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// netnsOf is the network namespace of a process, by what /proc calls it.
func netnsOf(pid string) (uint32, error) {
	to, err := os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil {
		return 0, err
	}
	inum, ok := parseNetLink([]byte(to))
	if !ok {
		return 0, fmt.Errorf("read %q: not a network namespace", to)
	}
	return inum, nil
}
