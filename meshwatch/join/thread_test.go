package join

import (
	"slices"
	"testing"
	"time"
)

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
