package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// relaysOf scores journeys of three requests, of which the first is spoilt, and returns what is said of relays.
func relaysOf(t *testing.T, spoil func(w *world, list js) js) relays {
	t.Helper()
	w := newWorld()
	var list js
	for n := range requests {
		w.serve(n)
		j := w.journey(n)
		for i := range j.Relays {
			j.Relays[i].Method, j.Relays[i].Confidence = journey.MethodPool, 0.5
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

func TestRelays(t *testing.T) {
	for _, c := range []struct {
		name             string
		spoil            func(w *world, list js) js
		proxies, methods joined
		endToEnd         joined
		candidates       map[string]int
		disagree, unseen int
	}{
		{"right", func(_ *world, list js) js { return list }, joined{12, 0, 0}, joined{15, 0, 0}, joined{3, 0, 0}, map[string]int{}, 0, 0},
		{"unjoined by a sidecar", func(_ *world, list js) js {
			a, b := part(list[1], 0, 4), part(list[1], 4, 6)
			a.Relays, b.Relays = list[1].Relays[:3], []journey.Relay{{To: 1, Method: journey.MethodPool, Confidence: 0.5}}
			b.Unjoined, b.Candidates = "ambiguous", 7
			return js{a, b, list[0], list[2], list[3]}
		}, joined{11, 0, 1}, joined{14, 0, 0}, joined{2, 0, 1}, map[string]int{"sidecar out: ambiguous, candidates: 5 to 16": 1}, 0, 0},
		{"two swapped by a sidecar", func(_ *world, list js) js {
			for _, k := range []int{legBackendIn, legBackend} {
				list[1].Exchanges[k], list[2].Exchanges[k] = list[2].Exchanges[k], list[1].Exchanges[k]
			}
			return list
		}, joined{10, 2, 0}, joined{13, 2, 0}, joined{1, 2, 0}, map[string]int{}, 0, 0},
		{"a leg that nobody saw", func(_ *world, list js) js {
			list[1] = part(list[1], 0, 5)
			return list
		}, joined{11, 0, 0}, joined{12, 0, 0}, joined{2, 0, 1}, map[string]int{}, 0, 1},
		{"a connection that the logs give to another", func(_ *world, list js) js {
			list[1].Exchanges[legBackend].Leg.Client.Local = list[2].Exchanges[legBackend].Leg.Client.Local
			return list
		}, joined{11, 0, 0}, joined{14, 0, 0}, joined{2, 1, 0}, map[string]int{}, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := relaysOf(t, c.spoil)
			got := []any{r.proxies(), *in(r.Methods, string(journey.MethodPool)), r.EndToEnd, r.Candidates, r.Disagree, r.Unseen}
			want := []any{c.proxies, c.methods, c.endToEnd, c.candidates, c.disagree, c.unseen}
			if c.name == "a leg that nobody saw" { // part leaves the relays out
				want[1] = joined{10, 0, 0}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("proxies, method, end to end, candidates, disagree, unseen (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTables(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("before\n"+tablesBegin+"\nold\n"+tablesEnd+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &level{Scenario: cleartext, Requests: varied, PerWorker: 16, Connections: 32}
	l.Score.Relays = relaysOf(t, func(_ *world, list js) js { return list })
	if err := writeTables(page, []*level{l}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n", "\nafter\n", "| in flight per worker | 16 |", "| cleartext, no ids, varied, keep-alive | 100 %, 0 % |",
		"| pool, confidence 0.5 | 15 | 0 | 0 | 100 % |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") {
		t.Error("the page still has what was there")
	}
	if err := writeTables(filepath.Join(t.TempDir(), "none.md"), nil); err == nil {
		t.Error("a page that is not there is no error")
	}
}
