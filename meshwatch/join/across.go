package join

import "github.com/meshwatch/meshwatch/meshwatch/journey"

// What relates exchanges of different groups: those whose heads say nothing of each other, such as that of an app without an id and the one that its
// sidecar makes of it.

// relateAcross looks for causes and consequences of a group's exchanges in other groups, and takes these in. True: it did.
func (j *Joiner) relateAcross(g *group) (grew bool) {
	n := len(g.xs)
	for i := 0; i < len(g.xs); i++ {
		x := g.xs[i]
		if x.parent == nil && !x.sought {
			j.seekCause(x)
		}
		if !x.asked && !x.offered && x.offeredAt != j.now && x.listed && x.servedBy != 0 && j.isProxy(x.servedBy) {
			j.assign(x.servedBy, nil, x)
		}
	}
	return len(g.xs) != n
}

func (j *Joiner) isProxy(pid uint32) bool { return j.cfg.Proxy != nil && j.cfg.Proxy(pid) }

// seekCause looks for the cause of an exchange among all that its process was asked.
func (j *Joiner) seekCause(x *Exchange) {
	pid := x.ClientPid()
	switch {
	case pid == 0 || j.processes[pid] == nil:
	case !j.isProxy(pid):
		j.seekInApp(j.processes[pid], x)
	case x.listed && x.askedBy != 0 && x.soughtAt != j.now:
		j.assign(pid, x, nil)
	}
}

// seekInApp looks for the cause of what an app asked, which may do anything: one request alone proves nothing. Where one thread does all of a
// request and nothing else meanwhile, its thread tells.
func (j *Joiner) seekInApp(p *process, x *Exchange) {
	at, tid := x.Req.StartNs, x.Req.Flight.Thread()
	open, first := 0, (*Exchange)(nil)
	looks := maxCounted
	if p.ways.threadPerRequest() {
		looks = maxLooked
	}
	from := p.in.from(at)
	for _, e := range p.in.list[from:min(len(p.in.list), from+looks)] {
		if y := e.x; y != nil && y != x && y.Req.RecvNs <= at {
			open++
			if first == nil && y.readTid == tid && y.answerTid == tid {
				first = y
			}
		}
	}
	if first != nil && tid != 0 && p.ways.threadPerRequest() {
		j.claim(x, first, journey.MethodThread, open)
		return
	}
	x.candidates = max(x.candidates, int32(open)) //nolint:gosec // at most maxLooked
}

// maxCounted is up to how many candidates are counted that prove nothing.
const maxCounted = 64

// maxLooked is how many exchanges are looked at in search of one.
const maxLooked = 4096

// claim joins x to its cause, and their groups.
func (j *Joiner) claim(x, y *Exchange, m journey.Method, candidates int) {
	if !j.adopt(x, y) {
		return
	}
	x.parent, x.claimed, y.asked = y, true, true
	x.candidates = int32(candidates) //nolint:gosec // at most maxLooked
	x.Relay = journey.Relay{Method: m, Confidence: confidenceOf(m), Candidates: candidates, Pid: int(x.ClientPid())}
}

// adopt has x weighed together with y. False: they would be too many.
func (j *Joiner) adopt(x, y *Exchange) bool {
	a, b := j.groupOf(y), j.groupOf(x)
	if a == b {
		return true
	}
	if len(a.xs)+len(b.xs) > maxGroup {
		j.lost.groupFull.Add(1)
		return false
	}
	if b == j.flushing {
		a, b = b, a
	}
	j.merge(a, b)
	return true
}

// confidenceOf is the share of joins that are right, as `make accuracy` measures it.
func confidenceOf(m journey.Method) float64 {
	if m == journey.MethodOrder {
		return 0.998
	}
	return 0.9995
}

func (j *Joiner) groupOf(x *Exchange) *group {
	if x.group == nil {
		j.join(j.newGroup(), x)
	}
	return x.group
}

// merge moves everything of b to a.
func (j *Joiner) merge(a, b *group) {
	for _, x := range b.xs {
		x.group = a
	}
	a.xs = append(a.xs, b.xs...)
	a.open += b.open
	a.last = max(a.last, b.last)
	for _, id := range b.ids {
		j.groups[id] = a
	}
	for _, t := range b.traces {
		j.traces[t] = a
	}
	a.ids, a.traces = append(a.ids, b.ids...), append(a.traces, b.traces...)
	clear(b.xs)
	b.ids, b.traces, b.xs, b.open = b.ids[:0], b.traces[:0], b.xs[:0], 0
	if b.queued {
		b.dead = true // flush takes it back
	} else {
		j.freeGroup(b)
	}
}

// related says whether a head of its own group tells the cause of x in this process.
func (x *Exchange) related(pid uint32) bool {
	if x.claimed {
		return true
	}
	if x.group == nil {
		return false
	}
	for _, y := range x.group.xs {
		if y != x && y.ServerPid() == pid && y.holds(x.Req.StartNs) && sameRequest(x, y) && !leavesPod(x, y) {
			return true
		}
	}
	return false
}

// served says whether what the process asked for y is known.
func (x *Exchange) served(pid uint32) bool {
	if x.asked || x.group == nil {
		return x.asked
	}
	for _, z := range x.group.xs {
		if z != x && z.ClientPid() == pid && x.holds(z.Req.StartNs) && (z.parent == x || z.parent == nil && sameRequest(z, x) && !leavesPod(z, x)) {
			return true
		}
	}
	return false
}

// fits says whether y can be the cause of x in a proxy, which asks for each request it reads once, while it has it, for the same thing.
func (j *Joiner) fits(p *process, x, y *Exchange) bool {
	w := &p.ways
	switch {
	case y == x, y.target != x.target, y.host != x.host, y.Resp.Status != x.Resp.Status:
		return false
	case y.Req.RecvNs > x.Req.StartNs, y.answeredAt < x.askedAt:
		return false
	case x.hasID && y.hasID && x.id != y.id, x.TraceID != y.TraceID && x.TraceID != [16]byte{} && y.TraceID != [16]byte{}:
		return false
	case w.holds(w.threads) && !sameThread(x, y):
		return false
	}
	if x.settleTurns(p.turns); w.turnsBack() && y.answeredAt >= x.writtenUntil || x.Connect == nil && w.turnsForth() && y.Req.RecvNs < x.readSince {
		return false
	}
	if leavesPod(x, y) {
		return false
	}
	j.describeLines(x)
	j.describeLines(y)
	return (!w.holds(w.lines) || x.lines == y.lines) && (!w.holds(w.answers) || x.respLines == y.respLines)
}
