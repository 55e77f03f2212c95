package join

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
)

// A proxy's worker is a thread that reads and writes by itself, so what it did stands in one order. From that order it can be told which
// request it handed on by which connection: see pool and line. Nothing is claimed that the same process was not just seen to do.

// workerKey is a thread.
type workerKey struct{ pid, tid uint32 }

// worker is what is known of one.
type worker struct {
	proc    *process
	events  []event // not looked at yet, as they came
	done    uint64  // ns: everything before was
	classes map[classKey]*class
	pools   map[poolKey]*pool
	lines   map[uint64]*line // by what is asked for
	spare   *line            // none of these
	turns   turns
	used    uint64
}

// begins notes that a process opens a connection.
func (j *Joiner) begins(l *Leg, f *bpf.Flight) {
	if p := j.processes[f.SendPid]; p != nil && !p.named {
		n := 0
		for n < len(p.opening) && (len(p.opening) == mostWaiting || p.opening[n]+2*openingTakes < f.StartNs) {
			n++
		}
		p.opening = append(slices.Delete(p.opening, 0, n), f.StartNs)
	}
	if w := j.workers[workerKey{f.SendPid, f.Thread()}]; w != nil {
		j.happens(w, event{at: f.StartNs, kind: eventOpens, to: poolKey{f.SendPaddr, f.SendPeer}, leg: l})
	}
}

// shakes takes in what the opener of a connection sends of a TLS handshake: in the second flight its last part, unless it was asked for more.
func (j *Joiner) shakes(l *Leg, f *bpf.Flight) {
	l.hellos, l.shook = min(l.hellos+1, 2), f.StartNs
	if w := j.workers[workerKey{f.SendPid, f.Thread()}]; w != nil && l.hellos > 1 {
		j.happens(w, event{at: f.StartNs, kind: eventOpen, to: poolKey{f.SendPaddr, f.SendPeer}, leg: l})
	}
}

// until is when an exchange's client had the response, as far as is known.
func (x *Exchange) until() uint64 {
	if x.Resp != nil && x.Resp.RecvNs != 0 {
		return x.Resp.RecvNs
	}
	return x.Req.StartNs + openingTakes
}

// event is something that a worker did.
type event struct {
	at   uint64 // ns
	of   ref    // not of eventOpens and eventOpen
	kind eventKind
	to   poolKey // of eventOpens and eventOpen
	leg  *Leg    // of these
}

type eventKind uint8

const (
	eventAsked    eventKind = iota // it read a request
	eventAsks                      // it wrote one
	eventAnswered                  // it wrote a response
	eventHears                     // it read the begin of a response
	eventFree                      // it read the end of a response: the connection is free
	eventOpens                     // it began a connection
	eventOpen                      // its part of a TLS handshake is over
)

// side says whose event of an exchange it is.
func (k eventKind) side() uint8 {
	if k == eventAsked || k == eventAnswered {
		return ofServer
	}
	return ofClient
}

// mostEvents bounds what waits of one worker: at 20,000 requests a second there are some 8,000. What is too much is left out: the
// worker is not known any more.
const mostEvents = 1 << 15

// settles is how long before a group is given out a worker's events are looked at: by then all have come, as far as they ever will.
const settles = uint64(20 * time.Millisecond)

// note tells a worker what it did. Of threads of which nothing is known there is nothing to learn.
func (j *Joiner) note(kind eventKind, x *Exchange, pid, tid uint32, at uint64) {
	if pid == 0 || tid == 0 || at == 0 || x.noted&(1<<kind) != 0 || x.named&kind.side() != 0 || !j.isProxy(pid) {
		return
	}
	x.noted |= 1 << kind
	w := j.workers[workerKey{pid, tid}]
	if w == nil {
		w = j.newWorker(pid, tid)
	}
	j.happens(w, event{at: at, of: refTo(x), kind: kind})
}

// happens adds to what a worker did.
func (j *Joiner) happens(w *worker, e event) {
	w.used = j.now
	if len(w.events) >= mostEvents {
		w.forget()
		j.lost.workerFull.Add(1)
		return
	}
	w.events = append(w.events, e)
}

func (j *Joiner) newWorker(pid, tid uint32) *worker {
	w := &worker{proc: j.process(pid), classes: map[classKey]*class{}, pools: map[poolKey]*pool{}, lines: map[uint64]*line{}}
	j.workers[workerKey{pid, tid}] = w
	return w
}

// work looks at what workers did up to some time before now.
func (j *Joiner) work(upto uint64) {
	for _, w := range j.workers {
		due, next := w.due(upto, j.dueEvents[:0])
		for i, d := range due {
			after := next
			if i+1 < len(due) {
				after = due[i+1].place
			}
			if e := &w.events[d.place]; e.leg != nil || e.of.of() != nil {
				w.do(e, w.opensAt(after))
			}
		}
		j.dueEvents = due
		w.events = slices.DeleteFunc(w.events, func(e event) bool { return e.at <= upto })
		w.done = max(w.done, upto)
	}
}

// dueEvent is where an event stands among those of a worker.
type dueEvent struct {
	at    uint64
	place int
}

// due appends the events up to a time, in order, and says where the first of the others is, -1: there is none. It sorts what it must, and not
// the events themselves: they are large, and many come long before they are due.
func (w *worker) due(upto uint64, in []dueEvent) (due []dueEvent, next int) {
	due, next = in, -1
	mixed := false
	for i := range w.events {
		switch at := w.events[i].at; {
		case at <= upto:
			mixed = mixed || len(due) > 0 && due[len(due)-1].at > at
			due = append(due, dueEvent{at, i})
		case next < 0 || at < w.events[next].at:
			next = i
		}
	}
	if mixed {
		slices.SortFunc(due, func(a, b dueEvent) int { return cmp.Or(cmp.Compare(a.at, b.at), a.place-b.place) })
	}
	return due, next
}

// opensAt returns to whom a worker begins a connection by the event at a place; zero: to nobody.
func (w *worker) opensAt(place int) poolKey {
	if place >= 0 && w.events[place].kind == eventOpens {
		return w.events[place].to
	}
	return poolKey{}
}

func (w *worker) do(e *event, opens poolKey) {
	late := e.at < w.done
	if late && e.kind == eventAsked { // whatever it has to do with was decided without it
		w.proc.inDoubt(e.at, w.done)
	}
	switch x := e.of.y; e.kind {
	case eventAsked:
		c := w.class(x)
		w.line(x, c).asked(x)
		c.reads(x)
		c.asked(x, w, late, c.pool != nil && c.pool == w.pools[opens])
	case eventAsks:
		w.asks(x, late)
	case eventAnswered:
		w.turns.writes(e.at, x.answeredBy())
		if l := w.lines[x.what()]; l != nil && l.answered(x) {
			delete(w.lines, x.what())
			w.spare = l
		}
		if x.class != nil {
			x.class.answered(x)
		}
	case eventHears:
		w.turns.owes(e.at)
	case eventFree:
		if x.noted&(1<<eventHears) == 0 {
			w.turns.owes(e.at)
		}
		if l := w.lines[x.what()]; l != nil {
			w.proc.fresh.compare(x)
			w.proc.orderOf(x).step(x, l.check(x))
		}
		w.poolOf(x).isContradicted(x)
		w.poolOf(x).free(x, w, late, e.at)
	case eventOpen:
		if e.at == e.leg.shook { // else there was more
			w.poolAt(e.to).shaken(w, e.leg)
		}
	case eventOpens:
		p := w.poolAt(e.to)
		if late { // who it is for was taken for one that goes on by another one
			p.fail(w.done)
		}
		p.begins(e.leg, e.at)
		w.opens(e.leg, p, e.at, late)
	}
}

// answeredBy is when the response was read that answers a request, in ns, as far as models say; 0: that is not known.
func (y *Exchange) answeredBy() uint64 {
	if x := y.handsOn.of(); x != nil && x.Resp != nil {
		return x.Resp.heardNs()
	}
	return 0
}

// heardNs is when a response was read, in ns: as a whole, if that was at once.
func (m *Message) heardNs() uint64 {
	if end := max(m.RecvNs, m.RecvEndNs); end < m.RecvNs+readsAtOnce {
		return end
	}
	return m.RecvNs
}

// readsAtOnce is how long reading takes, in ns, in one turn.
const readsAtOnce = uint64(200 * time.Microsecond)

// asks takes in what the worker asks.
func (w *worker) asks(x *Exchange, late bool) {
	up, p := &x.Req.leg.up, w.poolOf(x)
	isNew := !up.used && x.Req.leg.opener != 0
	if !up.used {
		up.used = true
		if !up.certain {
			w.proc.opens(x)
		}
	}
	l, at, behind, sure := w.lines[x.what()], 0, 0, !late
	if x.Stream.ID != 0 {
		only := w.only(p)
		if x.vague {
			l = only
		}
		behind, sure = up.streams.place(x.Stream.ID, isNew)
		at = behind
		if l == nil || l != only { // streams of others are among those that were not seen
			at, sure = 0, sure && at == 0 && !late
		} else {
			l.streams = &up.streams
		}
	}
	o := w.proc.orderOf(x)
	var c *class
	if l != nil {
		c = l.class
	}
	switch opened := up.opened; {
	case isNew && x.Stream.ID == 0 && opened.of() != nil:
		x.inOrder, x.byOpening = opened, true
		x.byWaiting = opened.y.class.waitedLongest(opened.y, x.Req.StartNs)
		w.leaveLine(opened.y)
	case l != nil:
		l.asks(x, at, !sure)
	}
	up.opened, up.certain = guess{}, false
	switch {
	case l != nil && x.inOrder.y == nil, x.vague: // some line still has what it was asked for
		o.doubt.add(x.Req.StartNs, x.until())
		o.in, o.chosen, o.out = 0, 0, max(o.out, x.Req.StartNs)
	case !sure:
		o.doubt.add(x.Req.StartNs, max(w.done, x.Req.StartNs))
	}
	p.asks(x, c, w, behind)
}

// forget drops all that a worker was seen to do.
func (w *worker) forget() {
	w.events = w.events[:0]
	clear(w.classes)
	clear(w.pools)
	clear(w.lines)
}

// retireWorkers forgets those that were idle, and processes without any.
func (j *Joiner) retireWorkers(idle uint64) {
	for k, w := range j.workers {
		if j.now-w.used > idle {
			delete(j.workers, k)
			continue
		}
		w.proc.used = max(w.proc.used, w.used)
	}
	for pid, p := range j.processes {
		if j.now-p.used > idle && p.app.open == 0 {
			delete(j.processes, pid)
		}
	}
}

// what a request asks for, as the shelf's key.
func (x *Exchange) what() uint64 { return x.target ^ x.host*31 }
