package join

import (
	"slices"
	"time"
)

// pool is a worker's connections to one upstream host. Envoy takes the one that became free last (a stack for each worker and host). Where
// none is free a request waits, for whichever is next: one that is opened, or becomes free; who has waited longest goes first. So if
// everything that a worker reads is known, then which connection each request is handed on by.
type pool struct {
	idle    []*Leg  // that the model knows; the last is taken first
	waiting []guess // requests that go on by whichever connection is next, in the order in which they were read
	unknown int     // requests that were handed on by connections which the model does not know
	latest  guess   // of these
	opening []opening
	mixed   bool   // among what waits are some that may have had a free connection: they are handed on in whatever order
	chosen  bool   // one of several was taken out of what waits, and is not the one, maybe: so are the others not
	streak  uint32 // connections in a row that were foretold
	broken  uint64 // ns: when the model last failed
}

// opening is a connection that was begun, and on which no request was seen yet.
type opening struct {
	leg *Leg
	at  uint64 // ns
}

// classKey is what decides where a proxy sends a request: the address that its client meant, and the host.
type classKey struct {
	addr [16]byte
	port uint16
	host uint64
}

// class is the requests of one key: they go to one pool, or it is not known to which.
type class struct {
	pool  *pool
	multi bool

	queue []ref  // what was read, and neither handed on nor given a connection that was opened for it
	moved uint64 // ns: when it was last set right, see skip
}

// poolKey is an upstream host.
type poolKey struct {
	addr [16]byte
	port uint16
}

// upstream is what a pool knows of one of its connections.
type upstream struct {
	next   guess // the request that it will hand on
	taken  bool
	known  bool   // it is in pool.idle
	freed  uint64 // ns: since when, about
	placed uint64 // ns: until then it became free, which was not seen; 0: it was
	used   bool   // a request was seen on it

	opened  guess // the request that it was opened for, until one is seen on it
	certain bool  // it was, as far as is known

	streams streams
}

// forget leaves what no model has to do with.
func (u *upstream) forget() {
	*u = upstream{used: u.used, opened: u.opened, certain: u.certain, streams: u.streams}
}

func (w *worker) class(y *Exchange) *class {
	f := y.Req.Flight
	key := classKey{f.SendPaddr, f.SendPeer, y.host}
	c := w.classes[key]
	if c == nil {
		c = &class{}
		w.classes[key] = c
	}
	y.class = c
	return c
}

func (w *worker) poolOf(x *Exchange) *pool {
	f := x.Req.Flight
	return w.poolAt(poolKey{f.SendPaddr, f.SendPeer})
}

func (w *worker) poolAt(key poolKey) *pool {
	p := w.pools[key]
	if p == nil {
		p = &pool{}
		w.pools[key] = p
	}
	return p
}

// asked has the model take a connection for a request.
func (c *class) asked(y *Exchange, late bool) {
	p := c.pool
	if p == nil || c.multi {
		return
	}
	if late {
		p.fail(y.Req.RecvNs)
		return
	}
	if p.settle(y.Req.RecvNs); len(p.waiting) > 0 || len(p.opening) > 0 {
		p.mixed = p.mixed || len(p.idle) > 0
		p.wait(guess{ref: refTo(y), waited: true})
		return
	}
	for len(p.idle) > 0 {
		n := len(p.idle) - 1
		l := p.idle[n]
		p.idle = p.idle[:n]
		l.up.known = false
		if l.endedBy(y.Req.RecvNs) {
			continue
		}
		l.take(guess{ref: refTo(y), choice: n > 0, shaky: p.unknown > 0 || n > 0 && (l.mayBeBelow(p.idle[n-1]) || p.idle[n-1].mayBeBelow(l))})
		return
	}
	y.unknown, p.latest = true, guess{ref: refTo(y)}
	p.unknown++
}

// wait has a request take whichever connection is next: one is being opened, or was and is free by now, which nobody sees.
func (p *pool) wait(g guess) {
	if len(p.waiting) == mostWaiting {
		p.fail(g.y.Req.RecvNs)
		return
	}
	g.y.waits = true
	p.waiting = append(p.waiting, g)
}

// settle puts connections that were opened long ago, and not used, where they stand among those that are free.
func (p *pool) settle(now uint64) {
	p.place(now, func(o opening) (usable uint64, ok bool) { return o.at + openingTakes, o.at+openingTakes < now })
}

// mayBeBelow says whether nobody knows which of two free connections is taken first: when l became free was not seen.
func (l *Leg) mayBeBelow(other *Leg) bool { return l.up.placed != 0 && other.up.freed <= l.up.placed }

// passedOver puts those among the free ones that could be used before a request was read, which took another one: they stand below that.
func (p *pool) passedOver(y *Exchange) {
	p.place(y.Req.RecvNs, func(o opening) (usable uint64, ok bool) {
		f := o.leg.syn
		if f == nil || f.RecvNs == 0 || o.leg.begun {
			return 0, false
		}
		return f.RecvNs + turnTakes, f.RecvNs+turnTakes < y.Req.RecvNs
	})
}

// turnTakes is how long it takes a worker to note that a connection can be used, in ns: a turn of its loop.
const turnTakes = uint64(2 * time.Millisecond)

// place puts connections that were opened, and not used, among those that are free; usable is until when they became so.
func (p *pool) place(now uint64, are func(opening) (usable uint64, ok bool)) {
	if len(p.opening) == 0 {
		return
	}
	p.opening = slices.DeleteFunc(p.opening, func(o opening) bool {
		usable, ok := are(o)
		if !ok {
			return false
		}
		up := &o.leg.up
		if o.leg.endedBy(now) || up.known || up.used || len(p.idle) == mostIdle {
			return true
		}
		up.known, up.freed, up.placed = true, o.at, usable
		i := len(p.idle)
		for i > 0 && p.idle[i-1].up.freed > o.at {
			i--
		}
		p.idle = slices.Insert(p.idle, i, o.leg)
		return true
	})
}

// take foretells what a connection hands on.
func (l *Leg) take(g guess) {
	l.up.next, l.up.taken = g, true
	g.y.lane = l
}

// first takes out who has waited longest. False: nobody waits.
func (p *pool) first() (g guess, ok bool) {
	for len(p.waiting) > 0 && !ok {
		g = p.waiting[0]
		g.choice = len(p.waiting) > 1 || p.chosen
		p.waiting = slices.Delete(p.waiting, 0, 1)
		if ok = g.of() != nil; ok {
			g.y.waits = false
			g.shaky = p.mixed && g.choice
			p.mixed, p.chosen = p.mixed && len(p.waiting) > 0, g.choice && len(p.waiting) > 0
		}
	}
	return g, ok
}

const (
	mostIdle    = 1 << 13
	mostWaiting = 1 << 12
)

// asks looks whether the connection is the one that was foretold.
func (p *pool) asks(x *Exchange, c *class, isNew bool, w *process) {
	if c != nil && c.pool == nil {
		c.pool = p
	} else if c != nil && c.pool != p {
		c.multi = true
	}
	up := &x.Req.leg.up
	x.pool = p
	p.opening = slices.DeleteFunc(p.opening, func(o opening) bool { return o.leg == x.Req.leg })
	first, waited := guess{}, false
	if !up.taken && (isNew || up.known) {
		first, waited = p.first()
	}
	switch {
	case up.taken:
		x.inPool = up.next
		up.taken, up.next = false, guess{}
	case waited:
		x.inPool = first
		if up.known {
			p.forget(x.Req.leg)
			p.passedOver(first.y)
		}
	case p.unknown > 0:
		p.forget(x.Req.leg)
		p.unknown--
		p.streak = 0
		return
	default:
		p.fail(x.Req.StartNs)
		return
	}
	if x.inPool.shaky || x.inPool.waited && x.inPool.choice && !w.poolOf(x).proven() {
		p.streak = 0 // which of them it was is not known
	} else if p.count(x.inPool.choice); p.streak < leastStreak {
		x.inPool.shaky = true
	}
}

// opens notes that the worker begins a connection: for the request that it has just read, if it had none for that.
func (p *pool) opens(l *Leg, at uint64) {
	if len(p.opening) == mostWaiting {
		p.opening = p.opening[:0]
		p.fail(at)
	}
	p.opening = append(p.opening, opening{l, at})
	if y := p.latest.of(); y != nil && y.unknown {
		y.unknown = false
		p.unknown--
		p.latest.waited = true
		p.wait(p.latest)
	}
	p.latest = guess{}
}

// count counts one that was foretold.
func (p *pool) count(choice bool) {
	if choice || p.streak < leastStreak {
		p.streak++
	}
}

// leastStreak is how many connections in a row a model must have foretold.
const leastStreak = 8

// endedBy says whether a connection was closed at a time: what is known of it now may have come later.
func (l *Leg) endedBy(at uint64) bool { return l.ended != 0 && l.ended <= at }

// endsWith says whether a connection, which became free at a time, was not to be used again: it was closed soon, with nothing asked on it.
// Workers close when they are through with all that has come.
func (l *Leg) endsWith(x *Exchange, at uint64) bool {
	return l.endedBy(at) || l.endedBy(at+closesWithin) && l.latest <= x.Req.StartNs
}

// closesWithin is how long that takes, in ns: on a node that is busy 1 % take more than 5 ms.
const closesWithin = uint64(50 * time.Millisecond)

// free puts a connection back.
func (p *pool) free(x *Exchange, late bool, at uint64) {
	l := x.Req.leg
	if l.multi != nil || l.endsWith(x, at) {
		return
	}
	if late || l.up.known || len(p.idle) == mostIdle {
		p.fail(x.Resp.RecvNs)
		return
	}
	l.up = upstream{used: true}
	if len(p.opening) == 0 {
		if g, ok := p.first(); ok {
			l.take(g)
			return
		}
	}
	p.mixed = p.mixed || len(p.waiting) > 0 // or that goes on by one that was opened
	l.up.known, l.up.freed = true, at
	p.idle = append(p.idle, l)
}

// answered is told of a request that was answered. One that was not handed on as foretold shows that the model is wrong.
func (c *class) answered(y *Exchange) {
	if l := y.lane; l != nil && c.pool != nil {
		y.lane = nil
		if l.up.taken && l.up.next.of() == y {
			l.up.forget()
			c.pool.fail(y.Resp.StartNs)
		}
	}
	switch {
	case c.pool == nil:
	case y.waits:
		c.pool.leave(y)
	case y.unknown:
		c.pool.unknown = max(0, c.pool.unknown-1)
	}
	y.unknown = false
}

// leave takes out a request that waits: it was answered.
func (p *pool) leave(y *Exchange) {
	y.waits = false
	if i := slices.IndexFunc(p.waiting, func(g guess) bool { return g.of() == y }); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
}

// forget takes a connection out of the idle ones.
func (p *pool) forget(l *Leg) {
	if !l.up.known {
		return
	}
	l.up.known = false
	if i := slices.Index(p.idle, l); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
}

// fail begins anew: the model was wrong.
func (p *pool) fail(at uint64) {
	for _, l := range p.idle {
		l.up.forget()
	}
	for _, g := range p.waiting {
		if y := g.of(); y != nil {
			y.waits = false
		}
	}
	clear(p.idle)
	clear(p.waiting)
	p.idle, p.waiting, p.streak, p.unknown, p.latest = p.idle[:0], p.waiting[:0], 0, 0, guess{}
	p.mixed, p.chosen = false, false
	p.broken = max(p.broken, at)
}
