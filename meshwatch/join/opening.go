package join

import (
	"slices"
	"time"
)

// opening is a connection that was begun, and that nobody is known to have taken.
type opening struct {
	leg  *Leg
	at   uint64 // ns
	next uint64 // ns: a time in the turn behind that, or later; 0: none is known
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
	if l.up.of != nil { // another worker was looked at first, to which it was handed over since
		return
	}
	l.up.opens, l.up.of = true, p
	p.opening = append(p.opening, opening{leg: l, at: at})
}

// isBegun takes out a connection that is being opened; it returns since when.
func (p *pool) isBegun(l *Leg) (at uint64) {
	l.up.opens = false
	if i := slices.IndexFunc(p.opening, func(o opening) bool { return o.leg == l }); i >= 0 {
		at = p.opening[i].at
		p.opening = slices.Delete(p.opening, i, i+1)
	}
	return at
}

// shaken takes in that a TLS connection is open. One that another worker began stays with that one.
func (p *pool) shaken(w *worker, l *Leg) {
	if !l.up.opens || l.up.of != p {
		return
	}
	w.turns.ends(p.isBegun(l))
	p.turned(w)
	l.up.freed, l.up.until = l.shook, l.shook
	for _, m := range p.freed { // taken by those who wait, or not yet
		l.up.vague, m.up.vague = true, true
	}
	p.serves(w, l)
	p.overtakes(l.shook, w)
}

// overtakes takes in that a connection was open at a time, which is known only after what the worker did since was looked at, as its
// peer took long to read: those that were given one since have what others had. All had theirs by then, so whoever waits now is right.
func (p *pool) overtakes(at uint64, w *worker) {
	if at >= w.done {
		return
	}
	p.shifted.add(at, w.done)
	for _, l := range p.bound {
		for i := range l.up.lane {
			l.up.lane[i].shaky = true
		}
	}
}

// serves has those who wait take a connection that was opened.
func (p *pool) serves(w *worker, l *Leg) {
	for given := false; !given || p.hasRoom(l); given = true {
		g, ok := p.oldest(w, l)
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
func (p *pool) oldest(w *worker, l *Leg) (guess, bool) {
	if len(p.freed) > 0 && len(p.waiting) > 1 {
		for i := range p.waiting[:min(len(p.waiting), 1+len(p.freed))] {
			p.waiting[i].shaky = true
		}
	}
	g, ok := p.first()
	if ok && g.y != nil && g.y.Req.RecvNs > l.up.freed {
		for _, m := range p.bound { // or this one took it, and who waited that one's
			if h := m.up.next(); h.of() != nil && h.y.Req.RecvNs > l.up.freed {
				g.shaky, h.shaky = true, true
			}
		}
	}
	if len(p.waiting) == 0 {
		p.serve(w)
	}
	return g, ok
}

// isOutOfTurn says whether a connection without TLS was open before one that was asked on for who has waited longest: what was asked on that
// was missed.
func (p *pool) isOutOfTurn(l *Leg) bool {
	return slices.ContainsFunc(p.opening, func(o opening) bool {
		return o.leg.hellos == 0 && o.leg.connected != 0 && o.leg.connected < l.connected
	})
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
		if o.leg.endedBy(now) || o.at+shakingTakes < now {
			o.leg.up.opens = false
			return true
		}
		if !o.isOpen(now) || len(p.waiting) > 0 {
			return false
		}
		up := &o.leg.up
		if up.opens = false; !up.used {
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
	l := o.leg
	return l.hellos == 0 && (l.connected != 0 && l.connected < now || o.at+openingTakes < now)
}

// shakingTakes is for how long a TLS handshake is waited for, in ns: 512 at once took 2 s on two cores.
const shakingTakes = uint64(10 * time.Second)

// hasRoom says whether a connection can be given another request.
func (p *pool) hasRoom(l *Leg) bool {
	return l.multi != nil && (p.rooms.most == 0 || l.up.given < p.rooms.most)
}

// hasGiven takes in how many requests a connection of HTTP/2 was given, by the id of a stream.
func (p *pool) hasGiven(l *Leg, id uint32) {
	l.up.given = max(l.up.given, int(id+1)/2+len(l.up.lane)) //nolint:gosec // half of an uint32
	if p.hasRoom(l) {
		p.add(l)
	} else {
		p.leave(l)
	}
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
