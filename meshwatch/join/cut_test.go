package join

import "testing"

// Recording stops in the middle of two requests and begins in the middle of one: neither is given out, in whole or in part, and what
// comes after is.
func TestCut(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 100), w.conn(100, 2)
	hop := func(id string) {
		in.ask("/", id)
		out.ask("/", id)
		out.answer(200)
		in.answer(200)
	}
	hop("done")
	in.ask("/open", "open")
	out.ask("/open", "open")
	out.answer(200)
	other := w.conn(3, 100)
	other.ask("/long", "long")
	long := other.begin(1, "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n")
	w.j.Cut(w.now)
	w.now += 50 * ms
	w.j.Cut(w.now)
	in.seq[1] += 1000 // more passed meanwhile
	long.grow(1000)
	other.answer(200) // of a request that nobody saw
	out.ask("/rest", "rest")
	out.answer(200)
	own := w.conn(100, 2) // by its server's own will, and known as such
	own.ask("/own", "")
	own.answer(200)
	hop("next")
	w.now += 200 * ms
	w.j.Tick(w.now)
	out.ask("/orphan", "orphan") // as every request without a cause
	out.answer(200)
	hops := "1-100 / 200; >100-2 / 200 (request-id 1)"
	w.end([]string{hops, hops, "100-2 /own 200; no-id", "100-2 /orphan 200; no-parent"},
		"pair/recording-stopped 3", "pair/response-without-request 1", "relay/no-id 1", "relay/no-parent 1")
}

// Nothing stays behind, however often.
func TestCutKeepsNothing(t *testing.T) {
	w := newWorld(t)
	for range 1000 {
		w.conn(1, 2).ask("/", "x")
		w.j.Cut(w.now)
	}
	if len(w.j.halves)+len(w.j.groups)+len(w.j.holding) > 0 || len(w.j.pages.all) > 2 {
		t.Errorf("%d halves, %d groups, %d pages", len(w.j.halves), len(w.j.groups), len(w.j.pages.all))
	}
	for _, r := range w.lost.Rows() {
		if r.Reason == "recording-stopped" && r.Count != 1000 {
			t.Errorf("counted %d of 1000 requests", r.Count)
		}
	}
}
