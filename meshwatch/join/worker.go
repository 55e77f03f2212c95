package join

import (
	"slices"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// app is a process that asks others and is asked itself: in which goroutine or thread it does what. Where its requests carry no id, that
// says for which request each was made. HTTP/1 only: a connection of HTTP/2 is written by one goroutine, whatever is answered.
type app struct {
	asks     map[uint32][]*Exchange   // goroutine that asked, or its parent, or thread → what was asked, of which the cause is not known
	open     map[*Exchange]struct{}   // what the process was asked and has not answered
	children map[uint32]*childOfOther // goroutines that have a parent
	threads  threads
	used     uint64
}

// childOfOther is a goroutine that asked, and may have been started for a request.
type childOfOther struct {
	first uint64 // when it asked for the first time, as far as it was seen
	last  uint64
}

const (
	maxChildren = 1 << 16
	// appIdle is how long is remembered which goroutine asked, and which thread answered, ns.
	appIdle = uint64(time.Minute)
	// patience is how many times Config.Parents a request waits for its process to answer what it may have been made for.
	patience = 10
	// ofChild is the confidence of a join by the goroutine that was started by the one that answered: it may be left over from an earlier
	// request on the same connection.
	ofChild = 0.99
	// ofThread is that of a join by thread: the process was seen to serve one request at a time in each, but other work may be done there, too.
	ofThread = 0.99
)

// asked notes who works on a request of HTTP/1: its server, which may ask others for it, and its client, if that is a server itself.
func (j *Joiner) asked(x *Exchange) {
	if a := j.apps[x.Req.RecvPid]; a != nil {
		a.open[x] = struct{}{}
		x.open = true
	}
	a := j.appOf(x)
	if a == nil {
		return
	}
	a.used = j.now
	caller, parent := workers(x)
	x.asks = true
	a.asks[caller] = append(a.asks[caller], x)
	if parent == 0 {
		return
	}
	a.asks[parent] = append(a.asks[parent], x)
	if c := a.children[caller]; c != nil {
		c.last = x.Req.StartNs
	} else if len(a.children) < maxChildren {
		a.children[caller] = &childOfOther{x.Req.StartNs, x.Req.StartNs}
	}
}

// appOf is the process that asks, if it can be told for which request it does; else nil.
func (j *Joiner) appOf(x *Exchange) *app {
	pid := x.Req.SendPid
	if caller, _ := workers(x); pid == 0 || caller == 0 {
		return nil
	}
	if a := j.apps[pid]; a != nil {
		return a
	}
	if _, serves := j.servers[pid]; !serves {
		return nil
	}
	if _, _, ok := x.Req.Flight.Goroutine(); !ok && j.cfg.Proxy != nil && j.cfg.Proxy(pid) {
		return nil // its threads do everything at once
	}
	a := &app{asks: map[uint32][]*Exchange{}, open: map[*Exchange]struct{}{}, children: map[uint32]*childOfOther{}, threads: threads{until: map[uint32]uint64{}}}
	j.apps[pid] = a
	for _, h := range j.halves {
		for _, y := range h.leg.queue {
			if y.Req.RecvPid == pid {
				a.open[y], y.open = struct{}{}, true
			}
		}
	}
	return a
}

// workers are the goroutine, or the thread, that a request is of, and the goroutine that started that; 0: not known.
func workers(x *Exchange) (caller, parent uint32) {
	if caller, parent, ok := x.Req.Flight.Goroutine(); ok {
		return caller, parent
	}
	return x.Req.Flight.Thread(), 0
}

// answered looks what was asked for y by the goroutine, or the thread, that has answered it now.
func (j *Joiner) answered(y *Exchange) {
	pid := y.Resp.SendPid
	a := j.apps[pid]
	if a == nil || y.Req.RecvPid != pid {
		return
	}
	a.used = j.now
	delete(a.open, y)
	worker, _, ok := y.Resp.Flight.Goroutine()
	if !ok {
		a.threads.served(y)
		worker = y.Resp.Flight.Thread()
	}
	if worker == 0 {
		return
	}
	for _, x := range slices.Clone(a.asks[worker]) {
		if method, confidence := a.madeFor(x, y); method != "" && !leavesPod(x, y) && j.adopt(x, y) {
			a.forget(x)
			x.maker, x.madeBy, x.madeSure = y, method, confidence
		}
	}
}

// madeFor says by what evidence x was asked for y, which the process has answered; no method: there is none.
func (a *app) madeFor(x, y *Exchange) (journey.Method, float64) {
	at := x.Req.StartNs
	if !y.holds(at) || y.Req.ends == endsWithHead && y.Req.RecvEndNs > at { // it came while the one before was served
		return "", 0
	}
	worker, _, ok := y.Resp.Flight.Goroutine()
	caller, parent, goes := x.Req.Flight.Goroutine()
	switch {
	case ok != goes:
	case !ok:
		if tid := y.Resp.Flight.Thread(); tid != 0 && tid == y.Req.Flight.RecvTid && tid == x.Req.Flight.Thread() && a.threads.serial() {
			return journey.MethodThread, ofThread
		}
	case caller == worker:
		return journey.MethodGoroutine, 1
	case parent == worker && a.startedFor(caller, y) && x.Resp != nil && x.Resp.RecvNs != 0 && x.Resp.RecvNs <= y.Resp.StartNs:
		return journey.MethodGoroutine, ofChild
	}
	return "", 0
}

// startedFor says whether nothing was seen of a goroutine before y came.
func (a *app) startedFor(child uint32, y *Exchange) bool {
	c := a.children[child]
	return c != nil && c.first >= y.Req.RecvNs
}

// adopt weighs x together with y. False: they would be too many.
func (j *Joiner) adopt(x, y *Exchange) bool {
	if y.group == nil {
		j.join(j.newGroup(), y)
	}
	g, h := x.group, y.group
	switch {
	case g == h:
		return true
	case g == nil:
		if len(h.xs) >= maxGroup {
			return false
		}
		j.join(h, x)
		return true
	case len(g.xs)+len(h.xs) > maxGroup:
		return false
	}
	for _, z := range g.xs {
		z.group = h
	}
	for _, id := range g.ids {
		if j.groups[id] == g {
			j.groups[id] = h
			h.ids = append(h.ids, id)
		}
	}
	for _, t := range g.traces {
		if j.traces[t] == g {
			j.traces[t] = h
			h.traces = append(h.traces, t)
		}
	}
	h.xs = append(h.xs, g.xs...)
	h.open += g.open
	h.last = max(h.last, g.last)
	clear(g.xs)
	g.ids, g.traces, g.xs, g.open = g.ids[:0], g.traces[:0], g.xs[:0], 0
	if !g.queued { // else flush takes it back
		j.freeGroups = append(j.freeGroups, g)
	}
	return true
}

// awaited says whether something that one of a group may have been asked for is not answered yet.
func (j *Joiner) awaited(g *group) bool {
	for _, x := range g.xs {
		if !x.asks {
			continue
		}
		for y := range j.apps[x.Req.SendPid].open {
			if y.Resp == nil && y.holds(x.Req.StartNs) {
				return true
			}
		}
	}
	return false
}

// forgetWorkers drops what is known of an exchange that is taken back.
func (j *Joiner) forgetWorkers(x *Exchange) {
	if x.open {
		if a := j.apps[x.Req.RecvPid]; a != nil {
			delete(a.open, x)
		}
	}
	if x.asks {
		j.apps[x.Req.SendPid].forget(x)
	}
}

// forget no longer looks for what x was asked for.
func (a *app) forget(x *Exchange) {
	x.asks = false
	caller, parent := workers(x)
	for _, worker := range [...]uint32{caller, parent} {
		list := slices.DeleteFunc(a.asks[worker], func(z *Exchange) bool { return z == x })
		if len(list) == 0 {
			delete(a.asks, worker)
		} else {
			a.asks[worker] = list
		}
	}
}

// sweepApps forgets what was not seen for a while.
func (j *Joiner) sweepApps() {
	for pid, a := range j.apps {
		for n, c := range a.children {
			if j.now-c.last > appIdle {
				delete(a.children, n)
			}
		}
		for tid, until := range a.threads.until {
			if j.now-until > appIdle {
				delete(a.threads.until, tid)
			}
		}
		if j.now-a.used > appIdle && len(a.asks) == 0 && len(a.open) == 0 {
			delete(j.apps, pid)
		}
	}
}

// threads tell whether a process serves each request in a thread that does nothing else meanwhile.
type threads struct {
	until    map[uint32]uint64 // thread → when it answered last
	count    int
	parallel bool // two were served at the same time, by two threads
	mixed    bool // a thread had two at a time, or one was handed on
}

// provenAfter is how many requests must have been served so.
const provenAfter = 10

func (t *threads) serial() bool { return t.parallel && !t.mixed && t.count >= provenAfter }

// served learns from an exchange that was answered.
func (t *threads) served(y *Exchange) {
	tid, read, wrote := y.Resp.Flight.Thread(), y.Req.RecvNs, y.Resp.StartNs
	if tid == 0 || read == 0 {
		return
	}
	if tid != y.Req.Flight.RecvTid || read < t.until[tid] {
		t.mixed = true
		return
	}
	if !t.parallel {
		for other, until := range t.until {
			t.parallel = t.parallel || other != tid && read < until
		}
	}
	t.count++
	t.until[tid] = wrote
}
