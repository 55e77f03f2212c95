package join

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"
)

// simScore is what became of a simulated proxy's requests without ids.
type simScore struct{ right, wrong, apart int }

func (s simScore) claimed() float64 {
	return float64(s.right) / float64(max(s.right+s.wrong+s.apart, 1))
}

func playSim(t *testing.T, seed uint64, o simOptions) (score simScore) {
	t.Helper()
	w := newWorld(t)
	s := newProxySim(w, seed, o)
	w.j.emit = func(tree *Tree) {
		for _, x := range tree.Exchanges {
			n, ours := s.truth[x.Req.Flight.Id]
			switch {
			case !ours || x.ClientPid() != simProxy || x.hasID:
			case x.Parent < 0:
				score.apart++
			case s.truth[tree.Exchanges[x.Parent].Req.Flight.Id] != n:
				score.wrong++
			default:
				score.right++
			}
		}
	}
	s.play(w.j, w.j.Tick)
	w.j.Close()
	if n := len(w.j.groups) + len(w.j.traces) + len(w.j.quiet); n != 0 {
		t.Errorf("%d groups left in memory", n)
	}
	for pid, p := range w.j.processes {
		if len(p.in.list)+len(p.out.list) != 0 {
			t.Errorf("process %d: %d and %d exchanges left in memory", pid, len(p.in.list), len(p.out.list))
		}
	}
	return score
}

// A proxy whose every order is random: nothing is joined wrongly, however much is under way, and nearly nothing where one flight in 100 is missed.
func TestAssignmentIsNotWrong(t *testing.T) {
	for seed := range uint64(1) {
		for _, clients := range []int{1, 4, 16, 64, 256, 1000} {
			for _, targets := range []int{1, 1000} {
				for _, withID := range []float64{0, 0.5} {
					o := simOptions{clients: clients, workers: 2, requests: 1500, withID: withID, targets: targets, service: 300_000}
					t.Run(fmt.Sprintf("%d clients, %d targets, %v with ids, seed %d", clients, targets, withID, seed), func(t *testing.T) {
						t.Parallel()
						score := playSim(t, seed, o)
						if score.wrong > 0 || score.right+score.apart == 0 {
							t.Errorf("%+v: nothing may be wrong", score)
						}
						if least := leastClaimed(o); score.claimed() < least {
							t.Errorf("%+v: %.3f are claimed, not %.3f", score, score.claimed(), least)
						}
						o.lost = 0.01
						score = playSim(t, seed, o)
						if claims := score.right + score.wrong; score.wrong*1000 > 2*claims {
							t.Errorf("%+v: more than 0.2 %% of the claims are wrong where flights are missed", score)
						}
					})
				}
			}
		}
	}
}

// leastClaimed is the share that can be proven at least.
func leastClaimed(o simOptions) float64 {
	switch {
	case o.clients <= 2, o.targets > 1 && o.clients <= 64:
		return 0.99
	case o.targets > 1 && o.withID > 0:
		return 0.7 // 1,500 requests by 1,000 clients: most before anything is known of the proxy
	}
	return 0
}

// How many exchanges a process has is bounded, and what is forced out is counted.
func TestTimelineIsBounded(t *testing.T) {
	var l timeline
	forced := 0
	for i := range 3 * maxListed {
		if l.add(uint64(i), &Exchange{}) {
			forced++
		}
	}
	if forced != 2*maxListed || len(l.list)-l.gone > maxListed || cap(l.list) > 4*maxListed {
		t.Errorf("%d forced out, %d there, room for %d", forced, len(l.list)-l.gone, cap(l.list))
	}
	h := turns{}
	for i := range uint64(3 * maxTurned) {
		h.note(7, 2*i, i&1)
	}
	if n := len(h[7].at); n > maxTurned {
		t.Errorf("%d reads and writes of a thread are remembered", n)
	}
	for tid := range uint32(3 * maxThreads) {
		h.note(tid, 1, 0)
	}
	if len(h) > maxThreads {
		t.Errorf("%d threads are remembered", len(h))
	}
}

// What comes out of order is found in order, and what goes leaves nothing.
func TestTimeline(t *testing.T) {
	var l timeline
	xs := map[uint64]*Exchange{}
	for _, at := range []uint64{5, 3, 9, 7, 7, 1, 8} {
		x := &Exchange{since: at}
		xs[at] = x
		l.add(at, x)
	}
	for i := 1; i < len(l.list); i++ {
		if l.list[i].at < l.list[i-1].at {
			t.Fatalf("%v is not in order", l.list)
		}
	}
	if e := l.list[l.from(6)]; e.at != 7 {
		t.Errorf("the first from 6 on is %d", e.at)
	}
	for _, e := range append([]entry(nil), l.list...) {
		l.remove(e.at, e.x)
	}
	if len(l.list) != 0 || l.gone != 0 {
		t.Errorf("%v is left", l.list)
	}
}

// A worker's turns: it reads 10 and 20, reads 30, writes 31 and 32 of the first two, and 40 of the third.
func TestTurns(t *testing.T) {
	h := turns{}
	for _, e := range [][2]uint64{{10, 0}, {20, 0}, {30, wrote}, {32, wrote}, {50, 0}, {60, wrote}, {70, 0}, {80, wrote}} {
		h.note(1, e[0], e[1])
	}
	for _, c := range []struct{ written, since uint64 }{{30, 0}, {60, 0}, {80, 33}} {
		if got := h.since(1, c.written); got != c.since {
			t.Errorf("what was written at %d was read since %d, not %d", c.written, got, c.since)
		}
	}
	for _, c := range []struct{ read, until uint64 }{{10, 70}, {50, 1<<64 - 1}} {
		if got := h.until(1, c.read); got != c.until {
			t.Errorf("what was read at %d is written until %d, not %d", c.read, got, c.until)
		}
	}
}

// thread makes a message that a thread wrote, and one that one read.
func (c *conn) thread(side int, msg string, sender, reader uint32) {
	f, b := c.flight(side, msg)
	f.SendTid, f.RecvTid = sender, reader
	c.w.j.Flight(&f, b)
}

// An app with a thread for each request: what the thread asks is for what it had been asked. One that shares its threads may do anything.
func TestThreadPerRequest(t *testing.T) {
	for _, shared := range []bool{false, true} {
		w := newWorld(t)
		a, b := w.conn(1, 2), w.conn(1, 2)
		for range provenApp {
			a.thread(0, get("/", ""), 9, 21)
			a.thread(1, ok(200, ""), 21, 9)
		}
		second := uint32(22)
		if shared {
			second = 21
		}
		w.j.Tick(w.now + uint64(5*time.Second))
		w.now += uint64(5 * time.Second)
		w.out = nil
		out, other := w.conn(2, 3), w.conn(2, 3)
		a.thread(0, get("/a", ""), 9, 21)
		b.thread(0, get("/b", ""), 9, second)
		out.thread(0, get("/for-b", ""), second, 31)
		other.thread(0, get("/for-a", ""), 21, 31)
		out.thread(1, ok(200, ""), 31, second)
		other.thread(1, ok(200, ""), 31, 21)
		b.thread(1, ok(200, ""), second, 9)
		a.thread(1, ok(200, ""), 21, 9)
		want := []string{"1-2 /b 200; >2-3 /for-b 200 (thread 0.9995)", "1-2 /a 200; >2-3 /for-a 200 (thread 0.9995)"}
		var losses []string
		if shared {
			want = []string{"2-3 /for-b 200; ambiguous", "2-3 /for-a 200; ambiguous", "1-2 /b 200", "1-2 /a 200"}
			losses = []string{"relay/ambiguous 2"}
		}
		w.endSorted(want, losses...)
	}
}

// endSorted is end for trees in any order.
func (w *world) endSorted(want []string, losses ...string) {
	w.t.Helper()
	w.j.Tick(w.now + uint64(3*time.Second))
	w.j.Tick(w.now + uint64(6*time.Second))
	slices.Sort(w.out)
	slices.Sort(want)
	w.end(want, losses...)
}

// BenchmarkRelate is what a flight costs of a CPU with 1,000 requests under way, of which half have no id: all of joining.
func BenchmarkRelate(b *testing.B) {
	for _, targets := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d-targets", targets), func(b *testing.B) {
			w := newWorld(b)
			s := newProxySim(w, 1, simOptions{clients: 1000, workers: 2, requests: 20_000, withID: 0.5, targets: targets, service: 30_000_000})
			s.sort()
			var used time.Duration
			for b.Loop() {
				w := newWorld(b)
				w.j.emit = func(*Tree) {}
				before := cpuTime(b)
				s.play(w.j, w.j.Tick)
				used += cpuTime(b) - before
			}
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N*len(s.flights)), "cpu-ns/flight")
		})
	}
}

// cpuTime is this process's so far: others may use the machine.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
