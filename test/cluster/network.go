package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/meshwatch/meshwatch/test/nets"
)

// The cluster's addresses: node N is 192.168.77.(10+N), its pods are 10.244.N.0/24.
const (
	serviceCIDR = "10.96.0.0/16"
	podCIDR     = "10.244.0.0/16"
	apiService  = "10.96.0.1"
	dnsService  = "10.96.0.10"
	apiPort     = "6443"
	bridgeName  = "node0" // connects the nodes; it is in the first one
)

func nodeAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 77, byte(10 + n)}) } //nolint:gosec // up to maxNodes

func podNet(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24) //nolint:gosec // the same
}

// linkNode connects a node. The first has the bridge, and a default route to nowhere: without one, connecting to a service
// ends before its address is translated. The others route by the first.
func linkNode(node int) error {
	if node == 1 {
		err := inNode(1, func(h *netlink.Handle) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = bridgeName
			if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				return fmt.Errorf("add bridge: %w", err)
			}
			return errors.Join(nets.Up(h, bridgeName), nets.Up(h, "lo"))
		})
		if err != nil {
			return err
		}
	}
	if err := plugNode(node); err != nil {
		return err
	}
	return inNode(node, func(h *netlink.Handle) error {
		if err := errors.Join(nets.Up(h, "lo"), nets.AddAddress(h, "eth0", netip.PrefixFrom(nodeAddr(node), 24)), nets.Up(h, "eth0")); err != nil {
			return err
		}
		if node == 1 {
			return addRoute(h, netip.Prefix{}, netip.AddrFrom4([4]byte{192, 168, 77, 254}))
		}
		return addRoute(h, netip.Prefix{}, nodeAddr(1))
	})
}

// plugNode makes the pair eth0 in the node and nodeN on the bridge, and the first node's route to the node's pods.
func plugNode(node int) error {
	pid, err := keeper(node)
	if err != nil {
		return err
	}
	return inNode(1, func(h *netlink.Handle) error {
		bridge, err := h.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find %s: %w", bridgeName, err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = "node"+nodeName(node), bridge.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid)}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", attrs.Name, err)
		}
		if err := nets.Up(h, attrs.Name); err != nil || node == 1 {
			return err
		}
		return addRoute(h, podNet(node), nodeAddr(node))
	})
}

// addRoute adds a route by a gateway; the zero destination is the default route.
func addRoute(h *netlink.Handle, to netip.Prefix, gw netip.Addr) error {
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gw.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	if to.IsValid() {
		route.Dst = nets.IPNet(to)
	}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("add route to %s by %s: %w", to, gw, err)
	}
	return nil
}

// inNode calls fn with netlink of a node's.
func inNode(node int, fn func(*netlink.Handle) error) error {
	pid, err := keeper(node)
	if err != nil {
		return err
	}
	if err := nets.OfProcess(pid).Netlink(fn); err != nil {
		return fmt.Errorf("node %d: %w", node, err)
	}
	return nil
}

// dialFrom connects from the network namespace of a process.
func dialFrom(ctx context.Context, pid int, address string) (conn net.Conn, err error) {
	err = nets.OfProcess(pid).Do(func() error {
		d := net.Dialer{}
		d.SetMultipathTCP(false) // as nearly all that talks in a mesh
		var e error
		conn, e = d.DialContext(ctx, "tcp4", address)
		return e
	})
	return conn, err
}
