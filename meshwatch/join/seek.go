package join

import (
	"slices"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// consider gathers what may have caused an exchange whose head does not say it, when it is answered: among what its process was asked then
// and is still asked, or has answered since.
func (j *Joiner) consider(x *Exchange) {
	on := x.asClient.on
	if on == nil || x.Resp == nil || x.considered {
		return
	}
	x.considered = true
	if j.isRelated(x) {
		return
	}
	if x.rivals > 2*mostFits {
		x.giveUp()
		return
	}
	looked := 0
	for p := on.in.last; p != nil; p = p.prev {
		if looked++; !j.mayBe(x, p.x) || looked > mostLooks {
			x.giveUp()
			return
		}
	}
	for p := on.over.last; p != nil && p.x.Resp.StartNs >= x.Req.StartNs; p = p.prev {
		if looked++; !j.mayBe(x, p.x) || looked > mostLooks {
			x.giveUp()
			return
		}
	}
}

// mostLooks bounds what is looked at for that.
const mostLooks = 256

// mayBe notes y among those that may have caused x, if heads and times allow it. False: they are too many.
func (j *Joiner) mayBe(x, y *Exchange) bool {
	if !allows(x, y) {
		return true
	}
	if len(x.may) == mostFits {
		return false
	}
	x.may = append(x.may, refTo(y))
	return true
}

// giveUp says that nothing is decided by leaving others out.
func (x *Exchange) giveUp() { x.may, x.sought = x.may[:0], mostFits }

// isRelated says whether heads say something of the cause.
func (j *Joiner) isRelated(x *Exchange) bool {
	if x.group == nil {
		return false
	}
	pid := x.ClientPid()
	return slices.ContainsFunc(x.group.xs, func(y *Exchange) bool { return headsSay(x, y, pid) })
}

// seek looks for the cause of an exchange whose head does not say it, among all that its process was asked.
func (j *Joiner) seek(x *Exchange) bool {
	pid := x.ClientPid()
	if x.byThread.y != nil {
		return j.seekByThread(x)
	}
	if x.claimed || !x.considered || x.Resp == nil {
		return false
	}
	if since, ok := j.heldOf[pid]; ok && since <= x.until() {
		return false // what caused it may be among what is held
	}
	if len(x.may) > fewAsk && j.byModel(x) {
		return true
	}
	if x.sought >= mostFits {
		return j.byModel(x)
	}
	n, all := j.weigh(x)
	x.sought = int32(n) //nolint:gosec // at most mostFits
	if n == 0 {
		return false
	}
	y := j.found[0]
	if n > 1 || j.contested(x, y) || j.mayLack(x, y) {
		return j.byModel(x)
	}
	return j.claim(x, y, journey.Relay{Method: journey.MethodContent, Confidence: contentAlone, Candidates: all})
}

// mayLack says whether the true cause may be one that came too late to be weighed, or was missed: something of the process was, and others
// ask for the same.
func (j *Joiner) mayLack(x, y *Exchange) bool {
	p := j.processes[x.ClientPid()]
	if p == nil {
		return false
	}
	return p.late.touch(x.Req.StartNs, x.until()) ||
		(x.rivals > 1 || len(x.may) > 1) && p.gaps.touch(y.Req.StartNs-min(y.Req.StartNs, unsettled), x.until()+unsettled)
}

// unsettled is for how long what was missed may mislead, in ns: others are left out by joins that are wrong, or by responses that are paired
// with what they do not answer.
const unsettled = uint64(500 * time.Millisecond)

// holds notes since when flights of which processes are held: until they are given, not all that these were asked is known.
func (j *Joiner) holds() {
	clear(j.heldOf)
	for l := range j.holding {
		for i := range l.held {
			f := &l.held[i].f
			for _, pid := range [...]uint32{f.SendPid, f.RecvPid} {
				if since, ok := j.heldOf[pid]; !ok || f.StartNs < since {
					j.heldOf[pid] = f.StartNs
				}
			}
		}
	}
}

// isHopeless says whether waiting for more will not bring an exchange its cause: that has come, among too many, and no model that may yet
// be proven says which it is. An id may come with what its client answers.
func (x *Exchange) isHopeless() bool {
	return !x.hasID && x.sought >= mostFits && (x.inPool.y == nil || x.inPool.shaky)
}

// fewAsk is how many may ask for the same before it is cheaper to ask the models than to weigh all of them.
const fewAsk = 8

// contentAlone is the share of joins by content that are right, see docs/accuracy.md.
const contentAlone = 0.999

// mostFits bounds what is weighed for one exchange: beyond that nothing is decided by leaving others out. 512 B.
const mostFits = 32

// weigh gathers in found those that may have caused x, and says how many they are: all of them, and what is left by what the process was
// seen to keep to.
func (j *Joiner) weigh(x *Exchange) (n, all int) {
	j.found = j.found[:0]
	for _, r := range x.may {
		if y := r.of(); y != nil && fits(x, y) {
			j.found = append(j.found, y)
		}
	}
	all = len(j.found)
	return j.narrowed(x), all
}

// narrowed leaves those of found that agree with x in what the process was seen to keep.
func (j *Joiner) narrowed(x *Exchange) int {
	n := len(j.found)
	p := j.processes[x.ClientPid()]
	if n < 2 || p == nil {
		return n
	}
	for _, keeps := range [...]struct {
		by   *record
		same func(x, y *Exchange) bool
	}{{&p.thread, sameThread}, {&p.lines, j.sameLines}, {&p.answers, j.sameAnswers}} {
		if n < 2 || !keeps.by.proven() {
			continue
		}
		if m := narrow(j.found[:n], func(y *Exchange) bool { return keeps.same(x, y) }); m > 0 {
			n = m
		}
	}
	j.found = j.found[:n]
	return n
}

// sameThread says whether the thread that read y wrote x.
func sameThread(x, y *Exchange) bool { return y.Req.Flight.RecvTid == x.Req.Flight.Thread() }

// sameLines says whether the requests have the same lines of those that are handed on.
func (j *Joiner) sameLines(x, y *Exchange) bool {
	return same(j.keptLines(x.Req, &x.lines[0]), j.keptLines(y.Req, &y.lines[0]))
}

// sameAnswers is the same of the responses.
func (j *Joiner) sameAnswers(x, y *Exchange) bool {
	return same(j.keptLines(x.Resp, &x.lines[1]), j.keptLines(y.Resp, &y.lines[1]))
}

// same says whether nothing speaks against two heads having the same lines.
func same(a, b uint64) bool { return a == b || a == 0 || b == 0 }

// keptLines is what proxies keep of a head, 0 where that was not captured as a whole. known keeps it.
func (j *Joiner) keptLines(m *Message, known *uint64) uint64 {
	if *known == 0 && m != nil && m.result == head.Complete {
		*known = j.cfg.Parser.EndToEnd(m.captured(), j.seed) | 1
	}
	return *known
}

// contested says whether another exchange has no other cause than y either: then one of the two has lost its own. Those that may are
// near x: what a process asks stands in the order of its asking.
func (j *Joiner) contested(x, y *Exchange) bool {
	looked := 0
	for p := x.asClient.prev; p != nil && p.x.Req.StartNs >= y.Req.RecvNs; p = p.prev {
		if looked++; looked > mostFits || j.alsoOnly(p.x, y) {
			return true
		}
	}
	for p := x.asClient.next; p != nil && (y.Resp == nil || p.x.Req.StartNs <= y.Resp.StartNs); p = p.next {
		if looked++; looked > mostFits || j.alsoOnly(p.x, y) {
			return true
		}
	}
	return false
}

// alsoOnly says whether nothing but y can have caused z, too.
func (j *Joiner) alsoOnly(z, y *Exchange) bool {
	if z.parent != nil || !fits(z, y) {
		return false
	}
	n, _ := j.weigh(z)
	return n == 1 && j.found[0] == y
}

// fits says whether a proxy may have asked x to answer y, which asks for the same: it had read y and not answered when it sent x, it
// answered after x was, by the same status, and heads do not contradict.
func fits(x, y *Exchange) bool {
	return x.Resp != nil && allows(x, y) && !y.busyAt(x.Req.StartNs)
}

// allows is what of that no other join changes.
func allows(x, y *Exchange) bool {
	return inTime(x, y) && !headsContradict(x, y)
}

// headsContradict says whether two exchanges carry ids of different requests.
func headsContradict(x, y *Exchange) bool {
	none := [16]byte{}
	return x.hasID && y.hasID && x.id != y.id || x.TraceID != y.TraceID && x.TraceID != none && y.TraceID != none
}

// inTime is what of that no id decides.
func inTime(x, y *Exchange) bool {
	if x == y || y.ServerPid() != x.ClientPid() || !y.holds(x.Req.StartNs) || y.Req.StartNs >= x.Req.StartNs || leavesPod(x, y) {
		return false
	}
	return y.Resp == nil || y.Resp.StartNs >= x.Resp.RecvNs && (x.Resp.Status >= 500 || y.Resp.Status == x.Resp.Status)
}
