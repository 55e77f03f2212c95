package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/meshwatch/meshwatch/test/nets"
)

// bridgeName is the node's bridge, which every pod hangs on.
const bridgeName = "br0"

// firstHost is the last byte of the first pod's address; 1 is the bridge.
const firstHost = 2

// subnets are the lab's own, made from its id: labs never share an address, as an agent on the machine sees them all.
func subnets(id string) (v4, v6 [16]byte) {
	n, _ := strconv.ParseUint(id, 16, 16) //nolint:errcheck // newState made it
	hi, lo := byte(n>>8), byte(n)
	v4 = netip.AddrFrom4([4]byte{10, hi, lo, 0}).As16()
	v6 = [16]byte{0: 0xfd, 1: 0x77, 2: hi, 3: lo}
	return v4, v6
}

// address is the lab's n-th address of both families.
func address(id string, n byte) (v4, v6 netip.Addr) {
	a, b := subnets(id)
	a[15], b[15] = n, n
	return netip.AddrFrom16(a).Unmap(), netip.AddrFrom16(b)
}

// nodeSysctls make the node forward, and its bridge ask iptables, as Kubernetes wants it.
var nodeSysctls = map[string]string{
	"net/ipv4/ip_forward":                 "1",
	"net/ipv6/conf/all/forwarding":        "1",
	"net/bridge/bridge-nf-call-iptables":  "1",
	"net/bridge/bridge-nf-call-ip6tables": "1",
}

// addNode makes the node's namespace with its bridge.
func (l *Lab) addNode() error {
	name := l.NodeNetns()
	if err := addNetns(name); err != nil {
		return err
	}
	if err := nets.Named(name).Do(func() error { return sysctl(nodeSysctls) }); err != nil {
		return err
	}
	return nets.Named(name).Netlink(func(h *netlink.Handle) error {
		if err := nets.Up(h, "lo"); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("add bridge %s: %w", bridgeName, err)
		}
		v4, v6 := address(l.ID, 1)
		return errors.Join(nets.AddAddress(h, bridgeName, netip.PrefixFrom(v4, 24)), nets.AddAddress(h, bridgeName, netip.PrefixFrom(v6, 64)), nets.Up(h, bridgeName))
	})
}

// addPod makes a pod's namespace and its link to the bridge, and Istio's rules if it has a sidecar.
func (l *Lab) addPod(p Pod, index int) (Pod, error) {
	p.Netns, p.Index = l.netnsName(p.Name), index
	p.V4, p.V6 = address(l.ID, byte(firstHost+index)) //nolint:gosec // a lab has a handful of pods
	if err := addNetns(p.Netns); err != nil {
		return p, err
	}
	if err := l.plug(p); err != nil {
		return p, err
	}
	if err := nets.Named(p.Netns).Netlink(func(h *netlink.Handle) error { return l.configure(h, p) }); err != nil {
		return p, err
	}
	if p.Sidecar {
		return p, addIstioRules(p.Netns)
	}
	return p, nil
}

// mac is the link address of the pod's eth0. It follows from the IPv4 address: the next pod with that address is reached
// at once, and not only when its neighbours find that what they know of the last one is wrong (a minute).
func (p Pod) mac() net.HardwareAddr {
	const local = 0x02 // locally administered
	v4 := p.V4.As4()
	return append(net.HardwareAddr{local, 0x42}, v4[:]...)
}

// plug makes the veth pair: one end on the bridge, the other as eth0 in the pod.
func (l *Lab) plug(p Pod) error {
	pod, err := netns.GetFromName(p.Netns)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", p.Netns, err)
	}
	defer pod.Close()
	return nets.Named(l.NodeNetns()).Netlink(func(h *netlink.Handle) error {
		bridge, err := h.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find %s: %w", bridgeName, err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = p.Link(), bridge.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod), PeerHardwareAddr: p.mac()}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", p.Link(), err)
		}
		return nets.Up(h, p.Link())
	})
}

// unplug removes the pod's link.
func (l *Lab) unplug(p Pod) error {
	return nets.Named(l.NodeNetns()).Netlink(func(h *netlink.Handle) error {
		link, err := h.LinkByName(p.Link())
		if err != nil {
			return fmt.Errorf("find %s: %w", p.Link(), err)
		}
		if err := h.LinkDel(link); err != nil {
			return fmt.Errorf("delete %s: %w", p.Link(), err)
		}
		return nil
	})
}

// configure gives the pod its addresses and default routes.
func (l *Lab) configure(h *netlink.Handle, p Pod) error {
	err := errors.Join(nets.Up(h, "lo"), nets.AddAddress(h, "eth0", netip.PrefixFrom(p.V4, 24)), nets.AddAddress(h, "eth0", netip.PrefixFrom(p.V6, 64)), nets.Up(h, "eth0"))
	if p.Sidecar { // the address from which a sidecar calls its app; 127.0.0.6 needs no such line
		err = errors.Join(err, nets.AddAddress(h, "lo", netip.PrefixFrom(netip.MustParseAddr("::6"), 128)))
	}
	if err != nil {
		return err
	}
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	v4, v6 := address(l.ID, 1)
	for _, gw := range []netip.Addr{v4, v6} {
		route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IP(gw.AsSlice())}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("add default route by %s: %w", gw, err)
		}
	}
	return nil
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
