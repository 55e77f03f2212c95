package join

import (
	"slices"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// assignment is a proxy's open question: which of the requests it had caused which of those it sent. Each causes at most one: a join is
// proven if it is in every assignment that relates as many as can be.
type assignment struct {
	j      *Joiner
	p      *process
	pid    uint32
	held   uint64 // what came from then on is not known
	back   uint64 // a response is sent at most so long after it was read; 0: not known
	xs     []*Exchange
	ys     []*Exchange
	edges  [][]int32 // of xs: in ys
	of     []int32   // of xs: the one it has, -1: none
	has    []int32   // of ys
	seen   []bool    // of ys, in one search
	full   bool      // there are too many
	looked int       // of xs: edges are known
}

// maxAssigned is how many requests are weighed at once.
const maxAssigned = 128

// maxFits is up to how many may have caused one: with more nothing is proven, as all of them hang together.
const maxFits = 12

// assign relates x to its cause, or what was made of y to y, together with all others that could be: what is decided is decided for all.
func (j *Joiner) assign(pid uint32, x, y *Exchange) {
	p := j.processes[pid]
	if p == nil {
		return
	}
	a := &j.question
	a.reset(j, p, pid)
	if x != nil {
		a.addX(x)
	} else {
		a.addY(y)
	}
	a.explore()
	a.weighed()
	if a.full {
		a.giveUp()
		return
	}
	a.match()
	a.settle()
}

// explore finds all that hang together.
func (a *assignment) explore() {
	for k := 0; (a.looked < len(a.xs) || k < len(a.ys)) && !a.full; {
		if a.looked < len(a.xs) {
			a.causes(a.looked)
			a.looked++
		} else {
			a.consequences(a.ys[k])
			k++
		}
	}
}

// weighed notes what need not be looked at again before something new has come.
func (a *assignment) weighed() {
	for _, x := range a.xs[:a.looked] {
		x.soughtAt = a.j.now
	}
	for _, y := range a.ys {
		y.offeredAt = a.j.now
	}
}

// giveUp leaves apart what was looked at: too much hangs together.
func (a *assignment) giveUp() {
	for i, x := range a.xs[:a.looked] {
		if a.settled(x.askedAt) {
			a.apart(i)
		}
	}
	for _, y := range a.ys {
		y.offered = y.offered || a.settled(y.answeredAt) && !a.learning(y.answeredAt)
	}
}

// settled says whether all that has to do with what happened at a time has come to us.
func (a *assignment) settled(ns uint64) bool {
	return ns < a.held && ns+uint64(a.j.cfg.Linger)/2 <= a.j.now
}

// learning says whether the process's ways are about to be known: what is undecided is looked at again then.
func (a *assignment) learning(ns uint64) bool {
	return a.p.ways.proven < provenAfter && a.j.now < ns+uint64(a.j.cfg.Parents)/2
}

// apart leaves the i-th without a cause.
func (a *assignment) apart(i int) {
	x := a.xs[i]
	if a.learning(x.askedAt) {
		return
	}
	x.sought, x.contested = true, true
	x.candidates = max(x.candidates, int32(max(len(a.edges[i]), 2))) //nolint:gosec // at most maxAssigned
	for _, k := range a.edges[i] {
		a.ys[k].contested = true
	}
}

func (a *assignment) reset(j *Joiner, p *process, pid uint32) {
	a.j, a.p, a.pid, a.full, a.looked = j, p, pid, false, 0
	a.back, a.held = p.ways.back.most(), j.heldSince(pid)
	clear(a.xs)
	clear(a.ys)
	a.xs, a.ys, a.of, a.has = a.xs[:0], a.ys[:0], a.of[:0], a.has[:0]
}

func (a *assignment) addX(x *Exchange) {
	x.mark = int32(len(a.xs)) + 1 //nolint:gosec // at most maxAssigned
	a.xs, a.of = append(a.xs, x), append(a.of, -1)
	if len(a.edges) < len(a.xs) {
		a.edges = append(a.edges, nil)
	}
	a.edges[len(a.xs)-1] = a.edges[len(a.xs)-1][:0]
	a.full = a.full || len(a.xs) > maxAssigned
}

func (a *assignment) addY(y *Exchange) int32 {
	n := int32(len(a.ys)) //nolint:gosec // at most maxAssigned
	y.mark = n + 1
	a.ys, a.has = append(a.ys, y), append(a.has, -1)
	a.full = a.full || len(a.ys) > maxAssigned
	return n
}

// index is where an exchange is in a list, -1: it is not.
func index(list []*Exchange, x *Exchange) int32 {
	if i := x.mark - 1; i >= 0 && int(i) < len(list) && list[i] == x {
		return i
	}
	return -1
}

// causes finds those that the i-th request may be caused by.
func (a *assignment) causes(i int) {
	x := a.xs[i]
	x.settleTurns(a.p.turns)
	looked := 0
	for _, e := range a.p.in.list[a.p.in.from(x.askedAt):] {
		if a.back > 0 && e.at-x.askedAt > a.back || a.p.ways.turnsBack() && e.at >= x.writtenUntil {
			break
		}
		if looked++; looked > maxLooked {
			a.full = true
			return
		}
		y := e.x
		if y == nil || !a.j.fits(a.p, x, y) || y.served(a.pid) {
			continue
		}
		k := index(a.ys, y)
		if k < 0 {
			k = a.addY(y)
		}
		if a.edges[i] = append(a.edges[i], k); len(a.edges[i]) > maxFits {
			a.full = true
			return
		}
	}
}

// consequences finds those that may be caused by y.
func (a *assignment) consequences(y *Exchange) {
	from := a.p.out.gone
	switch {
	case a.p.ways.turnsBack():
		from = a.p.out.from(a.p.turns.since(y.answerTid, y.answeredAt))
	case a.back > 0:
		from = a.p.out.from(y.answeredAt - min(a.back, y.answeredAt))
	}
	looked := 0
	for _, e := range a.p.out.list[from:] {
		if e.at > y.answeredAt {
			break
		}
		if looked++; looked > maxLooked {
			a.full = true
			return
		}
		if x := e.x; x != nil && index(a.xs, x) < 0 && a.j.fits(a.p, x, y) && !x.related(a.pid) {
			a.addX(x)
		}
	}
}

// match finds an assignment that relates as many as can be.
func (a *assignment) match() {
	for i := range a.xs {
		a.clearSeen()
		a.augment(int32(i), -1, -1) //nolint:gosec // at most maxAssigned
	}
}

func (a *assignment) clearSeen() {
	a.seen = append(a.seen[:0], make([]bool, len(a.ys))...)
}

// augment gives i a cause, moving others if it must; never the cause not to the request but.
func (a *assignment) augment(i, but, not int32) bool {
	for _, k := range a.edges[i] {
		if a.seen[k] || i == but && k == not {
			continue
		}
		a.seen[k] = true
		if a.has[k] < 0 || a.augment(a.has[k], but, not) {
			a.of[i], a.has[k] = k, i
			return true
		}
	}
	return false
}

// proven says whether i has its cause in every assignment that relates as many: without it there is none.
func (a *assignment) proven(i int32) bool {
	k := a.of[i]
	of, has := slices.Clone(a.of), slices.Clone(a.has)
	a.of[i], a.has[k] = -1, -1
	found := false
	a.clearSeen()
	for n := int32(0); n < int32(len(a.xs)) && !found; n++ { //nolint:gosec // at most maxAssigned
		found = a.of[n] < 0 && a.augment(n, i, k)
	}
	copy(a.of, of)
	copy(a.has, has)
	return !found
}

// settle claims what is proven, and notes of the rest how many it could be.
func (a *assignment) settle() {
	proven := make([]bool, len(a.xs))
	for i := range a.xs {
		k := a.of[i]
		proven[i] = k >= 0 && !a.ys[k].contested && a.proven(int32(i)) //nolint:gosec // at most maxAssigned
	}
	ordered := a.ordered()
	for i, x := range a.xs {
		n := len(a.edges[i])
		if !a.settled(x.askedAt) || n == 0 {
			continue // what it belongs to may still be on its way to us
		}
		switch y, m := a.decided(i, proven[i], ordered); {
		case y == nil || a.torn(x, y, m):
			a.apart(i)
		default:
			a.j.claim(x, y, m, n)
		}
	}
	for _, y := range a.ys {
		y.offered = y.offered || a.settled(y.answeredAt) && !a.learning(y.answeredAt)
	}
}

// decided is the cause of the i-th and what tells it, nil: nothing does.
func (a *assignment) decided(i int, proven bool, ordered []int32) (*Exchange, journey.Method) {
	switch {
	case proven && len(a.edges[i]) == 1:
		return a.ys[a.of[i]], journey.MethodContent
	case proven:
		return a.ys[a.of[i]], journey.MethodAssignment
	case ordered != nil && ordered[i] >= 0 && !a.ys[ordered[i]].contested:
		return a.ys[ordered[i]], journey.MethodOrder
	}
	return nil, ""
}

// torn says whether something was missed meanwhile that may be the true cause: where requests look alike, what is left proves nothing then.
func (a *assignment) torn(x, y *Exchange, m journey.Method) bool {
	if !a.p.holes.overlap(y.Req.RecvNs, y.answeredAt) {
		return false
	}
	return m != journey.MethodContent || !a.rare(x)
}

// rare says whether few of the requests that were answered about when x was are like it.
func (a *assignment) rare(x *Exchange) bool {
	const around, few = 32, 8 // one in so many
	list, at := a.p.in.list, a.p.in.from(x.askedAt)
	a.j.describeLines(x)
	alike, all := 0, 0
	for _, e := range list[max(at-around, 0):min(at+around, len(list))] {
		if e.x == nil || e.x.host != x.host {
			continue
		}
		a.j.describeLines(e.x)
		if all++; e.x.target == x.target && e.x.lines == x.lines {
			alike++
		}
	}
	return few*alike <= all+few
}
