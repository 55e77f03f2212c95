package main

import (
	"fmt"
	"iter"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
	return &world{mesh: expect(l), logs: map[string][]lab.Access{}}
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

func (w *world) score(t *testing.T, journeys []*journey.Journey) tally {
	t.Helper()
	truth, err := readTruth(w.mesh, "run", func(pod string) iter.Seq2[lab.Access, error] {
		return func(yield func(lab.Access, error) bool) {
			for _, a := range w.logs[pod] {
				if !yield(a, nil) {
					return
				}
			}
		}
	})
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

// The score of right journeys, and what it becomes by one fault each. Request 1 is the one with the fault.
func TestScore(t *testing.T) {
	type js = []*journey.Journey
	one := func(why string) map[string]int { return map[string]int{why: 1} }
	for _, test := range []struct {
		name  string
		spoil func(w *world, list js) js
		want  tally
	}{
		{"right", func(_ *world, list js) js { return list }, tally{Complete: 3}},
		{"any order", func(_ *world, list js) js { return js{list[3], list[1], list[0], list[2]} }, tally{Complete: 3}},
		{"others' journeys", func(w *world, list js) js {
			other := w.journey(7)
			for _, e := range other.Exchanges {
				e.Headers = nil
			}
			return append(list, other)
		}, tally{Complete: 3}},
		{"no head of a leg captured", func(_ *world, list js) js {
			list[1].Exchanges[legBackendIn].Headers = nil
			return list
		}, tally{Complete: 3}},
		{"one hop more", func(_ *world, list js) js {
			f := list[1].Exchanges[legBackendIn].Response
			f.Hops = append(f.Hops[:3:3], append([]journey.Hop{{Name: "retransmission wait", From: f.Hops[3].From, To: f.Hops[3].From}}, f.Hops[3:]...)...)
			return list
		}, tally{Complete: 3}},
		{"swapped leg", func(_ *world, list js) js {
			a, b := list[1].Exchanges, list[2].Exchanges
			a[legBackend], b[legBackend] = b[legBackend], a[legBackend]
			return list
		}, tally{Complete: 1, WrongJoins: 2, WrongRelays: 2, Causes: map[string]int{wrongJoin: 2}, Remarks: []string{wrongJoin, wrongJoin}}},
		{"swapped leg in the middle", func(_ *world, list js) js {
			a, b := list[1].Exchanges, list[2].Exchanges
			a[legFrontendOut], b[legFrontendOut] = b[legFrontendOut], a[legFrontendOut]
			return list
		}, tally{Complete: 1, WrongJoins: 2, WrongRelays: 4, Causes: map[string]int{wrongJoin: 2}, Remarks: []string{wrongJoin, wrongJoin}}},
		{"another's leg too", func(w *world, list js) js {
			list[1].Exchanges = append(list[1].Exchanges, w.journey(2).Exchanges[legBackend])
			return list
		}, tally{Complete: 1, WrongJoins: 1, WrongRelays: 1, Causes: map[string]int{wrongJoin: 2}, Remarks: []string{wrongJoin}}},
		{"swapped leg without a head", func(_ *world, list js) js { // told by the ports alone
			a, b := list[1].Exchanges, list[2].Exchanges
			a[legBackend], b[legBackend] = b[legBackend], a[legBackend]
			a[legBackend].Headers, b[legBackend].Headers = nil, nil
			return list
		}, tally{Complete: 1, WrongJoins: 2, WrongRelays: 2, Causes: map[string]int{wrongJoin: 2}, Remarks: []string{wrongJoin, wrongJoin}}},
		{"port that the logs do not name", func(_ *world, list js) js {
			e := list[1].Exchanges[legFrontend]
			e.Leg.Client.Local = netip.AddrPortFrom(e.Leg.Client.Local.Addr(), 9)
			return list
		}, tally{Complete: 2, WrongJoins: 1, WrongRelays: 2, Causes: one(wrongJoin), Remarks: []string{wrongJoin}}},
		{"leg under the wrong parent", func(_ *world, list js) js {
			list[1].Exchanges[legBackendIn].Parent = legFrontendIn
			return list
		}, tally{Complete: 2, WrongJoins: 1, WrongRelays: 1, Causes: one(wrongJoin), Remarks: []string{wrongJoin}}},
		{"another request's response", func(_ *world, list js) js {
			list[1].Exchanges[legBackend].Response.Start = 0
			return list
		}, tally{Complete: 2, WrongJoins: 1, WrongPairs: 1, Causes: one(wrongJoin), Remarks: []string{wrongJoin}}},
		{"response of a later request", func(_ *world, list js) js {
			list[1].Exchanges[legBackend].Response.Recv = 9000
			return list
		}, tally{Complete: 2, WrongJoins: 1, WrongRelays: 1, Causes: one(wrongJoin), Remarks: []string{wrongJoin}}},
		{"missing hop", func(_ *world, list js) js {
			f := &list[1].Exchanges[legBackendIn].Request
			f.Hops = append(f.Hops[:4:4], f.Hops[5:]...)
			return list
		}, tally{Complete: 2, Causes: one("missing hop: frontend sidecar→backend sidecar, request: iptables FORWARD"), Remarks: []string{missingHop}}},
		{"hop at another place", func(_ *world, list js) js {
			list[1].Exchanges[legEdge].Response.Hops[0].Net = "mw-client"
			return list
		}, tally{Complete: 2, Causes: one("missing hop: client→gateway, response: iptables OUTPUT"), Remarks: []string{missingHop}}},
		{"not read", func(_ *world, list js) js {
			f := list[1].Exchanges[legBackend].Response
			f.Hops, f.Recv = f.Hops[:5], 0
			return list
		}, tally{Complete: 2, Causes: one("missing hop: backend sidecar→backend, response: socket wait, not read"), Remarks: []string{missingHop}}},
		{"missing leg", func(_ *world, list js) js {
			list[1] = part(list[1], 0, legBackend)
			return list
		}, tally{Complete: 2, Causes: one("missing leg: backend sidecar→backend"), Remarks: []string{missingLeg}}},
		{"missing response", func(_ *world, list js) js {
			list[1].Exchanges[legBackend].Response = nil
			list[1].Exchanges[legBackend].Error = "response-not-seen"
			return list
		}, tally{Complete: 2, Causes: one("no response: backend sidecar→backend: response-not-seen"), Remarks: []string{noResponse}}},
		{"wrong status", func(_ *world, list js) js {
			list[1].Exchanges[legBackend].Status = 404
			return list
		}, tally{Complete: 2, Causes: one("status: backend sidecar→backend: 404"), Remarks: []string{badStatus}}},
		{"unjoined", func(_ *world, list js) js {
			a, b := part(list[1], 0, 3), part(list[1], 3, 6)
			b.Unjoined = "ambiguous"
			return append(js{list[0], list[2], list[3]}, b, a)
		}, tally{Complete: 2, Causes: one("unjoined: ambiguous, from frontend→its sidecar"), Unjoined: map[string]int{"ambiguous": 3},
			Remarks: []string{unjoined, missingLeg}}},
		{"duplicate journey", func(w *world, list js) js { return append(list, w.journey(1)) },
			tally{Complete: 2, Causes: one(duplicateJourney)}},
		{"duplicate leg", func(_ *world, list js) js { return append(list, part(list[1], 5, 6)) },
			tally{Complete: 2, Causes: one("duplicate leg: backend sidecar→backend, in a journey of its own too"),
				Unjoined: one("no reason given"), Remarks: []string{unjoined}}},
		{"no journey", func(_ *world, list js) js { return append(list[:1:1], list[2:]...) }, tally{Complete: 2, Causes: one(noJourney)}},
		{"nothing at all", func(*world, js) js { return nil }, tally{Causes: map[string]int{noJourney: 3}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			var list js
			for n := range requests {
				w.serve(n)
				list = append(list, w.journey(n))
			}
			got := w.score(t, test.spoil(w, list))
			test.want.Requests = map[string]int{stateNames[scored]: 3, stateNames[underWay]: 1}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("score (-want +got):\n%s", diff)
			}
		})
	}
}
