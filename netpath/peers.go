package netpath

import (
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A link knows its other end by ifindex and by the number that its own namespace has given to the other one (nsid). Which
// namespace that is, is told by two witnesses: the ends must name each other, and RTM_GETNSID must agree. One is not
// enough: indexes repeat in every pod, and numbers are reused.

// candidates are the other namespaces in which the other end of l may be.
func candidates(all map[uint32]*Namespace, n *Namespace, l *Link) []*Namespace {
	var out []*Namespace
	for _, other := range all {
		if l.nsid >= 0 && other != n && reciprocal(other, n, l) {
			out = append(out, other)
		}
	}
	return out
}

// reciprocal says whether other has a link that can be l's other end: for pairs one that names l, else any.
func reciprocal(other, n *Namespace, l *Link) bool {
	if !l.paired() {
		return other.Link(l.Parent) != nil
	}
	end := other.Link(l.Peer)
	return end != nil && end.Kind == l.Kind && end.Peer == l.Index && (end.nsid < 0) == (other == n)
}

// resolvePeers fills in PeerNetns of n's links, in a copy when there is something to fill in, else it returns n. known is
// n's own numbering of namespaces as far as learned, and learns.
func resolvePeers(all map[uint32]*Namespace, n *Namespace, known map[int32]uint32) (*Namespace, error) {
	found := map[uint32]uint32{} // ifindex → namespace
	type question struct {
		link  *Link
		among []*Namespace
	}
	var open []question
	for i := range n.Links {
		l := &n.Links[i]
		if l.PeerNetns != 0 || l.Peer == 0 && l.Parent == 0 {
			continue
		}
		if l.nsid < 0 && !l.paired() {
			found[l.Index] = n.Inum
			continue
		}
		if c := all[known[l.nsid]]; c != nil && l.nsid >= 0 && reciprocal(c, n, l) {
			found[l.Index] = c.Inum
		} else if l.nsid < 0 && reciprocal(n, n, l) {
			found[l.Index] = n.Inum
		} else if among := candidates(all, n, l); len(among) > 0 {
			open = append(open, question{l, among})
		}
	}
	var err error
	if len(open) > 0 {
		err = n.Do(func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			for _, q := range open {
				if inum := askNSID(h, q.link.nsid, q.among); inum != 0 {
					found[q.link.Index], known[q.link.nsid] = inum, inum
				}
			}
			return nil
		})
	}
	return withPeers(n, found), err
}

// askNSID is the candidate that has the number nsid in the handle's namespace, 0 when none has.
func askNSID(h *netlink.Handle, nsid int32, among []*Namespace) uint32 {
	for _, c := range among {
		f, err := c.Open()
		if err != nil {
			continue
		}
		id, err := nsidOf(h, f)
		f.Close() //nolint:errcheck,gosec // read only
		if err == nil && id == nsid {
			return c.Inum
		}
	}
	return 0
}

func nsidOf(h *netlink.Handle, f *os.File) (int32, error) {
	id, err := h.GetNetNsIdByFd(int(f.Fd()))
	return int32(id), err //nolint:gosec // 32 bits in the kernel
}

func withPeers(n *Namespace, found map[uint32]uint32) *Namespace {
	if len(found) == 0 {
		return n
	}
	next := *n
	next.Links = make([]Link, len(n.Links))
	copy(next.Links, n.Links)
	for i := range next.Links {
		if inum := found[next.Links[i].Index]; inum != 0 {
			next.Links[i].PeerNetns = inum
		}
	}
	return &next
}
