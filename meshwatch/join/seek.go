package join

import "github.com/meshwatch/meshwatch/meshwatch/journey"

// seek looks for the cause of an exchange whose head does not say it, among all that its process was asked.
func (j *Joiner) seek(x *Exchange) bool {
	pid := x.ClientPid()
	x.sought = 0
	if x.claimed || x.asClient.on == nil || x.Resp == nil || j.cfg.Proxy == nil || !j.cfg.Proxy(pid) {
		return false
	}
	if j.byModel(x) {
		return true
	}
	y, n := j.sole(x)
	x.sought = int32(n) //nolint:gosec // at most mostFits
	if n != 1 || j.contested(x, y) {
		return false
	}
	return j.claim(x, y, journey.Relay{Method: journey.MethodContent, Confidence: contentAlone, Candidates: 1})
}

// contentAlone is the share of joins by content that are right, see docs/accuracy.md.
const contentAlone = 0.999

// mostFits bounds what is weighed for one exchange: beyond that nothing is decided by leaving others out.
const mostFits = 64

// sole is the one exchange that may have caused x, and how many there are, up to mostFits.
func (j *Joiner) sole(x *Exchange) (y *Exchange, n int) {
	at, looked := x.asClient.on, 0
	for p := at.in.last; p != nil; p = p.prev {
		if looked++; looked > mostLooks || n == mostFits {
			return y, mostFits // there may be more
		}
		if fits(x, p.x) {
			y = p.x
			n++
		}
	}
	for p := at.over.last; p != nil && p.x.Resp.StartNs >= x.Req.StartNs; p = p.prev {
		if looked++; looked > mostLooks || n == mostFits {
			return y, mostFits
		}
		if fits(x, p.x) {
			y = p.x
			n++
		}
	}
	return y, n
}

// mostLooks bounds what is looked at for that.
const mostLooks = 512

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
	_, n := j.sole(z)
	return n == 1
}

// fits says whether a proxy may have asked x to answer y, which asks for the same: it had read y and not answered when it sent x, it
// answered after x was, by the same status, and heads do not contradict.
func fits(x, y *Exchange) bool {
	if x == y || !y.holds(x.Req.StartNs) || y.Req.StartNs >= x.Req.StartNs || leavesPod(x, y) {
		return false
	}
	if x.Resp == nil || y.Resp != nil && (y.Resp.StartNs < x.Resp.RecvNs || x.Resp.Status < 500 && y.Resp.Status != x.Resp.Status) {
		return false
	}
	if x.hasID && y.hasID && x.id != y.id {
		return false
	}
	none := [16]byte{}
	return (x.TraceID == y.TraceID || x.TraceID == none || y.TraceID == none) && !y.busyAt(x.Req.StartNs)
}
