package join

import (
	"cmp"
	"slices"
)

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

// rests says whether the model is not asked about a connection. As it begins anew, what the worker has read and not handed on is not known.
func (p *pool) rests(l *Leg, w *worker) bool {
	if p.trust.rests == 0 {
		return false
	}
	l.up.forget()
	if p.trust.rests--; p.trust.rests == 0 {
		for _, c := range w.classes {
			if c.pool == p {
				p.adopt(c)
			}
		}
	}
	return true
}

// adopt takes in what was read, and not handed on, as the model begins.
func (p *pool) adopt(c *class) {
	for _, r := range c.queue {
		if r.isQueued() {
			p.loses(guess{ref: r})
		}
	}
}

// loses takes in that nobody knows by which connection a request goes on.
func (p *pool) loses(g guess) {
	if y := g.of(); y != nil && !y.unknown {
		y.waits, y.lane, y.unknown = false, nil, true
		if p.unknown = append(p.unknown, g.ref); len(p.unknown) > mostWaiting {
			p.unknown = p.unknown[1:]
		}
	}
}

// isUnsure says whether there are some of which nobody knows by which connection they go on.
func (p *pool) isUnsure() bool {
	n := 0
	for n < len(p.unknown) && (p.unknown[n].of() == nil || !p.unknown[n].y.unknown) {
		n++
	}
	p.unknown = p.unknown[n:]
	return len(p.unknown) > 0
}

// allTaken takes in that none is free: those that are thought to be have as many streams as they may, or were taken by one of those that
// are thought to wait, or to have taken another one.
func (p *pool) allTaken(at uint64) {
	astray := false
	for _, l := range p.idle {
		l.up.known = false
		l.up.astray = l.multi == nil && !l.endedBy(at)
		astray = astray || l.up.astray
	}
	clear(p.idle)
	p.idle = p.idle[:0]
	if !astray {
		return
	}
	for i := range p.waiting {
		p.waiting[i].shaky = true
	}
	for _, l := range p.bound {
		for i := range l.up.lane {
			l.up.lane[i].shaky = true
		}
	}
}

// isContradicted looks whether who a connection was said to hand on was answered before what was asked for it: then those near it in time may
// have what others had, too.
func (p *pool) isContradicted(x *Exchange) {
	if y := x.inPool.of(); y != nil && !x.inPool.shaky && y.Resp != nil && y.Resp.StartNs < x.Resp.RecvNs {
		p.shifted.add(x.Req.StartNs-min(x.Req.StartNs, unsettled), x.Req.StartNs+unsettled)
	}
}

// instead is who a connection hands on that was not foretold to hand on anything: it stood above the one that somebody was thought to take,
// who left that to the next.
func (p *pool) instead(l *Leg) (g guess, ok bool) {
	if l.multi == nil {
		p.leave(l)
	}
	p.freed = slices.DeleteFunc(p.freed, func(m *Leg) bool { return m == l })
	lanes := p.lanes[:0]
	for _, m := range p.bound {
		if g := m.up.next(); g.of() != nil && (g.waited || g.y.Req.RecvNs > l.up.freed) {
			lanes = append(lanes, m)
		}
	}
	slices.SortFunc(lanes, func(a, b *Leg) int { return cmp.Compare(a.up.lane[0].y.Req.RecvNs, b.up.lane[0].y.Req.RecvNs) })
	p.lanes = lanes
	isBelow := func(m *Leg) bool { return m.up.freed < l.up.until }
	n := slices.IndexFunc(lanes, isBelow)
	switch {
	case len(lanes) > 1 && p.trust.contradicted(mistaken):
		return g, false
	case len(lanes) == 0:
		g, ok = p.first()
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
