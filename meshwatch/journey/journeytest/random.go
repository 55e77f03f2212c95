package journeytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

var (
	roles   = []journey.Role{journey.RoleUnknown, journey.RoleApp, journey.RoleSidecar, journey.RoleGateway}
	classes = []journey.Class{journey.ClassApp, journey.ClassSidecar, journey.ClassGateway, journey.ClassNode, journey.ClassNetwork, journey.ClassUnknown, ""}
	kinds   = []string{"iptables", "veth", "bridge", "loopback", "tunnel", "wire", "socket-wait"}
	methods = []journey.Method{journey.MethodRequestID, journey.MethodResponseID, journey.MethodTrace, journey.MethodGoroutine, journey.MethodThread}
)

// Random is a tree of 1 to exchanges exchanges whose times may contradict each other, overlap or be missing, as losses and
// fan-out make them. The same generator state gives the same journey.
func Random(r *rand.Rand, exchanges int) *journey.Journey {
	j := &journey.Journey{RequestID: fmt.Sprintf("%016x", r.Uint64())}
	for i := range j.TraceID {
		j.TraceID[i] = byte(r.Uint32()) | 1
	}
	for i := range 1 + r.IntN(exchanges) {
		j.Exchanges = append(j.Exchanges, randomExchange(r, j, i))
		if i > 0 && r.IntN(8) > 0 {
			e := j.Exchanges[i]
			j.Relays = append(j.Relays, journey.Relay{From: e.Parent, To: i, Method: methods[r.IntN(3)], Confidence: r.Float64(), Candidates: 1 + r.IntN(4), Pid: e.Leg.Client.Pid, Role: e.Leg.Client.Role})
		}
	}
	return j
}

func randomExchange(r *rand.Rand, j *journey.Journey, i int) *journey.Exchange {
	e := &journey.Exchange{Protocol: "http/1.1", Method: "GET", Target: "/", Host: "h", Status: 200 + 100*r.IntN(4), Parent: -1}
	from, length := uint64(1_000_000), uint64(1_000_000)
	e.Leg.Client = randomEnd(r)
	if i > 0 {
		e.Parent = r.IntN(i)
		p := j.Exchanges[e.Parent]
		from, e.Leg.Client = p.Request.Start, p.Leg.Server
	}
	e.Leg.Server = randomEnd(r)
	e.Request = randomFlight(r, from+r.Uint64N(length/2), r.Uint64N(length/4))
	if i > 0 && r.IntN(3) == 0 {
		f := randomFlight(r, from+r.Uint64N(length/2), r.Uint64N(length/4))
		e.Connect = &f
	}
	if r.IntN(6) > 0 {
		f := randomFlight(r, e.Request.Start+r.Uint64N(length), r.Uint64N(length/4))
		e.Response = &f
	} else if e.Status = 0; r.IntN(2) == 0 {
		e.Error = "reset"
	} else {
		e.Error = "no-response"
	}
	if r.IntN(4) == 0 {
		e.Trace = journey.TraceContext{TraceID: j.TraceID, Sampled: r.IntN(2) == 0, Decided: r.IntN(2) == 0, Format: "traceparent"}
		e.Trace.SpanID[0] = byte(1 + r.IntN(3))
	}
	return e
}

func randomEnd(r *rand.Rand) journey.End {
	n := r.IntN(6)
	e := journey.End{
		Local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), uint16(1024+r.IntN(60000))), //nolint:gosec // a port
		Peer:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}), 80),
		Netns: uint32(n), Pid: r.IntN(1000), Role: roles[r.IntN(len(roles))], Known: r.IntN(6) > 0, //nolint:gosec // small
	}
	if n > 0 {
		e.NetName = fmt.Sprintf("pod%d", n)
	}
	if n > 1 {
		e.Workload = journey.Workload{Name: fmt.Sprintf("w%d", n), Service: fmt.Sprintf("s%d", n)}
	}
	return e
}

func randomFlight(r *rand.Rand, start, length uint64) journey.Flight {
	f := journey.Flight{Serial: r.Uint64(), Start: start, Seq: r.Uint32(), Ack: r.Uint32(), Bytes: r.Uint32N(1 << 20), Retransmits: r.Uint32N(2)}
	at := start
	for range r.IntN(8) {
		f.Stamps = append(f.Stamps, journey.Stamp{At: at, Hook: journey.Hook(1 + r.IntN(7)), Netns: r.Uint32N(5), Ifindex: r.Uint32N(9)}) //nolint:gosec // small
		next := at + r.Uint64N(length/4+1)
		k := kinds[r.IntN(len(kinds))]
		f.Hops = append(f.Hops, journey.Hop{Name: k, Kind: k, Class: classes[r.IntN(len(classes))], From: at, To: next, Netns: r.Uint32N(5), Iface: "eth0"})
		if r.IntN(10) > 0 { // else the next one overlaps
			at = next
		}
	}
	if r.IntN(8) > 0 {
		f.Recv = start + r.Uint64N(length+1)
		f.RecvEnd = f.Recv + r.Uint64N(length+1)
	}
	return f
}
