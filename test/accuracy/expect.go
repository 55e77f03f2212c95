package main

import (
	"net/netip"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/lab"
)

// The legs of a request in the lab's mesh, in the order in which it opens them. Each is caused by the one before it.
const (
	legEdge        = iota // client → gateway
	legFrontendIn         // gateway → frontend's sidecar
	legFrontend           // frontend's sidecar → frontend
	legFrontendOut        // frontend → its sidecar
	legBackendIn          // frontend's sidecar → backend's sidecar
	legBackend            // backend's sidecar → backend
	legCount
)

const allLegs = 1<<legCount - 1

// leg is what one connection of the mesh must look like.
type leg struct {
	name           string
	client, server string     // network namespaces
	from           netip.Addr // the client's own address; its port is in the access logs
	to             netip.AddrPort
	hops           []hop
}

// hop is one that every flight of a leg must have.
type hop struct {
	name string
	at   place
}

// place is the namespace where a hop begins.
type place uint8

const (
	atSender place = iota
	onNode
	atReceiver
)

// overBridge is the way from one pod to another: out of the sender's eth0, from port to port of the node's bridge, which
// asks iptables (br_netfilter), and in by the receiver's eth0.
var overBridge = []hop{
	{"iptables OUTPUT", atSender},
	{"iptables POSTROUTING", atSender},
	{"veth", atSender},
	{"bridge + iptables PREROUTING", onNode},
	{"iptables FORWARD", onNode},
	{"iptables POSTROUTING + bridge", onNode},
	{"veth", onNode},
	{"iptables PREROUTING", atReceiver},
	{"iptables INPUT", atReceiver},
	{"socket wait", atReceiver},
}

// overLoopback is the way between an app and its sidecar.
var overLoopback = []hop{
	{"iptables OUTPUT", atSender},
	{"iptables POSTROUTING", atSender},
	{"loopback", atSender},
	{"iptables PREROUTING", atReceiver},
	{"iptables INPUT", atReceiver},
	{"socket wait", atReceiver},
}

// mesh is what is expected of every request.
type mesh struct {
	node string // the node's namespace
	legs [legCount]leg
}

func expect(l *lab.Lab) *mesh {
	addr := func(p lab.Pod) netip.Addr {
		if l.Options.IPv6 {
			return p.V6
		}
		return p.V4
	}
	fromSidecar := netip.MustParseAddr("127.0.0.6") // Istio's address for calls from a sidecar to its app
	if l.Options.IPv6 {
		fromSidecar = netip.MustParseAddr("::6")
	}
	const port = 8080 // of gateway and apps
	of := func(name string, from, to, target lab.Pod, client netip.Addr) leg {
		hops := overBridge
		if from.Netns == to.Netns {
			hops = overLoopback
		}
		return leg{name, from.Netns, to.Netns, client, netip.AddrPortFrom(addr(target), port), hops}
	}
	client, _ := l.Pod("client")
	gateway, _ := l.Pod("gateway")
	frontend, _ := l.Pod("frontend")
	backend, _ := l.Pod("backend")
	return &mesh{l.NodeNetns(), [legCount]leg{
		of("client→gateway", client, gateway, gateway, addr(client)),
		of("gateway→frontend sidecar", gateway, frontend, frontend, addr(gateway)),
		of("frontend sidecar→frontend", frontend, frontend, frontend, fromSidecar),
		of("frontend→its sidecar", frontend, frontend, backend, addr(frontend)),
		of("frontend sidecar→backend sidecar", frontend, backend, backend, addr(frontend)),
		of("backend sidecar→backend", backend, backend, backend, fromSidecar),
	}}
}

// missingHop is the first expected hop that a flight does not have in its place, "" when all are there. Others between
// them are no fault: a segment sent again passes twice.
func (m *mesh) missingHop(l *leg, f *journey.Flight, response bool) string {
	where := [...]string{atSender: l.client, onNode: m.node, atReceiver: l.server}
	if response {
		where[atSender], where[atReceiver] = l.server, l.client
	}
	at := uint64(0)
	hops := f.Hops
	for _, want := range l.hops {
		for len(hops) > 0 && (hops[0].Name != want.name || hops[0].Net != where[want.at]) {
			hops = hops[1:]
		}
		if len(hops) == 0 || hops[0].From < at || hops[0].To < hops[0].From {
			return want.name
		}
		at, hops = hops[0].To, hops[1:]
	}
	return ""
}
