package join

import "github.com/meshwatch/meshwatch/meshwatch/journey"

// What models of a process's workers say (pool.go, line.go, opened.go) is claimed once joins that were decided otherwise prove them.

// byModel claims what a proven model says.
func (j *Joiner) byModel(x *Exchange) bool {
	p := j.processes[x.ClientPid()]
	if p == nil {
		return false
	}
	// where something was missed each may have taken the place of the one before
	if y := x.ofPool(); y != nil && p.believesPool(x) && fits(x, y) && p.believesWaiting(x) && !p.gaps.touch(y.Req.RecvNs-min(y.Req.RecvNs, unsettled), x.until()) {
		return j.claim(x, y, journey.Relay{Method: journey.MethodPool, Confidence: poolConfidence, Candidates: max(1, int(x.rivals))})
	}
	if y := p.ofOrder(x); y != nil && p.keepsOrder(x, y) && fits(x, y) {
		return j.claim(x, y, journey.Relay{Method: journey.MethodOrder, Confidence: orderConfidence, Candidates: max(1, int(x.rivals))})
	}
	return false
}

// ofPool is the cause of x by its pool, nil: that does not say.
func (x *Exchange) ofPool() *Exchange {
	y := x.inPool.of()
	if y == nil || x.inPool.shaky || x.pool.broken >= y.Req.RecvNs || x.pool.shifted.touch(x.Req.StartNs, x.Req.StartNs) || !inTime(x, y) {
		return nil
	}
	return y
}

// poolOf is the record of what x was joined by in its pool.
func (p *process) poolOf(x *Exchange) *record {
	switch {
	case x.inPool.waited && x.inPool.choice:
		return &p.waits
	case x.inPool.waited:
		return &p.waitsAlone
	}
	return &p.pool
}

// believesPool says whether what x was joined by in its pool is proven: by itself, or as a part of the model that is, once a proxy that does
// that part otherwise would have been found out.
func (p *process) believesPool(x *Exchange) bool {
	r := p.poolOf(x)
	all := record{p.pool.right + p.waits.right + p.waitsAlone.right, p.pool.wrong + p.waits.wrong + p.waitsAlone.wrong}
	return r.proven() || r.wrong == 0 && r.right >= leastOfPart && all.proven()
}

// leastOfPart is how often: who does otherwise is right by chance in one of two at most.
const leastOfPart = 12

// ofOrder is the cause of x by the order of reading, nil: that does not say.
func (p *process) ofOrder(x *Exchange) *Exchange {
	y, o, chosen := x.inOrder.of(), p.orderOf(x), x.Req.StartNs
	if x.byOpening && x.Connect != nil {
		chosen = x.Connect.StartNs
	}
	if y == nil || x.inOrder.shaky || o.doubt.touch(y.Req.RecvNs, chosen) || p.isOpening(o, x.Req.StartNs) || !inTime(x, y) {
		return nil
	}
	return y
}

// keepsOrder says whether a process hands on in the order of its reading. On one HTTP/2 connection that is so wherever connections
// are taken in the order of reading: streams are opened one after the other.
func (p *process) keepsOrder(x, y *Exchange) bool {
	r := p.orderOf(x)
	if !r.inStep(y) || r == &p.opened && !p.believesOpened(x) {
		return false
	}
	if r == &p.opened && r.neverOtherwise() {
		return true
	}
	if r.alone.proven() && (!x.inOrder.choice || r.wrong == 0 && r.chosen >= leastChosen && (r != &p.order || !p.pool.proven())) {
		return true
	}
	return r.proven() || r == &p.streams && r.wrong == 0 && p.pool.proven()
}

// inStep says whether the order was kept since before y was read.
func (o *order) inStep(y *Exchange) bool { return o.in >= leastInStep && o.out < y.Req.RecvNs }

// leastChosen is how many exchanges with others waiting must not have contradicted the order, where none was tested. Of two that change places
// one is answered before what it is taken for, whichever is answered first: each time, unless the worker reads both answers in one turn. So
// it does not count where connections are seen to be taken otherwise.
const leastChosen = 64

// leastInStep is how many exchanges must not have contradicted the order since one did: one that is out of step does so half of the time.
const leastInStep = 32

const (
	poolConfidence  = 0.999
	orderConfidence = 0.999
)

// learn compares with a join that heads decided, or that had no rival, what would have decided it without that.
func (j *Joiner) learn(x *Exchange) {
	p, y := j.processes[x.ClientPid()], x.parent
	if p == nil || p.named || y == nil || x.Resp == nil || x.Relay.Method == journey.MethodContent && x.Relay.Candidates > 1 {
		return
	}
	if m := x.Relay.Method; m == journey.MethodPool || m == journey.MethodOrder {
		return
	}
	if z := x.ofPool(); z != nil && (x.inPool.choice || x.inPool.waited && x.rivals > 1) {
		p.poolOf(x).test(z == y)
	}
	if z := p.ofOrder(x); z != nil && p.orderOf(x).inStep(z) { // out of step nothing is claimed
		if o := p.orderOf(x); x.inOrder.choice {
			o.test(z == y)
		} else if x.rivals > 1 {
			o.alone.test(z == y)
		}
	}
	p.thread.test(sameThread(x, y))
	if p.tests++; p.tests < 4*leastTests || p.tests%testsEach == 0 {
		p.lines.test(j.sameLines(x, y))
		if y.Resp != nil {
			p.answers.test(j.sameAnswers(x, y))
		}
	}
}

// testsEach is of how many joins one is compared by its lines, once some were: that is the dearest.
const testsEach = 16
