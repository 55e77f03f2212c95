package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// relaysOf scores journeys of all requests, spoiled.
func relaysOf(t *testing.T, spoil func(w *world, list js) js) *relayScore {
	t.Helper()
	w := newWorld()
	var list js
	for n := range requests {
		w.serve(n)
		j := w.journey(n)
		for i := range j.Relays {
			j.Relays[i].Method, j.Relays[i].Confidence = journey.MethodRequestID, 1
		}
		list = append(list, j)
	}
	truth, err := readTruth(w.mesh, "run", w.log, true)
	if err != nil {
		t.Fatal(err)
	}
	s := newScorer(truth)
	for _, j := range spoil(w, list) {
		s.journey(j)
	}
	return s.finish().Relays
}

// three requests are scored: the fourth is under way when the load stops.
func TestRelays(t *testing.T) {
	byID := func(n int) map[string]*claimed {
		return map[string]*claimed{"request-id": {Right: n, Confidence: float64(n)}}
	}
	right := func() *relayScore {
		return &relayScore{
			Claimed:  map[string]map[string]*claimed{"gateway": byID(3), "sidecar in": byID(6), "app": byID(3), "sidecar out": byID(3)},
			Unjoined: map[string]map[int]int{}, Apart: map[string]int{}, Exchanges: 18, Paired: 18, Traces: 3, Whole: 3,
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(w *world, list js) js
		want  func(s *relayScore)
	}{
		{"right", func(_ *world, list js) js { return list }, func(*relayScore) {}},
		{"an app's apart, with two candidates", func(_ *world, list js) js {
			a, b := part(list[1], 0, 3), part(list[1], 3, 6)
			a.Relays = list[1].Relays[:2]
			b.Relays = []journey.Relay{{From: 0, To: 1, Method: journey.MethodContent, Confidence: 0.9}, {From: 1, To: 2, Method: journey.MethodRequestID, Confidence: 1}}
			b.Candidates = 2
			return append(js{list[0], list[2], list[3]}, a, b)
		}, func(s *relayScore) {
			s.Claimed["app"] = byID(2)
			s.Claimed["sidecar out"] = map[string]*claimed{"request-id": {Right: 2, Confidence: 2}, "content": {Right: 1, Confidence: 0.9}}
			s.Unjoined["app"] = map[int]int{2: 1}
			s.Apart["app"] = 1
			s.Whole = 2
		}},
		{"apart, as its cause was not recorded whole", func(_ *world, list js) js {
			a, b := part(list[1], 0, 3), part(list[1], 3, 6)
			a.Relays, b.Relays = list[1].Relays[:2], []journey.Relay{{From: 0, To: 1, Method: journey.MethodRequestID, Confidence: 1}, {From: 1, To: 2, Method: journey.MethodRequestID, Confidence: 1}}
			a.Exchanges[legFrontend].Response = nil
			return append(js{list[0], list[2], list[3]}, a, b)
		}, func(s *relayScore) {
			s.Claimed["app"] = byID(2)
			s.Unjoined["app"] = map[int]int{0: 1}
			s.Paired, s.Whole = 17, 2
		}},
		{"another's leg", func(_ *world, list js) js {
			a, b := list[1].Exchanges, list[2].Exchanges
			a[legBackend], b[legBackend] = b[legBackend], a[legBackend]
			return list
		}, func(s *relayScore) {
			s.Claimed["sidecar in"] = map[string]*claimed{"request-id": {Right: 4, Wrong: 2, Confidence: 6}}
			s.Whole = 1
		}},
		{"a leg skipped", func(_ *world, list js) js {
			list[1].Exchanges[legBackendIn].Parent = legFrontendIn
			return list
		}, func(s *relayScore) {
			s.Claimed["sidecar out"] = map[string]*claimed{"request-id": {Right: 2, Wrong: 1, Confidence: 3}}
			s.Whole = 2
		}},
		{"another's response", func(_ *world, list js) js {
			list[1].Exchanges[legBackend].Response.Start = 0
			return list
		}, func(s *relayScore) { s.Paired, s.Whole = 17, 2 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := right()
			c.want(want)
			if diff := cmp.Diff(want, relaysOf(t, c.spoil)); diff != "" {
				t.Errorf("relays (-want +got):\n%s", diff)
			}
		})
	}
}

func TestByCandidates(t *testing.T) {
	if got, want := byCandidates(map[int]int{0: 1, 2: 5, 9: 2, 40: 3}), "0: 1, 2: 5, 8 or more: 5"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
	if got := byCandidates(nil); got != "none" {
		t.Errorf("%q of nothing", got)
	}
}

func TestWriteTable(t *testing.T) {
	rows := []any{&level{Scenario: "no-ids", Kind: keepAlive, Connections: 8, Workers: 2, Score: score{Relays: relaysOf(t, func(_ *world, list js) js { return list })}}, "another's"}
	name := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(name, []byte("before\n"+tableBegins+"old\n"+tableEnds+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeTable(name, rows); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const row = "| no-ids | keep-alive | 4 | 3, 0, 0 | 100.00 % | 100.000 % | 100.00 %, 0 wrong | 100.00 %, 0 wrong | 100.00 %, 0 wrong | 100.00 % | 100.00 % | 100.00 % |\n"
	if text := string(got); !strings.HasPrefix(text, "before\n"+tableBegins+"| scenario") || !strings.HasSuffix(text, row+tableEnds+"after\n") {
		t.Errorf("written: %s", text)
	}
	if _, err := withTable([]byte("nothing"), ""); err == nil {
		t.Error("a page without markers is no error")
	}
}
