package join

import "testing"

// twoRelays is a sidecar, two connections of its app to it, and two of its own to the same host.
func twoRelays(t *testing.T) (w *world, a, b, out, far *conn) {
	t.Helper()
	w = newWorld(t)
	return w, w.conn(1, 101), w.conn(1, 101), w.conn(101, 102), w.conn(101, 102)
}

// askAlike has both connections of the app ask for the same, and the sidecar hand it on.
func askAlike(a, b, out, far *conn) {
	a.ask("/", "")
	b.ask("/", "")
	out.ask("/", id1)
	far.ask("/", id2)
}

// An app's request has no id; what its sidecar makes of it has one.
func TestFirstLegByContent(t *testing.T) {
	w, a, b, out, far := twoRelays(t)
	a.ask("/a", "")
	b.ask("/b", "")
	far.ask("/b", id2)
	out.ask("/a", id1)
	out.answer(200)
	far.answer(200)
	b.answer(200)
	a.answer(200)
	w.end([]string{"1-101 /b 200; >101-102 /b 200 (content 0.999)", "1-101 /a 200; >101-102 /a 200 (content 0.999)"})
}

// Two that ask for the same at the same time: nothing here tells them apart.
func TestSameContentAtOnceIsNotGuessed(t *testing.T) {
	w, a, b, out, far := twoRelays(t)
	askAlike(a, b, out, far)
	out.answer(200)
	far.answer(200)
	a.answer(200)
	b.answer(200)
	w.end([]string{"101-102 / 200; ambiguous", "101-102 / 200; ambiguous", "1-101 / 200", "1-101 / 200"}, "relay/ambiguous 2")
}

// One of two is decided by when it was answered, and with that the other one.
func TestLeavingOutDecides(t *testing.T) {
	w, a, b, out, far := twoRelays(t)
	askAlike(a, b, out, far)
	far.answer(200)
	b.answer(200) // before out was answered
	out.answer(200)
	a.answer(200)
	w.end([]string{"1-101 / 200; >101-102 / 200 (content 0.999)", "1-101 / 200; >101-102 / 200 (content 0.999)"})
}

// Of two exchanges that only one request can have caused, one has lost its own cause: neither is joined.
func TestContestedIsNotGuessed(t *testing.T) {
	w := newWorld(t)
	a, out, far := w.conn(1, 101), w.conn(101, 102), w.conn(101, 102)
	a.ask("/", "")
	out.ask("/", id1)
	far.ask("/", id2)
	far.answer(200)
	out.answer(200)
	a.answer(200)
	w.end([]string{"101-102 / 200; no-parent", "101-102 / 200; no-parent", "1-101 / 200"}, "relay/no-parent 2")
}

// Groups that were joined go on as one: what carries the id of one of them later is of both.
func TestJoinedGroupsGoOn(t *testing.T) {
	w := newWorld(t)
	app, out, far, late := w.conn(1, 101), w.conn(101, 102), w.conn(102, 3), w.conn(3, 4)
	app.ask("/x", "")
	out.ask("/x", id1)
	far.ask("/x", id1)
	late.ask("/late", id1)
	for _, c := range []*conn{late, far, out, app} {
		c.answer(200)
	}
	w.end([]string{"1-101 /x 200; >101-102 /x 200 (content 0.999); >>102-3 /x 200 (request-id 1); >>>3-4 /late 200 (request-id 1)"})
}

// What came late to us may still be the cause of what was answered before it came: neither is guessed.
func TestLateCauseIsWeighed(t *testing.T) {
	w, a, b, out, far := twoRelays(t)
	a.ask("/", "")
	late, text := b.flight(0, get("/", ""))
	out.ask("/", id1)
	out.answer(200)
	w.j.Flight(&late, text)
	far.ask("/", id2)
	far.answer(200)
	a.answer(200)
	b.answer(200)
	w.end([]string{"101-102 / 200; ambiguous", "101-102 / 200; ambiguous", "1-101 / 200", "1-101 / 200"}, "relay/ambiguous 2")
}
