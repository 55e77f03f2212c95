package join

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Numbers of goroutines as SendTid has them, see bpf/c/gohttp.h.
const (
	goes      = 1 << 31
	withChild = 1 << 30
)

// by has a message of the connection done by a goroutine, which another one started (0: not known), or by a thread, below 100.
func (c *conn) by(side int, msg string, worker, parent uint32) {
	f, b := c.flight(side, msg)
	f.SendTid = worker
	if worker >= 100 {
		f.SendTid |= goes
	}
	if parent != 0 {
		f.SendTid |= withChild
		f.SendAddr4 = parent
	}
	f.RecvTid = c.reader
	c.w.j.Flight(&f, b)
}

// An app forwards no id. Two requests come to it and two are made by it, in all orders that there are; each is made by the goroutine that
// answers, or by one that this has started.
func TestGoroutine(t *testing.T) {
	for name, children := range map[string]bool{"itself": false, "a child": true} {
		for _, crossed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crossed: %v", name, crossed), func(t *testing.T) {
				w := newWorld(t)
				in := []*conn{w.conn(1, 7), w.conn(1, 7)}
				out := []*conn{w.conn(7, 101), w.conn(7, 101)}
				in[0].by(0, get("/y0", tlsID), 1, 0)
				in[1].by(0, get("/y1", otherID), 1, 0)
				order := []int{0, 1}
				if crossed {
					order = []int{1, 0}
				}
				for _, i := range order {
					caller, parent := uint32(200+i), uint32(1) //nolint:gosec // small
					if children {
						caller, parent = uint32(300+i), caller //nolint:gosec // small
					}
					out[i].by(0, get(fmt.Sprintf("/x%d", i), ""), caller, parent)
				}
				out[0].by(1, ok(200, ""), 1, 0)
				out[1].by(1, ok(200, ""), 1, 0)
				for _, i := range order {
					in[i].by(1, ok(200, ""), uint32(200+i), 0) //nolint:gosec // small
				}
				sure := "1"
				if children {
					sure = "0.99"
				}
				want := []string{"1-7 /y0 200; >7-101 /x0 200 (goroutine " + sure + ")", "1-7 /y1 200; >7-101 /x1 200 (goroutine " + sure + ")"}
				if crossed {
					slices.Reverse(want)
				}
				w.end(want)
			})
		}
	}
}

const otherID = "0b1c2d3e-0000-4000-8000-00000000000b"

// What a goroutine asks is not for a request that it did not serve then.
func TestGoroutineNotFor(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(w *world, in, out *conn)
		want []string
	}{
		"another goroutine": {func(_ *world, in, out *conn) {
			in.by(0, get("/y", tlsID), 1, 0)
			out.by(0, get("/x", ""), 201, 3)
			out.by(1, ok(200, ""), 1, 0)
			in.by(1, ok(200, ""), 200, 0)
		}, []string{"1-7 /y 200", "7-101 /x 200; no-id"}},
		"after its answer": {func(_ *world, in, out *conn) {
			in.by(0, get("/y", tlsID), 1, 0)
			in.by(1, ok(200, ""), 200, 0)
			out.by(0, get("/x", ""), 200, 3)
			out.by(1, ok(200, ""), 1, 0)
		}, []string{"1-7 /y 200", "7-101 /x 200; no-id"}},
		"before it came": {func(_ *world, in, out *conn) {
			in.by(0, get("/y0", tlsID), 1, 0)
			in.by(1, ok(200, ""), 200, 0)
			out.by(0, get("/x", ""), 200, 3)
			in.by(0, get("/y", otherID), 1, 0)
			out.by(1, ok(200, ""), 1, 0)
			in.by(1, ok(200, ""), 200, 0)
		}, []string{"1-7 /y 200", "1-7 /y0 200", "7-101 /x 200; no-id"}},
		"its first byte had come while the one before was served": {func(_ *world, in, out *conn) {
			in.by(0, get("/y0", tlsID), 1, 0)
			in.by(1, ok(200, ""), 200, 0)
			f, b := in.flight(0, get("/y", otherID))
			f.SendTid, f.RecvEndNs = 1, f.RecvNs+10*ms
			in.w.j.Flight(&f, b)
			out.by(0, get("/x", ""), 200, 3)
			out.by(1, ok(200, ""), 1, 0)
			in.w.now += 10 * ms
			in.by(1, ok(200, ""), 200, 0)
		}, []string{"1-7 /y 200", "1-7 /y0 200", "7-101 /x 200; no-id"}},
		"a child of before": {func(_ *world, in, out *conn) {
			in.by(0, get("/y0", tlsID), 1, 0)
			in.by(1, ok(200, ""), 200, 0)
			out.by(0, get("/x0", ""), 300, 200)
			out.by(1, ok(200, ""), 1, 0)
			in.by(0, get("/y", otherID), 1, 0)
			out.by(0, get("/x", ""), 300, 200)
			out.by(1, ok(200, ""), 1, 0)
			in.by(1, ok(200, ""), 200, 0)
		}, []string{"1-7 /y 200", "1-7 /y0 200", "7-101 /x 200; no-id", "7-101 /x0 200; no-id"}},
		"a child that goes on": {func(_ *world, in, out *conn) {
			in.by(0, get("/y", tlsID), 1, 0)
			out.by(0, get("/x", ""), 300, 200)
			in.by(1, ok(200, ""), 200, 0)
			out.by(1, ok(200, ""), 1, 0)
		}, []string{"1-7 /y 200", "7-101 /x 200; no-id"}},
		"the same number in another process": {func(w *world, in, _ *conn) {
			other := w.conn(8, 101)
			in.by(0, get("/y", tlsID), 1, 0)
			z := w.conn(1, 8)
			z.by(0, get("/s", ""), 1, 0)
			other.by(0, get("/x", ""), 200, 3)
			other.by(1, ok(200, ""), 1, 0)
			z.by(1, ok(200, ""), 555, 0)
			in.by(1, ok(200, ""), 200, 0)
		}, []string{"1-7 /y 200", "8-101 /x 200; no-id"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			served := w.conn(1, 7) // so that it is known to serve
			served.ask("/s", "")
			served.answer(200)
			tt.do(w, w.conn(1, 7), w.conn(7, 101))
			w.now += 5000 * ms
			w.j.Tick(w.now)
			w.j.Tick(w.now + 200*ms)
			got := slices.DeleteFunc(slices.Clone(w.out), func(s string) bool { return strings.HasSuffix(s, " /s 200") })
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A request waits for the answer to what it was made for, however long that takes within reason.
func TestGoroutineOfSlowHandler(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 7), w.conn(7, 101)
	in.by(0, get("/y", tlsID), 1, 0)
	out.by(0, get("/x0", ""), 201, 3) // the first one makes the process known
	out.by(1, ok(200, ""), 1, 0)
	slow := w.conn(1, 7)
	slow.by(0, get("/slow", otherID), 1, 0)
	out.by(0, get("/x", ""), 202, 3)
	out.by(1, ok(200, ""), 1, 0)
	for range 50 {
		w.now += 100 * ms
		w.j.Tick(w.now)
	}
	in.by(1, ok(200, ""), 201, 0)
	slow.by(1, ok(200, ""), 202, 0)
	w.end([]string{"1-7 /y 200; >7-101 /x0 200 (goroutine 1)", "1-7 /slow 200; >7-101 /x 200 (goroutine 1)"})
}

// Nobody waits for the answer to what will have none that is seen.
func TestGoroutineOfUnanswered(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 7), w.conn(7, 101)
	in.by(0, get("/y", tlsID), 1, 0)
	out.by(0, get("/x", tlsID), 201, 3)
	out.by(1, ok(200, ""), 1, 0)
	in.close(0)
	in.close(1)
	for range 20 { // a second for what 101 asks
		w.now += 100 * ms
		w.j.Tick(w.now)
	}
	if want := []string{"1-7 /y reset; >7-101 /x 200 (request-id 1)"}; !slices.Equal(w.out, want) {
		t.Errorf("given out: %q, want %q", w.out, want)
	}
}

// What was asked goes on elsewhere with an id of its own: all of it comes under what it was asked for.
func TestGoroutineJoinsGroups(t *testing.T) {
	w := newWorld(t)
	in, out, further := w.conn(1, 7), w.conn(7, 101), w.conn(101, 8)
	in.by(0, get("/y", tlsID), 1, 0)
	out.by(0, get("/x", ""), 200, 3)
	further.by(0, get("/x", otherID), 1, 0)
	further.by(1, ok(200, ""), 201, 0)
	out.by(1, ok(200, "X-Request-ID: "+otherID+"\r\n"), 1, 0)
	in.by(1, ok(200, ""), 200, 0)
	w.end([]string{"1-7 /y 200; >7-101 /x 200 (goroutine 1); >>101-8 /x 200 (response-id 1)"})
}

// Nothing is kept of exchanges that are gone, nor of processes.
func TestWorkersAreForgotten(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 7), w.conn(7, 101)
	in.by(0, get("/y", tlsID), 1, 0)
	out.by(0, get("/x", ""), 300, 200)
	if a := w.j.apps[7]; a == nil || len(a.asks) != 2 || len(a.children) != 1 {
		t.Fatalf("%+v", a)
	}
	for range 200 {
		w.now += 1000 * ms
		w.j.Tick(w.now)
	}
	if len(w.j.apps) != 0 {
		t.Errorf("%+v", w.j.apps[7])
	}
}
