package join

import (
	"slices"
	"time"
)

// pool is a worker's connections to one upstream host, as Envoy keeps them (its source/common/conn_pool/conn_pool_base.cc and
// http1/conn_pool.cc; test/accuracy measures how far that holds). A request takes the connection that became free last. Where none is free it
// waits, and one is opened, unless as many are being opened as wait. Whoever has waited longest takes a connection as soon as it is open, and
// one that became free when the worker is through with what it reads in one turn; a request that it reads until then comes first. So if
// everything that a worker reads is known, then which connection each request goes on by, but for where a turn ends: that is known
// only once it writes.
type pool struct {
	idle    []*Leg  // free: the last is taken first
	freed   []*Leg  // became free while somebody waits, in a turn that may have ended or not: see serve
	waiting []guess // requests that wait, in the order in which they were read
	lanes   []*Leg  // scratch of instead
	bound   []*Leg  // connections that were taken, and on which the request was not seen yet
	chosen  bool    // one of several was taken out of what waits
	trust   trust
	expects bool // the worker begins a connection next
	rooms   rooms
	opening []opening
	noting  []opening // that can be used, and are among the free ones, which the worker may not know yet
	unknown []ref     // requests, not answered, of which nobody knows by which connections they go on
	streak  uint32    // connections in a row that were foretold
	broken  uint64    // ns: when the model last failed
	until   uint64    // ns: when the latest of those can be used of which that is not known
	unclear uint64    // ns: until this turn is over nobody knows who took what
	shifted spans     // when some were said to take what others took, see overtakes and isContradicted
}

// asked has the model take a connection for a request. opens says that the worker began one for it.
func (c *class) asked(y *Exchange, w *worker, late, opens bool) {
	p := c.pool
	if p == nil || c.multi || p.trust.rests > 0 {
		return
	}
	at := y.Req.RecvNs
	if late {
		p.fail(at)
		p.loses(guess{ref: refTo(y)})
		return
	}
	p.turned(w)
	p.place(w, at)
	g := guess{ref: refTo(y)}
	switch {
	case opens:
		p.expects = true
		p.serve(w)
		p.allTaken(at)
		p.wait(g)
	case len(p.freed) > 0 && p.opensNone():
		n := len(p.freed) - 1
		l := p.freed[n]
		p.freed = p.freed[:n]
		p.bind(w, l, g)
	case len(p.freed) > 0:
		for i := range p.waiting { // with or without this one: each may be the one before
			p.waiting[i].shaky = true
		}
		p.unclear = p.freed[len(p.freed)-1].up.freed
		p.serve(w)
		p.place(w, at)
		p.next(w, g)
	default:
		p.next(w, g)
	}
}

// next has a request take what is free, or wait.
func (p *pool) next(w *worker, g guess) {
	g.shaky = w.turns.ended < p.unclear
	switch {
	case len(p.waiting) > 0 || len(p.idle) == 0 && len(p.opening) > 0:
		p.wait(g)
	case len(p.idle) > 0:
		p.bind(w, p.idle[len(p.idle)-1], g)
	default:
		p.loses(g)
	}
}

// wait has a request take whichever connection is next.
func (p *pool) wait(g guess) {
	if len(p.waiting) == mostWaiting {
		p.fail(g.y.Req.RecvNs)
		return
	}
	g.y.waits, g.waited = true, true
	if n := len(p.waiting); n > 0 && p.waiting[n-1].shaky {
		g.shaky = true
	}
	p.waiting = append(p.waiting, g)
}

// bind foretells that a request goes on by a free connection.
func (p *pool) bind(w *worker, l *Leg, g guess) {
	n := len(p.idle) - 1
	switch {
	case n < 0 || p.idle[n] != l:
	case l.endedBy(g.y.Req.RecvNs):
		p.leave(l)
		if n > 0 {
			p.bind(w, p.idle[n-1], g)
		} else {
			p.loses(g)
		}
		return
	case n > 0:
		g.choice = true
		if len(p.noting) > 0 || l.up.freed < p.until {
			for _, below := range p.idle[:n] {
				if below.up.until > l.up.freed {
					g.vague, below.up.vague = true, true
				}
			}
		}
	}
	g.vague = g.vague || l.up.vague
	g.shaky = g.shaky || p.isUnsure()
	p.take(l, g)
	w.turns.owes(g.y.Req.RecvNs)
}

// take adds to what a connection will hand on.
func (p *pool) take(l *Leg, g guess) {
	for len(p.bound) > 0 && p.bound[0].up.next().isGone() { // what was asked for it was not seen, or by another worker
		if m := p.bound[0]; len(m.up.lane) > 0 {
			p.written(m, 0)
		} else {
			p.bound = p.bound[1:]
		}
	}
	if len(p.bound) == 1 {
		p.bound[0].up.next().among = true
	}
	g.among = len(p.bound) > 0
	if len(l.up.lane) == 0 {
		p.bound = append(p.bound, l)
	}
	l.up.lane = append(l.up.lane, g)
	if g.y != nil {
		g.y.lane = l
	}
	if l.up.given++; !p.hasRoom(l) {
		p.leave(l)
	}
}

// turned takes in which of the worker's turns have ended.
func (p *pool) turned(w *worker) {
	switch n := len(p.freed); {
	case n == 0:
	case len(p.waiting) == 0 || p.freed[n-1].up.freed <= w.turns.ended:
		p.serve(w)
	case p.freed[0].up.freed <= w.turns.ended: // the others in the same turn, or not
		p.unclear = p.freed[n-1].up.freed
		p.serve(w)
	}
}

// serve has those who wait take what became free, as one turn or several have ended.
func (p *pool) serve(w *worker) {
	n := len(p.freed)
	vague := n > 1 && len(p.waiting) > 0
	if vague {
		for i := range p.waiting[:min(n, len(p.waiting))] {
			p.waiting[i].shaky = p.waiting[i].shaky || len(p.waiting) > 1
			p.waiting[i].vague = true
		}
	}
	for i := n - 1; i >= 0; i-- {
		l := p.freed[i]
		l.up.vague = l.up.vague || vague
		if g, ok := p.first(); ok {
			p.take(l, g)
			w.turns.owes(l.up.freed)
		} else {
			p.add(l)
		}
	}
	p.freed = p.freed[:0]
}

// opensNone says that a request which goes on without a connection being opened for it took one that became free: else all that wait
// would be more than what is being opened.
func (p *pool) opensNone() bool {
	return len(p.waiting)-min(len(p.waiting), len(p.freed))+1 > len(p.opening)
}

// written takes out what a connection was to hand on.
func (p *pool) written(l *Leg, at int) guess {
	g := l.up.lane[at]
	l.up.lane = slices.Delete(l.up.lane, at, at+1)
	if len(l.up.lane) == 0 {
		if i := slices.Index(p.bound, l); i >= 0 {
			p.bound = slices.Delete(p.bound, i, i+1)
		}
	}
	if g.y != nil {
		g.y.lane = nil
	}
	return g
}

// first takes out who has waited longest. False: nobody waits.
func (p *pool) first() (g guess, ok bool) {
	for len(p.waiting) > 0 && p.waiting[0].isGone() {
		p.waiting = p.waiting[1:]
	}
	if len(p.waiting) == 0 {
		return g, false
	}
	g, p.waiting = p.waiting[0], p.waiting[1:]
	g.choice = p.chosen || len(p.waiting) > 0
	p.chosen = g.choice && len(p.waiting) > 0
	if g.y != nil {
		g.y.waits = false
	}
	return g, true
}

const (
	mostIdle    = 1 << 13
	mostWaiting = 1 << 12
)

// asks looks whether the connection is the one that was foretold. behind is how many of its streams before this one were not seen yet.
func (p *pool) asks(x *Exchange, c *class, w *worker, behind int) {
	if c != nil && c.pool == nil {
		c.pool = p
		p.adopt(c)
	} else if c != nil && c.pool != p {
		c.multi = true
	}
	x.pool = p
	p.comes(x.Req.leg, x.Req.StartNs)
	if p.rests(x.Req.leg, w) {
		return
	}
	g, ok := p.whose(x, w, behind)
	if !ok {
		if p.trust.rests > 0 || !p.isUnsure() {
			p.fail(x.Req.StartNs)
		}
		return
	}
	g.shaky = g.shaky || g.vague && (g.among || g.choice && g.waited)
	if g.of() != nil && !g.shaky {
		g.y.handsOn = refTo(x)
	}
	p.count(g.choice || g.among)
	g.shaky = g.shaky || p.streak < leastStreak
	x.inPool = g
}

// whose is what a connection hands on.
func (p *pool) whose(x *Exchange, w *worker, behind int) (g guess, ok bool) {
	l, at := x.Req.leg, x.Req.StartNs
	if len(l.up.lane) > behind {
		w.turns.writes(at, l.up.lane[behind].since())
	}
	p.turned(w)
	isKnown := l.up.known || l.up.astray || l.up.opens || slices.Contains(p.freed, l)
	l.up.astray = false
	if l.multi != nil {
		defer p.hasGiven(l, x.Stream.ID)
	}
	if l.up.opens {
		p.overtakes(at, w)
		began := p.isBegun(l)
		w.turns.ends(began) // one that is being opened is looked at in the next turn
		l.up.freed, l.up.until = max(began, l.connected), at
		switch {
		case len(p.waiting) <= behind:
		case p.isOutOfTurn(l):
			return g, false
		case l.multi == nil:
			return p.oldest(w, l)
		default:
			p.serves(w, l)
		}
	}
	switch {
	case len(l.up.lane) > behind:
		return p.written(l, behind), true
	case isKnown:
		return p.instead(l)
	}
	return g, false
}

// since is when was read what has a request go on by the connection that was foretold, in ns; 0: that is not known.
func (g *guess) since() uint64 {
	if g.of() == nil || g.shaky || g.waited || g.vague && g.among {
		return 0
	}
	return g.y.Req.RecvNs
}

// add puts a connection among those that are free, where it stands by when it became so.
func (p *pool) add(l *Leg) {
	if l.up.known {
		return
	}
	if len(p.idle) == mostIdle {
		p.leave(p.idle[0])
	}
	l.up.known = true
	i := len(p.idle)
	for i > 0 && p.idle[i-1].up.freed > l.up.freed {
		i--
	}
	p.idle = slices.Insert(p.idle, i, l)
}

// leave takes a connection out of the idle ones.
func (p *pool) leave(l *Leg) {
	if !l.up.known {
		return
	}
	l.up.known = false
	for i := len(p.idle) - 1; i >= 0; i-- {
		if p.idle[i] == l {
			p.idle = slices.Delete(p.idle, i, i+1)
			return
		}
	}
}

// free puts a connection back.
func (p *pool) free(x *Exchange, w *worker, late bool, at uint64) {
	l := x.Req.leg
	if l.endsWith(x, at) {
		if l.multi != nil && !l.up.counted && l.opener != 0 {
			l.up.counted = true
			p.rooms.closed(int(l.up.streams.last+1) / 2) //nolint:gosec // half of an uint32
		}
		return
	}
	if l.multi != nil {
		return
	}
	if p.comes(l, at); p.trust.rests > 0 {
		return
	}
	if late || l.up.known || len(l.up.lane) > 0 || slices.Contains(p.freed, l) { // it is free already, or taken: of two that were asked at once
		p.fail(x.Resp.RecvNs)
		return
	}
	p.turned(w)
	l.up = upstream{of: p, used: true, freed: at, until: at, lane: l.up.lane}
	if len(p.waiting) == 0 {
		p.place(w, at)
		p.add(l)
		return
	}
	p.freed = append(p.freed, l)
}

// endedBy says whether a connection was closed at a time: what is known of it now may have come later.
func (l *Leg) endedBy(at uint64) bool { return l.ended != 0 && l.ended <= at }

// endsWith says whether a connection, which became free at a time, was not to be used again: it was closed soon, with nothing asked on it.
// Workers close when they are through with all that has come.
func (l *Leg) endsWith(x *Exchange, at uint64) bool {
	return l.endedBy(at) || l.endedBy(at+closesWithin) && l.latest <= x.Req.StartNs
}

// closesWithin is how long that takes, in ns: on a node that is busy 1 % take more than 5 ms.
const closesWithin = uint64(50 * time.Millisecond)

// comes takes in that a connection is this worker's, which was another one's maybe: that one fails.
func (p *pool) comes(l *Leg, at uint64) {
	if q := l.up.of; q != nil && q != p {
		q.fail(at)
		q.opening = slices.DeleteFunc(q.opening, func(o opening) bool { return o.leg == l })
		l.up.opens = false
	}
	l.up.of = p
}
