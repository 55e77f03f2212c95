package join

import (
	"slices"
	"time"
)

// app is a process of Go that asks others and is asked itself: in which goroutine it does what. Where its requests carry no id, that says
// for which request each was made. HTTP/1 only: a connection of HTTP/2 is written by one goroutine, whatever is answered.
type app struct {
	asks     map[uint32][]*Exchange   // goroutine that asked, or its parent → what was asked, of which the cause is not known
	open     map[*Exchange]struct{}   // what the process was asked and has not answered
	children map[uint32]*childOfOther // goroutines that have a parent
	used     uint64
}

// childOfOther is a goroutine that asked, and may have been started for a request.
type childOfOther struct {
	first uint64 // when it asked for the first time, as far as it was seen
	last  uint64
}

const (
	maxChildren = 1 << 16
	// appIdle is how long is remembered which goroutine asked, ns.
	appIdle = uint64(time.Minute)
	// patience is how many times Config.Parents a request waits for its process to answer what it may have been made for.
	patience = 10
	// ofChild is the confidence of a join by the goroutine that was started by the one that answered: it may be left over from an earlier
	// request on the same connection.
	ofChild = 0.99
)

// askedBy notes who works on a request of HTTP/1: its server, which may ask others for it, and its client, if that is a server itself.
func (j *Joiner) askedBy(x *Exchange) {
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
	a := &app{asks: map[uint32][]*Exchange{}, open: map[*Exchange]struct{}{}, children: map[uint32]*childOfOther{}}
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

// workers are the goroutine that a request is of, and the one that started that; 0: not known.
func workers(x *Exchange) (caller, parent uint32) {
	caller, parent, _ = x.Req.Flight.Goroutine()
	return caller, parent
}

// byGoroutine looks what was asked for y by the goroutine that has answered it now.
func (j *Joiner) byGoroutine(y *Exchange) {
	j.answers(y)
	pid := y.Resp.SendPid
	a := j.apps[pid]
	if a == nil || y.Req.RecvPid != pid {
		return
	}
	a.used = j.now
	worker, _, ok := y.Resp.Flight.Goroutine()
	if !ok {
		return
	}
	for _, x := range slices.Clone(a.asks[worker]) {
		if confidence := a.madeFor(x, y, worker); confidence > 0 && !leavesPod(x, y) && j.gather(x, y) {
			a.forget(x)
			x.maker, x.madeSure, x.group.stale = y, confidence, true
		}
	}
}

// madeFor is how sure it is that x was asked for y, which this goroutine of the process has answered; 0: it was not.
func (a *app) madeFor(x, y *Exchange, worker uint32) float64 {
	at := x.Req.StartNs
	if !y.holds(at) || y.Req.ends == endsWithHead && y.Req.RecvEndNs > at { // it came while the one before was served
		return 0
	}
	switch caller, parent := workers(x); {
	case caller == worker:
		return 1
	case parent == worker && a.startedFor(caller, y) && x.Resp != nil && x.Resp.RecvNs != 0 && x.Resp.RecvNs <= y.Resp.StartNs:
		return ofChild
	}
	return 0
}

// startedFor says whether nothing was seen of a goroutine before y came.
func (a *app) startedFor(child uint32, y *Exchange) bool {
	c := a.children[child]
	return c != nil && c.first >= y.Req.RecvNs
}

// awaited says whether something that one of a group may have been asked for is not answered yet.
func (j *Joiner) awaited(g *group) bool {
	for _, x := range g.xs {
		if !x.asks {
			continue
		}
		for y := range j.apps[x.Req.SendPid].open {
			if y.holds(x.Req.StartNs) {
				return true
			}
		}
	}
	return false
}

// answers notes that nobody is waited for any more who answers x: it was answered, or nobody will see it.
func (j *Joiner) answers(x *Exchange) {
	if !x.open {
		return
	}
	x.open = false
	if a := j.apps[x.Req.RecvPid]; a != nil {
		delete(a.open, x)
	}
}

// forgetWorkers drops what is known of an exchange that is taken back.
func (j *Joiner) forgetWorkers(x *Exchange) {
	j.answers(x)
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
		if j.now-a.used > appIdle && len(a.asks) == 0 && len(a.open) == 0 {
			delete(j.apps, pid)
		}
	}
}
