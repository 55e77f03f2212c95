package join

import (
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/test/cputime"
)

// BenchmarkRelate is what all of joining costs a flight, with 1,000 requests in flight at a sidecar of two workers that carry no id:
// identical ones of a proxy whose habit is known, and of one of which nothing is known; and such that each ask for another target.
// relate-ns is what of it goes by without a proxy: heads are read, requests paired with responses, and nothing is looked for.
func BenchmarkRelate(b *testing.B) {
	proven := record{right: 1000}
	for _, c := range []struct {
		name   string
		habit  habit
		varied bool
		prep   func(*Joiner)
	}{
		{"identical", takesLast, false, known(func(p *process) { p.pool = proven })},
		{"identical-unknown", takesAnyFree, false, nil},
		{"varied", takesAnyFree, true, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := newSimulation(1, c.habit, 2, 500, 50_000)
			s.varied = c.varied
			s.run()
			b.ReportAllocs()
			flights, relays := 0, uint64(0)
			var with, without time.Duration
			for b.Loop() {
				n, took := s.bench(b, true, c.prep)
				_, base := s.bench(b, false, nil)
				relays, with, without = relays+n, with+took, without+base
				flights += len(s.flights) / 2
			}
			b.ReportMetric(float64(with)/float64(flights), "cpu-ns/flight") // others may use the CPUs
			b.ReportMetric(float64(with-without)/float64(flights), "relate-ns/flight")
			b.ReportMetric(100*float64(relays)/float64(flights/4), "%joined")
		})
	}
}

// bench joins all, and says how many relays there were in the second half of it, when memory has been allocated, and what CPU time that took.
func (s *simulation) bench(b *testing.B, proxy bool, prep func(*Joiner)) (relays uint64, took time.Duration) {
	cfg := DefaultConfig(head.New(head.Config{}))
	cfg.SelfID, cfg.Proxy = 1<<31, func(pid uint32) bool { return proxy && pid == simProxy }
	j := New(cfg, &loss.Set{}, func(*Tree) {})
	j.now = s.flights[s.order[0]].f.StartNs
	if prep != nil {
		prep(j)
	}
	var began time.Duration
	s.replay(j, func() { relays, began = j.Stats.Relays, cputime.Used(b) })
	return j.Stats.Relays - relays, cputime.Used(b) - began
}

// The index is bounded: what comes when it is full is counted, and joined by ids only.
func TestIndexIsBounded(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 101)
	f, text := c.flight(0, get("/", ""))
	x := &Exchange{Req: &Message{Flight: &bpf.Flight{}, RecvPid: 101}}
	places := make([]place, mostPlaces+1)
	for i := range places {
		if got, want := w.j.shelves.put(&places[i], x, 101, false), i < mostPlaces; got != want {
			t.Fatalf("place %d: put says %t", i, got)
		}
	}
	w.j.Flight(&f, text)
	if n := w.j.lost.indexFull; n == nil {
		t.Fatal("nothing counts what has no place")
	}
	rows := map[string]uint64{}
	for _, r := range w.lost.Rows() {
		rows[r.Reason] = r.Count
	}
	if rows["index-full"] != 1 {
		t.Errorf("index-full is %d, want 1", rows["index-full"])
	}
	for i := range places {
		w.j.shelves.drop(&places[i])
	}
	if w.j.shelves.n != 0 || len(w.j.shelves.all) != 0 {
		t.Errorf("%d places and %d shelves are left", w.j.shelves.n, len(w.j.shelves.all))
	}
}

// A worker whose events nobody looks at keeps a bounded number.
func TestWorkerIsBounded(t *testing.T) {
	w := newWorld(t)
	for i := range uint64(mostEvents + 1) {
		w.j.note(eventAsked, &Exchange{}, 101, 101, 1+i)
	}
	if n := len(w.j.workers[workerKey{101, 101}].events); n > mostEvents {
		t.Errorf("%d events are kept", n)
	}
	for _, r := range w.lost.Rows() {
		if r.Reason == "worker-too-busy" && r.Count != 1 {
			t.Errorf("worker-too-busy is %d, want 1", r.Count)
		}
	}
}
