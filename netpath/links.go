package netpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often an interrupted dump is asked for again before its possibly incomplete answer is taken: the
// change that interrupted it is announced, so a later reading follows.
const dumpTries = 3

// datapath is what a namespace's links are, apart from rules.
type datapath struct {
	links               []Link
	forwards, forwards6 bool
	bridgeNF            bool
}

// readDatapath reads the links of the namespace that the calling thread is in.
func readDatapath() (datapath, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return datapath{}, fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	links, err := dump(h.LinkList)
	if err != nil {
		return datapath{}, fmt.Errorf("list links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return datapath{}, fmt.Errorf("list addresses: %w", err)
	}
	return datapath{
		links:     convertLinks(links, addrs),
		forwards:  sysctl("ipv4/ip_forward"),
		forwards6: sysctl("ipv6/conf/all/forwarding"),
		bridgeNF:  sysctl("bridge/bridge-nf-call-iptables"),
	}, nil
}

func dump[T any](list func() ([]T, error)) ([]T, error) {
	var out []T
	var err error
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, nil
}

// sysctl reads a switch below net of the namespace that the calling thread is in; one that is absent is off.
func sysctl(name string) bool {
	b, err := os.ReadFile("/proc/sys/net/" + name)
	return err == nil && len(b) > 0 && b[0] != '0'
}

// convertLinks makes our links of netlink's, sorted by index, each with its addresses.
func convertLinks(links []netlink.Link, addrs []netlink.Addr) []Link {
	byIndex := map[int][]netip.Prefix{}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], p)
		}
	}
	out := make([]Link, 0, len(links))
	for _, l := range links {
		link := convertLink(l)
		link.Addrs = byIndex[l.Attrs().Index]
		slices.SortFunc(link.Addrs, netip.Prefix.Compare)
		out = append(out, link)
	}
	slices.SortFunc(out, func(a, b Link) int { return int(a.Index) - int(b.Index) })
	return out
}

func convertLink(l netlink.Link) Link {
	a := l.Attrs()
	link := Link{
		Index:  uint32(a.Index), //nolint:gosec // the kernel's are positive
		Name:   a.Name,
		Kind:   l.Type(),
		Up:     a.Flags&net.FlagUp != 0,
		MTU:    uint32(a.MTU),         //nolint:gosec // the kernel's is unsigned
		Master: uint32(a.MasterIndex), //nolint:gosec // the kernel's are positive
		nsid:   int32(a.NetNsID),      //nolint:gosec // 32 bits in the kernel, read as unsigned
	}
	switch {
	case a.Flags&net.FlagLoopback != 0:
		link.Kind = KindLoopback
	case l.Type() == "":
		link.Kind = KindDevice
	case l.Type() == "tuntap":
		link.Kind = "tun"
	}
	below := uint32(a.ParentIndex)            //nolint:gosec // the kernel's are positive
	if below == link.Index && link.nsid < 0 { // itself: none; in another namespace an end may have the same index
		below = 0
	}
	if link.paired() {
		link.Peer = below
	} else {
		link.Parent = below
	}
	if below == 0 {
		link.nsid = -1
	}
	return link
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), true
}
