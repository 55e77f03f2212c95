package main

import (
	"fmt"
	"iter"
	"net/netip"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/lab"
)

// world is a mesh, its logs and journeys that only exist in a test.
type world struct {
	mesh *mesh
	logs map[string][]lab.Access
}

func newWorld() *world {
	ip := netip.MustParseAddr
	pod := func(i int, name string, role lab.Role) lab.Pod {
		return lab.Pod{Name: name, Netns: "mw-" + name, Role: role, V4: ip(fmt.Sprintf("10.1.2.%d", i+2))}
	}
	l := &lab.Lab{ID: "0102", List: []lab.Pod{
		pod(0, "client", lab.RoleClient), pod(1, "gateway", lab.RoleGateway), pod(2, "frontend", lab.RoleApp), pod(3, "backend", lab.RoleApp),
	}}
	return &world{mesh: expect(l, meshwatch.DepthFull), logs: map[string][]lab.Access{}}
}

func id(n int) string { return fmt.Sprintf("run-1-%d", n) }

// port is that of the client of a request's leg. Requests share no connection, but for the first leg.
func port(n, leg int) uint16 {
	if leg == legEdge {
		return 1000
	}
	return uint16(10000 + 10*n + leg)
}

func (w *world) addr(n, leg int) lab.AddrPort {
	return lab.AddrPort{AddrPort: netip.AddrPortFrom(w.mesh.legs[leg].from, port(n, leg))}
}

// serve logs a request as the proxies would.
func (w *world) serve(n int) {
	for _, e := range []struct {
		pod, listener string
		in, out       int
	}{
		{"gateway", "gateway", legEdge, legFrontendIn}, {"frontend", "inbound", legFrontendIn, legFrontend},
		{"frontend", "outbound", legFrontendOut, legBackendIn}, {"backend", "inbound", legBackendIn, legBackend},
	} {
		w.logs[e.pod] = append(w.logs[e.pod], lab.Access{
			Pod: e.pod, Listener: e.listener, TruthID: id(n), Code: 200, Flags: "--", DownstreamRemote: w.addr(n, e.in), UpstreamLocal: w.addr(n, e.out),
		})
	}
}

func (w *world) flight(l *leg, at uint64, response bool) journey.Flight {
	where := []string{l.client, w.mesh.node, l.server}
	if response {
		where[0], where[2] = l.server, l.client
	}
	f := journey.Flight{Start: at, Stamps: make([]journey.Stamp, len(l.hops))}
	for _, h := range l.hops {
		f.Hops = append(f.Hops, journey.Hop{Name: h.name, Net: where[h.at], From: at, To: at + 1})
		at++
	}
	f.Recv = at
	return f
}

// journey is a right and complete one.
func (w *world) journey(n int) *journey.Journey {
	j := &journey.Journey{}
	for k := range legCount {
		l := &w.mesh.legs[k]
		response := w.flight(l, uint64(5000-100*k), true)
		e := &journey.Exchange{
			Status: 200, Headers: map[string]string{truthHeader: id(n)}, Parent: k - 1,
			Request: w.flight(l, uint64(1000+100*k), false), Response: &response,
		}
		e.Leg.Client.Local, e.Leg.Client.Peer = w.addr(n, k).AddrPort, l.to
		j.Exchanges = append(j.Exchanges, e)
		if k > 0 {
			j.Relays = append(j.Relays, journey.Relay{From: k - 1, To: k})
		}
	}
	return j
}

// part is a journey of some of the exchanges, the first of which is the root.
func part(j *journey.Journey, from, to int) *journey.Journey {
	out := &journey.Journey{}
	for k := from; k < to; k++ {
		e := *j.Exchanges[k]
		e.Parent -= from
		if k == from {
			e.Parent = -1
		}
		out.Exchanges = append(out.Exchanges, &e)
	}
	return out
}

const requests = 4 // of every test; the last is under way when the load stops

// tally is what a test looks at.
type tally struct {
	Complete, WrongJoins, WrongRelays, WrongPairs int
	Causes, Unjoined, Requests                    map[string]int
	Remarks                                       []string // of journeys with a fault
}

// log is what a pod's proxy logged.
func (w *world) log(pod string) iter.Seq2[lab.Access, error] {
	return func(yield func(lab.Access, error) bool) {
		for _, a := range w.logs[pod] {
			if !yield(a, nil) {
				return
			}
		}
	}
}

func (w *world) score(t *testing.T, journeys []*journey.Journey) tally {
	t.Helper()
	truth, err := readTruth(w.mesh, "run", w.log, true)
	if err != nil {
		t.Fatal(err)
	}
	s := newScorer(truth)
	var got tally
	for _, j := range journeys {
		if why := s.journey(j); why != "" {
			got.Remarks = append(got.Remarks, why)
		}
	}
	sc := s.finish()
	if sc.Scored != sc.Complete+sum(sc.Incomplete) || sum(sc.Causes) != sum(sc.Incomplete) {
		t.Errorf("%+v: scored is not complete + incomplete by cause", sc)
	}
	got.Complete, got.WrongJoins, got.WrongRelays, got.WrongPairs = sc.Complete, sc.WrongJoins, sc.WrongRelays, sc.WrongPairs
	got.Causes, got.Unjoined, got.Requests = sc.Causes, sc.Unjoined, sc.Requests
	return got
}
