package join

import (
	"slices"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// assignment is a proxy's open question: which of the requests it had caused which of those it sent. Each causes at most one: a join is
// proven if it is in every assignment that relates as many as can be.
type assignment struct {
	j     *Joiner
	p     *process
	pid   uint32
	back  uint64 // a response is sent at most so long after it was read; 0: not known
	xs    []*Exchange
	ys    []*Exchange
	edges [][]int32 // of xs: in ys
	of    []int32   // of xs: the one it has, -1: none
	has   []int32   // of ys
	seen  []bool    // of ys, in one search
	full  bool      // there are too many
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
	for i, k := 0, 0; (i < len(a.xs) || k < len(a.ys)) && !a.full; {
		if i < len(a.xs) {
			a.causes(i)
			i++
		} else {
			a.consequences(a.ys[k])
			k++
		}
	}
	if a.full {
		if x != nil {
			x.sought, x.candidates = true, int32(max(len(a.ys), 2)) //nolint:gosec // few
		}
		return
	}
	a.match()
	a.settle()
}

func (a *assignment) reset(j *Joiner, p *process, pid uint32) {
	a.j, a.p, a.pid, a.full = j, p, pid, false
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
	looked := 0
	for _, e := range a.p.in.list[a.p.in.from(x.askedAt):] {
		if a.back > 0 && e.at-x.askedAt > a.back {
			break
		}
		if looked++; looked > maxLooked {
			a.full = true
			return
		}
		y := e.x
		if y == nil || !a.j.fits(&a.p.ways, x, y) || y.served(a.pid) {
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
	if a.back > 0 {
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
		if x := e.x; x != nil && index(a.xs, x) < 0 && a.j.fits(&a.p.ways, x, y) && !x.related(a.pid) {
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
	settled := a.j.now - min(uint64(a.j.cfg.Linger)/2, a.j.now)
	for i, x := range a.xs {
		n := len(a.edges[i])
		if x.askedAt > settled || n == 0 {
			continue // what it belongs to may still be on its way to us
		}
		x.sought = true
		switch {
		case proven[i] && n == 1:
			a.j.claim(x, a.ys[a.of[i]], journey.MethodContent, n)
		case proven[i]:
			a.j.claim(x, a.ys[a.of[i]], journey.MethodAssignment, n)
		default:
			x.candidates = max(x.candidates, int32(n)) //nolint:gosec // at most maxAssigned
			x.contested = true
			for _, k := range a.edges[i] {
				a.ys[k].contested = true
			}
		}
	}
}
