package join

import (
	"cmp"
	"slices"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// assignment is a proxy's open question: which of the requests it had caused which of those it sent. Each causes at most one: a join is
// proven if it is in every assignment that relates as many as can be.
type assignment struct {
	j      *Joiner
	p      *process
	pid    uint32
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
	if a.explore(); a.full {
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

// giveUp leaves apart what was looked at: too much hangs together.
func (a *assignment) giveUp() {
	for i, x := range a.xs[:a.looked] {
		if a.settled(x.askedAt) {
			a.apart(i)
		}
	}
	for _, y := range a.ys {
		y.offered = y.offered || a.settled(y.answeredAt)
	}
}

// settled says whether all that has to do with what happened at a time has come to us.
func (a *assignment) settled(ns uint64) bool {
	return ns+uint64(a.j.cfg.Linger)/2 <= a.j.now
}

// apart leaves the i-th without a cause.
func (a *assignment) apart(i int) {
	x := a.xs[i]
	x.sought, x.contested = true, true
	x.candidates = max(x.candidates, int32(max(len(a.edges[i]), 2))) //nolint:gosec // at most maxAssigned
	for _, k := range a.edges[i] {
		a.ys[k].contested = true
	}
}

func (a *assignment) reset(j *Joiner, p *process, pid uint32) {
	a.j, a.p, a.pid, a.full, a.looked = j, p, pid, false, 0
	a.back = p.ways.back.most()
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
		a.edges[i] = append(a.edges[i], k)
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
		x.sought = true
		switch {
		case proven[i] && n == 1:
			a.j.claim(x, a.ys[a.of[i]], journey.MethodContent, n)
		case proven[i]:
			a.j.claim(x, a.ys[a.of[i]], journey.MethodAssignment, n)
		case ordered != nil && ordered[i] >= 0 && !a.ys[ordered[i]].contested:
			a.j.claim(x, a.ys[ordered[i]], journey.MethodOrder, n)
		default:
			a.apart(i)
		}
	}
	for _, y := range a.ys {
		y.offered = y.offered || a.settled(y.answeredAt)
	}
}

// ordered is for each of xs the one of ys that has the same place in two orders: that in which requests were read and sent, and that in which
// responses were; -1: the orders disagree. Nil: some may be missing, so that places say nothing.
func (a *assignment) ordered() []int32 {
	n := len(a.xs)
	if len(a.ys) != n || slices.Contains(a.of, -1) {
		return nil
	}
	place := func(list []*Exchange, at func(*Exchange) uint64) []int32 {
		order := make([]int32, n)
		for i := range order {
			order[i] = int32(i) //nolint:gosec // at most maxAssigned
		}
		slices.SortFunc(order, func(p, q int32) int { return cmp.Compare(at(list[p]), at(list[q])) })
		return order
	}
	sent, read := place(a.xs, func(x *Exchange) uint64 { return x.Req.StartNs }), place(a.ys, func(y *Exchange) uint64 { return y.Req.RecvNs })
	got, answered := place(a.xs, func(x *Exchange) uint64 { return x.askedAt }), place(a.ys, func(y *Exchange) uint64 { return y.answeredAt })
	first, both := make([]int32, n), make([]int32, n)
	for i := range n {
		first[sent[i]], both[i] = read[i], -1
	}
	for i := range n {
		if x := got[i]; first[x] == answered[i] && a.near(a.xs[x], a.ys[answered[i]]) && slices.Contains(a.edges[x], answered[i]) {
			both[x] = answered[i]
		}
	}
	return both
}

// near says whether so few other things were read or written between x and y that orders prove something. (measured: 0 of 2,900 wrong below 8, 3 of
// 100 above, where Envoy writes in another order than it read)
func (a *assignment) near(x, y *Exchange) bool {
	const few = 8
	h, g := a.p.turns[x.askTid], a.p.turns[x.gotTid]
	return h != nil && g != nil && h.find(x.Req.StartNs)-h.find(y.Req.RecvNs) < few && g.find(y.answeredAt)-g.find(x.askedAt) < few
}
