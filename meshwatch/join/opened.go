package join

import "slices"

// A proxy that has no connection for a request opens one, in the order in which it read those that need one. HAProxy hands on by it what it
// opened it for; Envoy whoever waits longest when it can be used, see pool.

// reads queues a request, in the order of reading, until it is handed on or a connection is opened for it.
func (c *class) reads(y *Exchange) {
	c.front()
	c.queue = insert(c.queue, refTo(y), func(r ref) *Exchange { return r.of() })
}

// front is who was read first of those that are queued, nil: nobody.
func (c *class) front() *Exchange {
	n := 0
	for n < len(c.queue) && !c.queue[n].isQueued() {
		n++
	}
	c.queue = c.queue[n:]
	if len(c.queue) == 0 {
		return nil
	}
	return c.queue[0].y
}

func (r ref) isQueued() bool { return r.of() != nil && !r.y.handed }

// skip goes on by one, as something that the worker asked was missed: x was not asked for what its connection was opened for.
func (c *class) skip(x *Exchange) {
	if y := c.front(); y != nil && x.Req.StartNs > c.moved {
		y.handed = true
		c.moved = x.Resp.RecvNs
	}
}

// opensFor says for which request a worker opens a connection to a pool.
func (w *worker) opensFor(p *pool, late bool) (g guess) {
	if len(w.classes) > fewLines {
		return g
	}
	classes, certain := 0, true
	for _, c := range w.classes {
		elsewhere := c.pool != p
		if elsewhere && c.pool != nil && !c.multi {
			continue
		}
		y := c.front()
		if y == nil {
			continue
		}
		classes++
		certain = certain && !elsewhere && !c.multi
		g.choice = g.choice || classes > 1 || slices.ContainsFunc(c.queue[1:], ref.isQueued)
		if g.y == nil || y.Req.RecvNs < g.y.Req.RecvNs {
			g.ref = refTo(y)
		}
	}
	g.shaky = late || classes > 1 && !certain
	if g.y != nil {
		g.y.handed = true
	}
	return g
}

// opens takes in that a worker opens a connection. Where that is for one request, this one overtakes nobody, and nobody overtakes it.
func (w *worker) opens(l *Leg, p *pool, at uint64, late bool) {
	g, proc := w.opensFor(p, late), w.proc
	l.up.opened = g
	if g.y != nil {
		c := g.y.class
		if len(c.open) == mostWaiting {
			c.open = c.open[1:]
		}
		c.open = append(c.open, g.ref)
	}
	if g.y != nil && !g.shaky && proc.opensForOne() {
		l.up.certain = true
		w.leaveLine(g.y)
		proc.opening = slices.DeleteFunc(proc.opening, func(began uint64) bool { return began == at })
	}
}

// waitedLongest takes out a request for which a connection was opened that is used now; it returns another one, if that has waited longer.
func (c *class) waitedLongest(y *Exchange, now uint64) (first ref) {
	c.open = slices.DeleteFunc(c.open, func(r ref) bool {
		return r.of() == nil || r.y.Resp != nil && r.y.Resp.StartNs < now
	})
	if len(c.open) > 0 && c.open[0].y != y {
		first = c.open[0]
	}
	c.open = slices.DeleteFunc(c.open, func(r ref) bool { return r.y == y })
	return first
}

// leaveLine takes a request out of its line: it is known how it is handed on.
func (w *worker) leaveLine(y *Exchange) {
	if l := w.lines[y.what()]; l != nil {
		l.drop(y)
	}
}

// opensForOne says whether a process was seen to open connections for one request each.
func (p *process) opensForOne() bool {
	r := &p.opened
	return r.in >= leastInStep && (r.neverOtherwise() || r.proven()) && (decided(p.fresh.opened, p.fresh.waits) || !p.pool.proven() && !p.waits.proven())
}

// neverOtherwise says whether connections were for what they were opened for often enough, and never for something else.
func (o *order) neverOtherwise() bool {
	return o.wrong == 0 && o.alone.wrong == 0 && o.chosen >= leastOpened
}

// fresh is which request goes on by a fresh connection: that for which it was opened, or whichever waits longest. Of both it counts where
// times contradicted it, and the other says otherwise.
type fresh struct{ opened, waits uint64 }

// otherwise returns what both say of x, if that is not the same.
func otherwise(x *Exchange) (opened, waits *Exchange, differ bool) {
	switch {
	case !x.byOpening:
		return nil, nil, false
	case x.inPool.waited:
		waits = x.inPool.of()
	default:
		waits = x.byWaiting.of()
	}
	opened = x.inOrder.of()
	return opened, waits, opened != nil && waits != nil && opened != waits
}

// compare takes in an exchange that was answered.
func (f *fresh) compare(x *Exchange) {
	opened, waits, differ := otherwise(x)
	if !differ {
		return
	}
	if opened.answeredBefore(x) {
		f.opened++
	}
	if waits.answeredBefore(x) {
		f.waits++
	}
	if f.opened+f.waits > testsKept {
		f.opened, f.waits = f.opened/2, f.waits/2
	}
}

// decided says whether one was contradicted often, and the other next to never.
func decided(this, other uint64) bool { return other >= leastContradicted && this*8 <= other }

// leastContradicted is how often what is wrong must have been: of two requests that change places one is, each time.
const leastContradicted = 4

// believesWaiting says whether, as far as x is one that waited, who waits longest goes on by its connection.
func (p *process) believesWaiting(x *Exchange) bool {
	_, _, differ := otherwise(x)
	return !differ || decided(p.fresh.waits, p.fresh.opened)
}

// believesOpened says whether a connection such as that of x hands on what it was opened for.
func (p *process) believesOpened(x *Exchange) bool {
	opened, waits, differ := otherwise(x)
	switch {
	case decided(p.fresh.opened, p.fresh.waits):
		return true
	case differ, decided(p.fresh.waits, p.fresh.opened):
		return false
	case opened != nil && waits != nil:
		return true
	}
	return !p.pool.proven() && !p.waits.proven()
}

// leastOpened is how many exchanges, while the same was asked otherwise, must not have contradicted that connections are for what they were
// opened for, where none was tested.
const leastOpened = 1000
