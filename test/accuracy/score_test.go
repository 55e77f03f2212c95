package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

type js = []*journey.Journey

// scoreCase spoils what were right journeys: request 1's, mostly.
type scoreCase struct {
	name  string
	spoil func(w *world, list js) js
	want  tally
}

func one(why string) map[string]int { return map[string]int{why: 1} }

// rightCases are those in which request 1 is complete.
func rightCases() []scoreCase {
	return []scoreCase{
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
	}
}

// wrongCases join what does not belong together.
func wrongCases() []scoreCase {
	return []scoreCase{
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
	}
}

// incompleteCases lack something, or have it twice.
func incompleteCases() []scoreCase {
	return []scoreCase{
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
	}
}

func TestScore(t *testing.T) {
	for _, test := range slices.Concat(rightCases(), wrongCases(), incompleteCases()) {
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
