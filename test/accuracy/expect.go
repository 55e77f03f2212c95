package main

import (
	"net/netip"
	"strings"

	"github.com/meshwatch/meshwatch/meshwatch"
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

// edgesOver is a way as edges tell it: what lies between, and the rules on both sides of it.
func edgesOver(medium string) []hop {
	return []hop{
		{"iptables OUTPUT+POSTROUTING", atSender},
		{medium + " + iptables PREROUTING+INPUT", atSender},
		{"socket wait", atReceiver},
	}
}

// mesh is what is expected of every request.
type mesh struct {
	node string // the node's namespace
	auto bool   // any depth will do, in each namespace
	legs [legCount]leg
}

// expect says what a lab's requests must look like in this depth.
func expect(l *lab.Lab, depth string) *mesh {
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
		hops, medium := overBridge, "bridge"
		if from.Netns == to.Netns {
			hops, medium = overLoopback, "loopback"
		}
		if depth == meshwatch.DepthEdges {
			hops = edgesOver(medium)
		}
		return leg{name, from.Netns, to.Netns, client, netip.AddrPortFrom(addr(target), port), hops}
	}
	client, _ := l.Pod("client")
	gateway, _ := l.Pod("gateway")
	frontend, _ := l.Pod("frontend")
	backend, _ := l.Pod("backend")
	return &mesh{l.NodeNetns(), depth == meshwatch.DepthAuto, [legCount]leg{
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
	if m.auto {
		return gap(f, where[atSender], where[atReceiver])
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

// gap is what a flight's hops lack to be the whole way from the sender's first rule to the reader, in whatever parts; "": nothing.
func gap(f *journey.Flight, sender, receiver string) string {
	n := len(f.Hops)
	switch {
	case n < 3:
		return "most"
	case !strings.HasPrefix(f.Hops[0].Name, "iptables OUTPUT") || f.Hops[0].Net != sender:
		return "iptables OUTPUT"
	case !strings.HasSuffix(f.Hops[n-2].Name, "INPUT"):
		return "iptables INPUT"
	case f.Hops[n-1].Name != "socket wait" || f.Hops[n-1].Net != receiver:
		return "socket wait"
	}
	for i, h := range f.Hops {
		if h.Kind == "other" || h.To < h.From || i > 0 && h.From != f.Hops[i-1].To {
			return "a name for " + h.Name
		}
	}
	return ""
}
