package verdict

import "github.com/meshwatch/meshwatch/meshwatch/journey"

// Part says which stretch of an exchange a row is about.
type Part uint8

// The parts of an exchange, in the order of time.
const (
	Connect    Part = iota // a hop of the SYN, where a connection was opened for the exchange
	Request                // a hop of the request flight
	Processing             // the server process: from request read to response sent, without its own outgoing exchanges
	Response               // a hop of the response flight
)

// String is the part's name in tables and attributes.
func (p Part) String() string { return [...]string{"connect", "request", "processing", "response"}[p] }

// piece is a row without its words: 24 bytes, so that a usual journey's pieces fit on the stack.
type piece struct {
	own      uint64 // ns
	exchange int32
	hop      int32 // index in the flight's Hops; 0 for Processing
	part     Part
	class    class
}

// node links the exchanges of a journey as a tree; 0 ends a list, as the root is nobody's child.
type node struct {
	child, next int32
	first       int32 // index of the exchange's first piece
	done        bool
	connected   bool // the same for its connect
}

// walk cuts a journey's duration into pieces. Each exchange owns a window of time and divides it among request, processing
// and response; processing divides its own among the child exchanges and the connections opened for them. So no instant is
// counted twice, however contradictory the times are.
type walk struct {
	j      *journey.Journey
	tree   []node  // zeroed, one per exchange
	pieces []piece // zeroed, see count; in the order of exchanges, then of parts
}

// count is how many pieces a journey has.
func count(j *journey.Journey) (n int) {
	for _, e := range j.Exchanges {
		n += stretches(e)
	}
	return n
}

func stretches(e *journey.Exchange) int {
	n := connects(e) + len(e.Request.Hops) + 1
	if e.Response != nil {
		n += len(e.Response.Hops)
	}
	return n
}

// connects is how many hops its connect has.
func connects(e *journey.Exchange) int {
	if e.Connect == nil {
		return 0
	}
	return len(e.Connect.Hops)
}

func (w *walk) run() {
	if len(w.j.Exchanges) == 0 {
		return
	}
	first := int32(0)
	for i, e := range w.j.Exchanges {
		w.tree[i].first = first
		for k := range stretches(e) {
			w.pieces[int(first)+k].exchange = int32(i) //nolint:gosec // far below 2^31
		}
		first += int32(stretches(e)) //nolint:gosec // far below 2^31
	}
	for i := len(w.j.Exchanges) - 1; i > 0; i-- { // backwards: lists come out in order
		if p := w.j.Exchanges[i].Parent; p >= 0 && p < i {
			w.tree[i].next, w.tree[p].child = w.tree[p].child, int32(i) //nolint:gosec // far below 2^31
		}
	}
	for i, e := range w.j.Exchanges[1:] {
		if e.Parent < 0 || e.Parent > i { // not in the tree: its rows stay, without time of their own
			w.exchange(int32(i+1), 0, 0) //nolint:gosec // far below 2^31
		}
	}
	root := w.j.Exchanges[0]
	w.exchange(0, root.Request.Start, max(root.End(), root.Request.Start))
}

// exchange divides the window [from, to] of exchange i.
func (w *walk) exchange(i int32, from, to uint64) {
	e := w.j.Exchanges[i]
	read, sent := clamp(arrival(&e.Request), from, to), to
	if e.Response != nil {
		sent = clamp(e.Response.Start, read, to)
	}
	w.connect(i, from, from) // no time, but a class, if nobody waited for it
	out := w.pieces[int(w.tree[i].first)+connects(e):]
	flight(out, Request, &e.Request, from, read)
	p := &out[len(e.Request.Hops)]
	p.part, p.class = Processing, serverClass(e)
	p.own = w.children(i, read, sent)
	if e.Response != nil {
		flight(out[len(e.Request.Hops)+1:], Response, e.Response, sent, to)
	}
}

// connect gives [from, to] to the hops of the connection opened for exchange i.
func (w *walk) connect(i int32, from, to uint64) {
	if e := w.j.Exchanges[i]; e.Connect != nil {
		flight(w.pieces[w.tree[i].first:], Connect, e.Connect, from, to)
	}
}

// flight gives each hop what of [from, to] it covers and no earlier hop did.
func flight(out []piece, part Part, f *journey.Flight, from, to uint64) {
	for k := range f.Hops {
		h, p := &f.Hops[k], &out[k]
		p.part, p.hop, p.class = part, int32(k), classOf(h.Class) //nolint:gosec // a record holds few hops
		if a, b := max(h.From, from), min(h.To, to); a < b {
			p.own, from = b-a, b
		}
	}
}

// children gives [from, to] to the exchanges that exchange i made and to the connections opened for them, and returns what
// is left for its process. It goes backwards from the end and always follows what finishes last before the cursor: the
// critical path.
func (w *walk) children(i int32, from, to uint64) (own uint64) {
	cursor := to
	for {
		c, part, end := w.last(i, cursor, to)
		if c == 0 {
			break
		}
		end = clamp(end, from, cursor)
		own += cursor - end
		if part == Connect {
			w.tree[c].connected = true
			cursor = clamp(w.j.Exchanges[c].Connect.Start, from, end)
			w.connect(c, cursor, end)
			continue
		}
		w.tree[c].done = true
		cursor = clamp(w.j.Exchanges[c].Request.Start, from, end)
		w.exchange(c, cursor, end)
	}
	for c := w.tree[i].child; c != 0; c = w.tree[c].next { // began when nobody waited for them: no time of their own
		if !w.tree[c].done {
			w.exchange(c, cursor, cursor)
		}
	}
	return own + cursor - from
}

// last finds the child of i that began before the cursor and ends last, or its connect. Zero: none.
func (w *walk) last(i int32, cursor, to uint64) (child int32, part Part, end uint64) {
	for c := w.tree[i].child; c != 0; c = w.tree[c].next {
		e := w.j.Exchanges[c]
		if !w.tree[c].done && e.Request.Start < cursor {
			if at := w.over(c, e, to); child == 0 || at > end {
				child, part, end = c, Request, at
			}
		}
		if e.Connect != nil && !w.tree[c].connected && e.Connect.Start < cursor {
			if at := arrival(e.Connect); child == 0 || at > end {
				child, part, end = c, Connect, at
			}
		}
	}
	return child, part, end
}

// over is when the caller no longer waited for exchange c. One that never got a response ends where the caller tried the
// same again, else with the caller's own processing.
func (w *walk) over(c int32, e *journey.Exchange, to uint64) uint64 {
	if e.Response != nil || e.Error == "reset" {
		return e.End()
	}
	end := max(to, e.End())
	for s := w.tree[e.Parent].child; s != 0; s = w.tree[s].next {
		r := w.j.Exchanges[s]
		if s != c && r.Request.Start > e.Request.Start && r.Method == e.Method && r.Target == e.Target && r.Host == e.Host {
			if end = min(end, r.Request.Start); r.Began() > e.Request.Start {
				end = min(end, r.Began())
			}
		}
	}
	return end
}

// arrival is when the receiving process had the message; where its socket was not seen, the last place that was.
func arrival(f *journey.Flight) uint64 {
	if f.Recv != 0 {
		return f.Recv
	}
	at := f.Start
	if n := len(f.Stamps); n > 0 {
		at = max(at, f.Stamps[n-1].At)
	}
	if n := len(f.Hops); n > 0 {
		at = max(at, f.Hops[n-1].To)
	}
	return at
}

func clamp(v, low, high uint64) uint64 { return min(max(v, low), high) }
