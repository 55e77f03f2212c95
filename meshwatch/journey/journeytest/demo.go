// Package journeytest makes journeys for tests: one as the demo mesh produces it, and random ones.
package journeytest

import (
	"net/netip"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Epoch puts the demo's monotonic times at 2026-01-02 03:04:05 UTC.
var Epoch = journey.Clock{Offset: 1767323045_000000000 - demoStart}

const demoStart = 5_000_000_000 // ns

// pod is one namespace of the demo mesh.
type pod struct {
	name  string
	addr  netip.Addr
	netns uint32
}

var (
	client   = pod{"client", netip.MustParseAddr("10.9.0.2"), 4026532101}
	ingress  = pod{"gateway", netip.MustParseAddr("10.9.0.3"), 4026532102}
	frontend = pod{"frontend", netip.MustParseAddr("10.9.0.4"), 4026532103}
	backend  = pod{"backend", netip.MustParseAddr("10.9.0.5"), 4026532104}
	node     = pod{"node", netip.Addr{}, 4026531840}
)

// Demo is one request through the demo mesh: client → gateway → frontend's sidecar → frontend → its own sidecar →
// backend's sidecar → backend, 6 legs. It took 4 ms, of which backend itself took 3. The root carries no trace context.
// Each call makes a new one.
func Demo() *journey.Journey { return build(-1) }

// LostSYN is Demo where the frontend's sidecar opens a connection to the backend for it, of which the node drops the first
// packet: that costs a second.
func LostSYN() *journey.Journey { return build(4) }

// build makes the demo's journey. connected is the leg that is opened for it, -1: none.
func build(connected int) *journey.Journey {
	d := demo{now: demoStart}
	legs := []journey.Leg{
		leg(client.end("fortio", "", 40000, ingress, 80), ingress.end("haproxy", journey.RoleGateway, 80, client, 40000)),
		leg(ingress.end("haproxy", journey.RoleGateway, 41000, frontend, 8080), frontend.end("envoy", journey.RoleSidecar, 15006, ingress, 41000)),
		leg(local(frontend.end("envoy", journey.RoleSidecar, 42000, frontend, 8080), "127.0.0.6"), frontend.end("app", journey.RoleApp, 8080, frontend, 42000)),
		leg(frontend.end("app", journey.RoleApp, 43000, backend, 8080), local(frontend.end("envoy", journey.RoleSidecar, 15001, frontend, 43000), "127.0.0.1")),
		leg(frontend.end("envoy", journey.RoleSidecar, 44000, backend, 8080), backend.end("envoy", journey.RoleSidecar, 15006, frontend, 44000)),
		leg(local(backend.end("envoy", journey.RoleSidecar, 45000, backend, 8080), "127.0.0.6"), backend.end("app", journey.RoleApp, 8080, backend, 45000)),
	}
	legs[2].Server.Peer = legs[2].Client.Local
	legs[5].Server.Peer = legs[5].Client.Local
	j := &journey.Journey{
		TraceID:   [16]byte{0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x03, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c},
		RequestID: "0af76519-16cd-03dd-8448-eb211c80319c",
	}
	think := []uint64{60_000, 120_000, 200_000, 110_000, 130_000, 3_000_000} // ns inside each server, half of it before and half after
	pods := []pod{client, ingress, frontend, frontend, frontend, backend, backend}
	for i := range legs {
		e := d.exchange(i, legs[i])
		if i == connected {
			f := d.connect(uint32(i), pods[i], pods[i+1]) //nolint:gosec // six
			e.Connect = &f
			d.now += 50_000 // until the answer is back
		}
		j.Exchanges = append(j.Exchanges, e)
		e.Request = d.flight(uint32(i), pods[i], pods[i+1], &e.Leg.Server) //nolint:gosec // six
		d.now += think[i] / 2
		if i > 0 {
			j.Relays = append(j.Relays, journey.Relay{From: i - 1, To: i, Method: journey.MethodRequestID, Confidence: 0.999, Candidates: 1 + i%2, Pid: e.Leg.Client.Pid, Role: e.Leg.Client.Role})
		}
	}
	for i := len(legs) - 1; i >= 0; i-- {
		d.now += think[i] / 2
		r := d.flight(uint32(100+i), pods[i+1], pods[i], &legs[i].Client) //nolint:gosec // six
		j.Exchanges[i].Response = &r
	}
	j.Exchanges[0].Headers = map[string]string{"x-truth": "42", "user-agent": "fortio"}
	j.Exchanges[4].Response.Retransmits = 1
	return j
}

func (p pod) end(process string, role journey.Role, port uint16, peer pod, peerPort uint16) journey.End {
	pid := int(p.netns%100)*1000 + len(process) // any number that is the process's own
	e := journey.End{
		Local: netip.AddrPortFrom(p.addr, port), Peer: netip.AddrPortFrom(peer.addr, peerPort), Netns: p.netns, NetName: p.name,
		Pid: pid, Tid: pid + 1, Process: process, Thread: process, Role: role, Known: true,
	}
	if process == "envoy" {
		e.Thread = "wrk:worker_0"
	}
	e.Workload = journey.Workload{Name: p.name, Namespace: "demo", Service: p.name, Node: "node-1", Kind: journey.KindPod, Zone: "zone-a"}
	return e
}

func leg(c, s journey.End) journey.Leg { return journey.Leg{Client: c, Server: s} }

func local(e journey.End, addr string) journey.End {
	e.Local = netip.AddrPortFrom(netip.MustParseAddr(addr), e.Local.Port())
	return e
}

// demo is a clock that each hop moves on.
type demo struct{ now uint64 }

func (d *demo) exchange(i int, l journey.Leg) *journey.Exchange {
	return &journey.Exchange{
		Leg: l, Protocol: "http/1.1", Method: "GET", Target: "/checkout", Host: "shop.example:8080", Status: 200,
		RequestID: "0af76519-16cd-03dd-8448-eb211c80319c", Parent: i - 1,
	}
}

func (d *demo) flight(serial uint32, from, to pod, reader *journey.End) journey.Flight {
	f := journey.Flight{Deep: true,
		Serial: 7000 + uint64(serial), Start: d.now, SendEnd: d.now + 14_000, Seq: 0x10000000 + serial*4096, Ack: 0x20000000 + serial*64, Bytes: 300 + serial,
	}
	d.stamp(&f, journey.HookOutput, from, 0)
	d.hop(&f, "iptables OUTPUT", "iptables", journey.ClassNode, 1_400, from, "", journey.HookPostrouting, from, 0)
	if from.name == to.name {
		d.hop(&f, "iptables POSTROUTING", "iptables", journey.ClassNode, 900, from, "", journey.HookEgress, from, 1)
		d.hop(&f, "loopback", "loopback", journey.ClassNode, 2_100, from, "lo", journey.HookIngress, from, 1)
	} else {
		d.hop(&f, "iptables POSTROUTING", "iptables", journey.ClassNode, 900, from, "", journey.HookEgress, from, 2)
		d.hop(&f, "veth", "veth", journey.ClassNode, 3_000, from, "eth0", journey.HookIngress, node, 11)
		d.hop(&f, "bridge", "bridge", journey.ClassNode, 2_500, node, "v-"+from.name, journey.HookForward, node, 0)
		d.hop(&f, "iptables FORWARD", "iptables", journey.ClassNode, 1_100, node, "", journey.HookEgress, node, 12)
		d.hop(&f, "veth", "veth", journey.ClassNode, 2_900, node, "v-"+to.name, journey.HookIngress, to, 2)
	}
	d.hop(&f, "iptables INPUT", "iptables", journey.ClassNode, 1_300, to, "", journey.HookDelivered, to, 0)
	f.Hops = append(f.Hops, journey.Hop{
		Name: "socket wait", Kind: "socket-wait", Class: class(reader.Role), From: d.now, To: d.now + 21_000, Netns: to.netns, Net: to.name,
	})
	d.now += 21_000
	f.Recv, f.RecvEnd = d.now, d.now
	return f
}

// connect is a SYN that is dropped once on the node, and sent again after a second.
func (d *demo) connect(serial uint32, from, to pod) journey.Flight {
	f := journey.Flight{Serial: 6000 + uint64(serial), Start: d.now, Seq: 0x0fffffff + serial*4096, Retransmits: 1, DropReason: 2}
	d.stamp(&f, journey.HookOutput, from, 0)
	up := func() {
		d.hop(&f, "iptables OUTPUT", "iptables", journey.ClassNode, 1_500, from, "", journey.HookPostrouting, from, 0)
		d.hop(&f, "iptables POSTROUTING", "iptables", journey.ClassNode, 1_000, from, "", journey.HookEgress, from, 2)
		d.hop(&f, "veth", "veth", journey.ClassNode, 3_000, from, "eth0", journey.HookIngress, node, 11)
		d.hop(&f, "bridge", "bridge", journey.ClassNode, 2_500, node, "v-"+from.name, journey.HookForward, node, 0)
	}
	up()
	d.hop(&f, "forward to drop", "drop", journey.ClassUnknown, 2_000, node, "", journey.HookDrop, node, 11)
	d.hop(&f, "retransmission wait", "retransmit", journey.ClassNetwork, 1_000_000_000, node, "", journey.HookOutput, from, 0)
	up()
	d.hop(&f, "iptables FORWARD", "iptables", journey.ClassNode, 1_200, node, "", journey.HookEgress, node, 12)
	d.hop(&f, "veth", "veth", journey.ClassNode, 2_900, node, "v-"+to.name, journey.HookIngress, to, 2)
	d.hop(&f, "iptables INPUT", "iptables", journey.ClassNode, 1_400, to, "", journey.HookDelivered, to, 0)
	f.SendEnd, f.Recv, f.RecvEnd = d.now, d.now, d.now
	return f
}

func class(r journey.Role) journey.Class {
	if r == journey.RoleUnknown {
		return journey.ClassUnknown
	}
	return journey.Class(r)
}

func (d *demo) stamp(f *journey.Flight, h journey.Hook, p pod, ifindex uint32) {
	f.Stamps = append(f.Stamps, journey.Stamp{At: d.now, Hook: h, Netns: p.netns, Ifindex: ifindex})
}

func (d *demo) hop(f *journey.Flight, name, kind string, c journey.Class, ns uint64, p pod, iface string, next journey.Hook, at pod, ifindex uint32) {
	f.Hops = append(f.Hops, journey.Hop{Name: name, Kind: kind, Class: c, From: d.now, To: d.now + ns, Netns: p.netns, Net: p.name, Iface: iface})
	d.now += ns
	d.stamp(f, next, at, ifindex)
}
