package join

import (
	"cmp"
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
}

// opening is a connection that was begun, and that nobody is known to have taken.
type opening struct {
	leg  *Leg
	at   uint64 // ns
	next uint64 // ns: a time in the turn behind that, or later; 0: none is known
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
	of      *pool   // that knows it; of another worker, if that opened it and handed it over
	lane    []guess // the requests that it will hand on: of HTTP/1 one
	known   bool    // it is in pool.idle
	opens   bool    // it is in pool.opening
	freed   uint64  // ns: since when it is free, at the earliest
	until   uint64  // ns: and at the latest
	given   int     // requests that go on by it, or did, as far as is known
	astray  bool    // nobody knows who has taken it
	vague   bool    // it or another one was to be taken, nobody knows which
	counted bool    // see rooms
	used    bool    // a request was seen on it

	opened  guess // the request that it was opened for, until one is seen on it
	certain bool  // it was, as far as is known

	streams streams
}

// forget leaves what no model has to do with.
func (u *upstream) forget() {
	*u = upstream{of: u.of, used: u.used, opens: u.opens, opened: u.opened, certain: u.certain, streams: u.streams}
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

// loses takes in that nobody knows by which connection a request goes on.
func (p *pool) loses(g guess) {
	if y := g.of(); y != nil && !y.unknown {
		y.waits, y.lane, y.unknown = false, nil, true
		p.unknown = append(p.unknown, g.ref)
	}
}

// isUnsure says whether there are some of which nobody knows by which connection they go on.
func (p *pool) isUnsure() bool {
	p.unknown = slices.DeleteFunc(p.unknown, func(r ref) bool { return r.of() == nil || !r.y.unknown })
	return len(p.unknown) > 0
}

// opensNone says that a request which goes on without a connection being opened for it took one that became free: else all that wait
// would be more than what is being opened.
func (p *pool) opensNone() bool {
	return len(p.waiting)-min(len(p.waiting), len(p.freed))+1 > len(p.opening)
}

// allTaken takes in that none is free: those that are thought to be have as many streams as they may, or were taken by one of those that
// are thought to wait, or to have taken another one.
func (p *pool) allTaken(at uint64) {
	for _, l := range p.idle {
		l.up.known = false
		switch {
		case l.endedBy(at):
		case l.multi == nil:
			l.up.astray = true
		}
	}
	if slices.ContainsFunc(p.idle, func(l *Leg) bool { return l.up.astray }) {
		p.nobodySure()
	}
	p.idle = p.idle[:0]
}

// nobodySure says that any of what is foretold may go on by any of the connections.
func (p *pool) nobodySure() {
	for i := range p.waiting {
		p.waiting[i].shaky = true
	}
	for _, l := range p.bound {
		for i := range l.up.lane {
			l.up.lane[i].shaky = true
		}
	}
}

// since is when was read what has a request go on by the connection that was foretold, in ns; 0: that is not known.
func (g *guess) since() uint64 {
	if g.of() == nil || g.shaky || g.waited || g.vague && g.among {
		return 0
	}
	return g.y.Req.RecvNs
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
	if len(p.bound) == 1 && len(p.bound[0].up.lane) == 1 {
		p.bound[0].up.lane[0].among = true
	}
	g.among = len(p.bound) > 0
	if len(l.up.lane) == 0 {
		p.bound = append(p.bound, l)
	}
	l.up.lane = append(l.up.lane, g)
	if g.y != nil {
		g.y.lane = l
	}
	l.up.given++
	if !p.hasRoom(l) {
		p.leave(l)
	}
}

// hasRoom says whether a connection can be given another request.
func (p *pool) hasRoom(l *Leg) bool {
	return l.multi != nil && (p.rooms.most == 0 || l.up.given < p.rooms.most)
}

// rooms is how many requests a connection of HTTP/2 is given until it is closed.
type rooms struct {
	most int // 0: any number, as far as is known
	last int // the latest had
	same int // as often in a row
}

// closed takes in that a connection was closed.
func (r *rooms) closed(had int) {
	if had != r.last {
		*r = rooms{last: had}
	}
	if r.same++; r.same >= leastClosed {
		r.most = had
	}
}

// leastClosed is how many connections in a row must have had the same.
const leastClosed = 4

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
		if g, ok := p.first(0); ok {
			p.take(l, g)
			w.turns.owes(l.up.freed)
		} else {
			p.add(l)
		}
	}
	p.freed = p.freed[:0]
}

// place puts connections that can be used by now, and that nobody waits for, among those that are free. The worker notes it in a turn behind
// that in which it began them: until then what becomes free is below them, or above.
func (p *pool) place(w *worker, now uint64) {
	p.noting = slices.DeleteFunc(p.noting, func(o opening) bool {
		noted := o.next != 0 && o.next <= w.turns.ended || o.at+openingTakes < now
		if up := &o.leg.up; noted && up.until == never {
			up.until, p.until = now, now
		}
		return noted || o.leg.up.until != never
	})
	p.opening = slices.DeleteFunc(p.opening, func(o opening) bool {
		if !o.isOpen(now) || len(p.waiting) > 0 {
			return false
		}
		up := &o.leg.up
		if up.opens = false; !o.leg.endedBy(now) && !up.used {
			up.freed, up.until = o.at, never
			p.noting = append(p.noting, o)
			p.add(o.leg)
		}
		return true
	})
	for _, list := range [...][]opening{p.opening, p.noting} {
		for i := range list {
			if o := &list[i]; o.next == 0 && o.at <= w.turns.ended {
				o.next = now
			}
		}
	}
}

const never = ^uint64(0)

// isOpen says whether a connection can be used. One of TLS is placed when it can, see shaken.
func (o *opening) isOpen(now uint64) bool {
	return o.at+openingTakes < now || o.leg.hellos == 0 && o.leg.connected != 0 && o.leg.connected < now
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

// first takes out who has waited longest, behind as many others. False: nobody waits.
func (p *pool) first(behind int) (g guess, ok bool) {
	for len(p.waiting) > 0 && p.waiting[0].isGone() {
		p.waiting = p.waiting[1:]
	}
	if behind >= len(p.waiting) {
		return g, false
	}
	g = p.waiting[behind]
	g.choice = p.chosen || len(p.waiting) > 1
	if behind == 0 {
		p.waiting = p.waiting[1:]
	} else {
		p.waiting = slices.Delete(p.waiting, behind, behind+1)
	}
	p.chosen = g.choice && len(p.waiting) > 0
	if g.isGone() {
		return g, false
	}
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
	l := x.Req.leg
	if x.pool = p; p.trust.rests > 0 {
		if p.trust.rests--; p.trust.rests == 0 {
			w.adopt(p)
		}
		l.up.forget()
		return
	}
	p.comes(l, x.Req.StartNs)
	if len(l.up.lane) > behind {
		w.turns.writes(x.Req.StartNs, l.up.lane[behind].since())
	}
	p.turned(w)
	isKnown := l.up.known || l.up.astray || l.up.opens || slices.Contains(p.freed, l)
	if x.Stream.ID != 0 {
		l.up.given = max(l.up.given, int(x.Stream.ID+1)/2+len(l.up.lane)) //nolint:gosec // half of an uint32
	}
	fresh := l.up.opens
	if fresh {
		began := p.isOpen(l)
		w.turns.ends(began) // one that is being opened is looked at in the next turn
		l.up.freed, l.up.until = max(began, l.connected), x.Req.StartNs
	}
	ok := true
	switch {
	case len(l.up.lane) > behind:
		x.inPool = p.written(l, behind)
	case fresh && l.multi != nil && len(p.waiting) > behind:
		p.serves(w, l)
		x.inPool = p.written(l, behind)
	case fresh && len(p.waiting) > behind:
		if ok = !p.isOutOfTurn(l); ok {
			x.inPool, _ = p.oldest(w, l, behind)
		}
	case isKnown:
		x.inPool, ok = p.instead(l, behind)
	default:
		ok = false
	}
	if l.multi != nil && p.hasRoom(l) {
		p.add(l)
	}
	switch {
	case ok:
	case p.trust.rests == 0 && p.isUnsure():
		return
	default:
		p.fail(x.Req.StartNs)
		return
	}
	g := &x.inPool
	g.shaky = g.shaky || g.vague && (g.among || g.choice && g.waited)
	l.up.astray = false
	if g.of() != nil && !g.shaky {
		g.y.handsOn = refTo(x)
	}
	if p.count(g.choice || g.among); p.streak < leastStreak {
		g.shaky = true
	}
}

// trust is how far a model is worth its time: a proxy with other habits contradicts it all the time.
type trust struct {
	doubts uint32 // grow with each contradiction, and are one less with each that was foretold
	rests  uint32 // requests that it is not asked about
	pause  uint32 // so many when it rested last
}

const (
	failed     = 8 // is how much a contradiction counts
	mistaken   = 2 // and a request that took another connection
	mostDoubts = 256
	leastPause = 64
	mostPause  = 4096
)

// contradicted takes in how much a contradiction counts. True: the model must rest.
func (t *trust) contradicted(much uint32) bool {
	if t.doubts += much; t.doubts <= mostDoubts {
		return false
	}
	t.pause = min(max(leastPause, 2*t.pause), mostPause)
	t.doubts, t.rests = 0, t.pause
	return true
}

// adopt takes in what a worker has read and not handed on, as a model begins.
func (w *worker) adopt(p *pool) {
	for _, c := range w.classes {
		if c.pool == p {
			p.adopt(c)
		}
	}
}

func (p *pool) adopt(c *class) {
	for _, r := range c.queue {
		if r.isQueued() {
			p.loses(guess{ref: r})
		}
	}
}

// comes takes in that a connection is this worker's, which was another one's maybe: that one fails.
func (p *pool) comes(l *Leg, at uint64) {
	if q := l.up.of; q != nil && q != p {
		q.fail(at)
		q.opening = slices.DeleteFunc(q.opening, func(o opening) bool { return o.leg == l })
		l.up.opens = false
	}
	l.up.of = p
}

// written takes out what a connection was to hand on.
func (p *pool) written(l *Leg, at int) guess {
	g := l.up.lane[at]
	l.up.lane = slices.Delete(l.up.lane, at, at+1)
	if len(l.up.lane) == 0 {
		p.bound = slices.DeleteFunc(p.bound, func(m *Leg) bool { return m == l })
	}
	if g.y != nil {
		g.y.lane = nil
	}
	return g
}

// isOutOfTurn says whether a connection without TLS was open before one that was asked on for who has waited longest: what was asked on that
// was missed.
func (p *pool) isOutOfTurn(l *Leg) bool {
	return slices.ContainsFunc(p.opening, func(o opening) bool {
		return o.leg.hellos == 0 && o.leg.connected != 0 && o.leg.connected < l.connected
	})
}

// isOpen takes out a connection that was opened; it returns when that was begun.
func (p *pool) isOpen(l *Leg) (at uint64) {
	l.up.opens = false
	if i := slices.IndexFunc(p.opening, func(o opening) bool { return o.leg == l }); i >= 0 {
		at = p.opening[i].at
		p.opening = slices.Delete(p.opening, i, i+1)
	}
	return at
}

// shaken takes in that a TLS connection is open.
func (p *pool) shaken(w *worker, l *Leg) {
	if !l.up.opens {
		return
	}
	w.turns.ends(p.isOpen(l))
	p.turned(w)
	l.up.freed, l.up.until = l.shook, l.shook
	for _, m := range p.freed { // taken by those who wait, or not yet
		l.up.vague, m.up.vague = true, true
	}
	p.serves(w, l)
}

// serves has those who wait take a connection that was opened.
func (p *pool) serves(w *worker, l *Leg) {
	for given := false; !given || p.hasRoom(l); given = true {
		g, ok := p.oldest(w, l, 0)
		if !ok {
			p.add(l)
			return
		}
		g.vague = l.up.vague
		p.take(l, g)
		w.turns.owes(l.up.freed)
	}
}

// oldest has who has waited longest take a connection that was opened. What became free in the same turn, or in the one before, others or
// the same have taken.
func (p *pool) oldest(w *worker, l *Leg, behind int) (guess, bool) {
	if len(p.freed) > 0 && len(p.waiting) > 1 {
		for i := range p.waiting[:min(len(p.waiting), 1+len(p.freed))] {
			p.waiting[i].shaky = true
		}
	}
	g, ok := p.first(behind)
	if ok && g.y != nil && g.y.Req.RecvNs > l.up.freed {
		for _, m := range p.bound { // or this one took it, and who waited that one's
			if h := &m.up.lane[0]; h.of() != nil && h.y.Req.RecvNs > l.up.freed {
				g.shaky, h.shaky = true, true
			}
		}
	}
	if len(p.waiting) == 0 {
		p.serve(w)
	}
	return g, ok
}

// instead is who a connection hands on that was not foretold to hand on anything: it stood above the one that somebody was thought to take,
// who left that to the next.
func (p *pool) instead(l *Leg, behind int) (g guess, ok bool) {
	if l.multi == nil {
		p.leave(l)
	}
	p.freed = slices.DeleteFunc(p.freed, func(m *Leg) bool { return m == l })
	var lanes []*Leg
	for _, m := range p.bound {
		if g := m.up.lane[0]; g.of() != nil && (g.waited || g.y.Req.RecvNs > l.up.freed) {
			lanes = append(lanes, m)
		}
	}
	slices.SortFunc(lanes, func(a, b *Leg) int { return cmp.Compare(a.up.lane[0].y.Req.RecvNs, b.up.lane[0].y.Req.RecvNs) })
	isBelow := func(m *Leg) bool { return m.up.freed < l.up.until }
	n := slices.IndexFunc(lanes, isBelow)
	switch {
	case len(lanes) > 1 && p.trust.contradicted(mistaken):
		return g, false
	case len(lanes) == 0:
		g, ok = p.first(behind)
		g.shaky = true
		return g, ok
	case n < 0:
		n = 0
		lanes[0].up.lane[0].shaky = true
	}
	left := lanes[n]
	g = p.written(left, 0)
	g.shaky = g.shaky || len(left.up.lane) > 0
	for _, m := range lanes[n+1:] {
		g.shaky = g.shaky || isBelow(m)
		if m.up.freed < left.up.freed {
			h := p.written(m, 0)
			h.shaky = true
			p.take(left, h)
			left = m
		}
	}
	if left.up.given--; left.multi == nil || p.hasRoom(left) {
		p.add(left)
	}
	return g, true
}

// begins notes that the worker begins a connection.
func (p *pool) begins(l *Leg, at uint64) {
	if len(p.opening) == mostWaiting {
		for _, o := range p.opening {
			o.leg.up.opens = false
		}
		p.opening = p.opening[:0]
		p.fail(at)
	}
	if p.trust.rests > 0 {
		return
	}
	if !p.expects && len(p.waiting) < mostWaiting { // for a request that was not seen
		p.waiting = append(p.waiting, guess{unseen: true, waited: true})
	}
	p.expects = false
	l.up.opens, l.up.of = true, p
	p.opening = append(p.opening, opening{leg: l, at: at})
}

// count counts one that was foretold.
func (p *pool) count(choice bool) {
	if choice || p.streak < leastStreak {
		p.streak++
	}
	if p.trust.doubts > 0 {
		p.trust.doubts--
	}
	if p.streak > leastPause {
		p.trust.pause = 0
	}
}

// leastStreak is how many connections in a row a model must have foretold.
const leastStreak = 16

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
func (p *pool) free(x *Exchange, w *worker, late bool, at uint64) {
	l := x.Req.leg
	if l.endsWith(x, at) {
		if l.multi != nil && !l.up.counted && l.opener != 0 {
			l.up.counted = true
			p.rooms.closed(int(l.up.streams.last+1) / 2) //nolint:gosec // half of an uint32
		}
		return
	}
	if l.multi != nil || p.trust.rests > 0 {
		return
	}
	p.comes(l, at)
	if late || l.up.known || len(l.up.lane) > 0 {
		p.fail(x.Resp.RecvNs)
		return
	}
	p.turned(w)
	l.up = upstream{of: p, used: true, freed: at, until: at}
	if len(p.waiting) == 0 {
		p.place(w, at)
		p.add(l)
		return
	}
	p.freed = append(p.freed, l)
}

// answered is told of a request that was answered. One that was not handed on as foretold shows that the model is wrong.
func (c *class) answered(y *Exchange) {
	if l := y.lane; l != nil && c.pool != nil {
		y.lane = nil
		if slices.ContainsFunc(l.up.lane, func(g guess) bool { return g.of() == y }) {
			c.pool.fail(y.Resp.StartNs)
		}
	}
	switch {
	case c.pool == nil:
	case y.waits:
		y.waits = false
		c.pool.waiting = slices.DeleteFunc(c.pool.waiting, func(g guess) bool { return g.of() == y })
	case y.unknown:
		y.unknown = false
	}
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

// fail begins anew: the model was wrong.
func (p *pool) fail(at uint64) {
	if p.trust.contradicted(failed); p.trust.rests > 0 {
		for _, o := range p.opening {
			o.leg.up.opens = false
		}
		p.opening, p.noting = p.opening[:0], p.noting[:0]
	}
	for _, legs := range [...][]*Leg{p.idle, p.freed, p.bound} {
		for _, l := range legs {
			for _, g := range l.up.lane {
				p.loses(g)
			}
			l.up.forget()
		}
		clear(legs)
	}
	for _, g := range p.waiting {
		p.loses(g)
	}
	clear(p.waiting)
	p.idle, p.freed, p.bound, p.waiting = p.idle[:0], p.freed[:0], p.bound[:0], p.waiting[:0]
	p.streak, p.chosen = 0, false
	p.broken = max(p.broken, at)
}
