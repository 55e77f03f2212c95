package otlp

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
	"github.com/meshwatch/meshwatch/meshwatch/verdict"
)

// golden compares with testdata/name; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", path, diff)
	}
}

func TestDemoSpans(t *testing.T) {
	j := journeytest.Demo()
	j.Verdict = verdict.Judge(j)
	golden(t, "demo.spans", dump(Spans(j, journeytest.Epoch)))
}

// A connection that was opened for an exchange is below its leg, which begins with it, and its hops are below the connection.
func TestConnectSpans(t *testing.T) {
	j := journeytest.LostSYN()
	key := legKey(j.Trace(), j.Exchanges[4])
	byID := map[trace.SpanID]*Span{}
	spans := Spans(j, journeytest.Epoch)
	for k := range spans {
		byID[spans[k].ID] = &spans[k]
	}
	leg, c := byID[legID(key)], byID[connectID(key)]
	if c == nil || c.Parent != leg.ID || c.Name != "connect" || c.Workload != leg.Workload || !c.Start.Equal(leg.Start) || c.End.Sub(c.Start) < time.Second {
		t.Fatalf("connect %+v of leg %+v", c, leg)
	}
	var hops []string
	for _, s := range spans {
		if s.Parent == c.ID {
			hops = append(hops, s.Name)
			if s.Workload != leg.Workload || s.Start.Before(c.Start) || s.End.After(c.End) {
				t.Errorf("%s from %v to %v of %s, the connect from %v to %v of %s", s.Name, s.Start, s.End, s.Workload.Name, c.Start, c.End, c.Workload.Name)
			}
		}
	}
	var want []string
	for _, h := range j.Exchanges[4].Connect.Hops {
		want = append(want, h.Name)
	}
	if diff := cmp.Diff(want, hops); diff != "" {
		t.Errorf("hops (-want +got)\n%s", diff)
	}
	if n := SpanCount(j); len(spans) != n {
		t.Errorf("%d spans, SpanCount said %d", len(spans), n)
	}
}

// dump writes the spans as a tree: depth, service, name, offset and length, ids, attributes.
func dump(spans []Span) string {
	var out strings.Builder
	depth := map[trace.SpanID]int{}
	fmt.Fprintf(&out, "trace %v from %v\n", spans[0].TraceID, spans[0].Start.UTC())
	for _, s := range spans {
		d := 0
		if p, ok := depth[s.Parent]; ok {
			d = p + 1
		}
		depth[s.ID] = d
		pad := strings.Repeat("  ", d)
		fmt.Fprintf(&out, "%s%s: %s  +%v %v  %v\n", pad, s.Workload.Service, s.Name, s.Start.Sub(spans[0].Start), s.End.Sub(s.Start), s.ID)
		for _, kv := range s.Attributes {
			fmt.Fprintf(&out, "%s    %s=%s\n", pad, kv.Key, kv.Value.String())
		}
	}
	return out.String()
}

// Whatever is missing from a journey, its spans form one tree, ids are unique, and the services they are of draw the edges
// that the exchanges are and no others.
func TestOneTree(t *testing.T) {
	for seed := range uint64(5_000) {
		j := journeytest.Random(rand.New(rand.NewPCG(seed, 2)), 10)
		spans := Spans(j, journey.Clock{})
		foreign := map[trace.SpanID]bool{}
		for _, e := range j.Exchanges {
			foreign[e.Trace.SpanID] = true
		}
		service := map[trace.SpanID]string{}
		edges := map[string]bool{}
		for k, s := range spans {
			if _, twice := service[s.ID]; twice {
				t.Fatalf("seed %d: span id %v twice", seed, s.ID)
			}
			service[s.ID] = s.Workload.Service
			from, ours := service[s.Parent]
			switch {
			case s.Foreign && !foreign[s.Parent]:
				t.Fatalf("seed %d: %q under a span that nobody named", seed, s.Name)
			case !s.Foreign && !ours && k > 0:
				t.Fatalf("seed %d: span %d %q has no parent before it", seed, k, s.Name)
			case ours && from != s.Workload.Service:
				edges[from+" -> "+s.Workload.Service] = true
			}
			if s.End.Before(s.Start) {
				t.Fatalf("seed %d: %q ends before it starts", seed, s.Name)
			}
		}
		if diff := cmp.Diff(calls(j), edges); diff != "" {
			t.Fatalf("seed %d: edges (-want +got)\n%s", seed, diff)
		}
		if n := SpanCount(j); len(spans) > n {
			t.Fatalf("seed %d: %d spans, SpanCount said %d", seed, len(spans), n)
		}
	}
}

// calls are the calls between different services whose receiving process was seen.
func calls(j *journey.Journey) map[string]bool {
	name := func(e *journey.End) string {
		if e.Workload.Service != "" {
			return e.Workload.Service
		}
		return e.Name()
	}
	made := map[int]bool{}
	for _, e := range j.Exchanges {
		made[e.Parent] = true
	}
	edges := map[string]bool{}
	for i, e := range j.Exchanges {
		from, to := name(&e.Leg.Client), name(&e.Leg.Server)
		seen := made[i] || e.Leg.Server.Known && e.Request.Recv != 0
		if i > 0 && from == "" {
			from = "unknown_service"
		}
		if to == "" {
			to = "unknown_service"
		}
		if from != "" && from != to && seen {
			edges[from+" -> "+to] = true
		}
	}
	return edges
}

func TestSameIDsEveryTime(t *testing.T) {
	a, b := Spans(journeytest.Demo(), journeytest.Epoch), Spans(journeytest.Demo(), journey.Clock{})
	for k := range a {
		if a[k].ID != b[k].ID || a[k].Parent != b[k].Parent {
			t.Fatalf("span %d: %v under %v, then %v under %v", k, a[k].ID, a[k].Parent, b[k].ID, b[k].Parent)
		}
	}
}

func TestPipelinedInOneSegment(t *testing.T) {
	j := journeytest.Demo()
	j.Exchanges[2].Request.Seq, j.Exchanges[2].Request.Ack = j.Exchanges[1].Request.Seq, j.Exchanges[1].Request.Ack
	seen := map[trace.SpanID]bool{}
	for _, s := range Spans(j, journeytest.Epoch) {
		if seen[s.ID] {
			t.Fatalf("span id %v twice", s.ID)
		}
		seen[s.ID] = true
	}
}

func TestParents(t *testing.T) {
	const sampled, unsampled, undecided = "sampled", "unsampled", "undecided"
	foreign := func(b byte) trace.SpanID { return trace.SpanID{b} }
	for _, tc := range []struct {
		name     string
		contexts map[int]byte // exchange → span id in its head
		decision string
		exchange int // -1 as a wanted parent: none; else the foreign id or, zero, our relay
		parent   trace.SpanID
		link     trace.SpanID
		none     bool
	}{
		{name: "root without context", exchange: 0, none: true},
		{name: "root under the caller's span", contexts: map[int]byte{0: 1}, decision: sampled, exchange: 0, parent: foreign(1)},
		{name: "root, nothing decided", contexts: map[int]byte{0: 1}, decision: undecided, exchange: 0, parent: foreign(1)},
		{name: "root, caller's span not sampled", contexts: map[int]byte{0: 1}, decision: unsampled, exchange: 0, none: true, link: foreign(1)},
		{name: "passed on as it came", contexts: map[int]byte{0: 1, 1: 1}, decision: sampled, exchange: 1},
		{name: "a client span of the process", contexts: map[int]byte{2: 1, 3: 2}, decision: sampled, exchange: 3, parent: foreign(2)},
		{name: "a client span not sampled", contexts: map[int]byte{2: 1, 3: 2}, decision: unsampled, exchange: 3, link: foreign(2)},
		{name: "the process began the trace", contexts: map[int]byte{3: 2}, decision: sampled, exchange: 3, link: foreign(2)},
		{name: "the context was dropped", contexts: map[int]byte{2: 1}, decision: sampled, exchange: 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := journeytest.Demo()
			for i, id := range tc.contexts {
				j.Exchanges[i].Trace = journey.TraceContext{TraceID: j.TraceID, SpanID: [8]byte{id}, Decided: tc.decision != undecided, Sampled: tc.decision == sampled}
			}
			want := tc.parent
			if !want.IsValid() && !tc.none {
				want = relayID(legKey(j.TraceID, j.Exchanges[tc.exchange-1]))
			}
			id := legID(legKey(j.TraceID, j.Exchanges[tc.exchange]))
			for _, s := range Spans(j, journeytest.Epoch) {
				if s.ID == id && (s.Parent != want || s.Link != tc.link || s.Foreign != tc.parent.IsValid()) {
					t.Errorf("parent %v (foreign %v) link %v, want %v link %v", s.Parent, s.Foreign, s.Link, want, tc.link)
				}
			}
		})
	}
}

func TestAnotherTracesContextIsNoParent(t *testing.T) {
	j := journeytest.Demo()
	j.Exchanges[0].Trace = journey.TraceContext{TraceID: [16]byte{9}, SpanID: [8]byte{1}}
	if s := Spans(j, journeytest.Epoch)[0]; s.Parent.IsValid() || s.Link.IsValid() {
		t.Errorf("parent %v, link %v", s.Parent, s.Link)
	}
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*journey.Exchange)
		want   string
	}{
		{"went well", func(*journey.Exchange) {}, ""},
		{"404 is the caller's", func(e *journey.Exchange) { e.Status = 404 }, ""},
		{"5xx", func(e *journey.Exchange) { e.Status, e.Error = 503, "5xx" }, "503"},
		{"reset", func(e *journey.Exchange) { e.Status, e.Error, e.Response = 0, "reset", nil }, "reset"},
		{"no response", func(e *journey.Exchange) { e.Status, e.Response = 0, nil }, "no-response"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := journeytest.Demo()
			tc.change(j.Exchanges[0])
			s := Spans(j, journeytest.Epoch)[0]
			got := ""
			for _, kv := range s.Attributes {
				if kv.Key == "error.type" {
					got = kv.Value.AsString()
				}
			}
			if got != tc.want || s.Error != (tc.want != "") {
				t.Errorf("error.type %q, error %v; want %q", got, s.Error, tc.want)
			}
		})
	}
}

func TestLegNames(t *testing.T) {
	j := journeytest.Demo()
	j.Exchanges[0].Method = "PURGE"
	j.Exchanges[1].Method = ""
	if s := Spans(j, journeytest.Epoch)[0]; s.Name != "HTTP gateway" {
		t.Errorf("got %q", s.Name)
	}
	if n := legName(j.Exchanges[1], journey.Workload{Service: "frontend"}); n != "TCP frontend sidecar" {
		t.Errorf("got %q", n)
	}
	for host, want := range map[string]string{"a:80": "a 80", "a": "a 0", "[::1]:80": "::1 80", "[::1]": "::1 0", "a:x": "a 0", "a:99999": "a 0"} {
		if name, port := hostPort(host); fmt.Sprint(name, " ", port) != want {
			t.Errorf("%s: %s %d, want %s", host, name, port, want)
		}
	}
}

func BenchmarkSpans(b *testing.B) {
	j := journeytest.Demo()
	j.Verdict = verdict.Judge(j)
	b.ReportAllocs()
	var n int
	for b.Loop() {
		n = len(Spans(j, journeytest.Epoch))
	}
	b.ReportMetric(float64(n), "spans")
}
