package join

import (
	"cmp"
	"slices"
)

// order is what is known of whether a process's threads write in the order in which they read.
type order struct {
	recent            [4]sample
	next              int
	together, swapped uint32 // times that two things had been read before either was written; of them: the later one was first
}

// sample is one join that is known for certain: times in ns.
type sample struct {
	tid                       uint32
	read, sent, got, answered uint64
}

// oddOrders is the share of swaps, at most, up to which orders are evidence: a wrong join takes the same two swapped on the way there and on the way
// back.
const oddOrders = 0.1

func (o *order) learn(s sample) {
	if o.together >= fadeAfter {
		o.together, o.swapped = o.together/2, o.swapped/2
	}
	for _, r := range o.recent {
		if r.tid == s.tid {
			o.compare(r.read, r.sent, s.read, s.sent)
			o.compare(r.got, r.answered, s.got, s.answered)
		}
	}
	o.recent[o.next%len(o.recent)] = s
	o.next++
}

func (o *order) compare(read1, sent1, read2, sent2 uint64) {
	if read1 < sent2 && read2 < sent1 {
		if o.together++; read1 < read2 != (sent1 < sent2) {
			o.swapped++
		}
	}
}

func (o *order) kept() bool {
	return o.together >= provenAfter && float64(o.swapped) <= oddOrders*float64(o.together)
}

// near says whether so few other things were read or written between x and y that orders prove something. (measured, identical requests through Envoy: 0
// of 2,900 wrong below 8, 3 of 100 above, where it writes in another order than it read)
func (t turns) near(x, y *Exchange) bool {
	const few = 8
	h, g := t[x.askTid], t[x.gotTid]
	return h != nil && g != nil && h.find(x.Req.StartNs)-h.find(y.Req.RecvNs) < few && g.find(y.answeredAt)-g.find(x.askedAt) < few
}

// ordered is for each of xs the one of ys that has the same place in two orders: that in which requests were read and sent, and that in which
// responses were; -1: the orders disagree. Nil: they prove nothing here, or some may be missing, so that places say nothing.
func (a *assignment) ordered() []int32 {
	n := len(a.xs)
	if len(a.ys) != n || !a.p.ways.order.kept() || slices.Contains(a.of, -1) {
		return nil
	}
	sent, read := places(a.xs, func(x *Exchange) uint64 { return x.Req.StartNs }), places(a.ys, func(y *Exchange) uint64 { return y.Req.RecvNs })
	got, answered := places(a.xs, func(x *Exchange) uint64 { return x.askedAt }), places(a.ys, func(y *Exchange) uint64 { return y.answeredAt })
	there, both := make([]int32, n), make([]int32, n)
	for i := range n {
		there[sent[i]], both[i] = read[i], -1
	}
	for i := range n {
		x, y := got[i], answered[i]
		if there[x] == y && slices.Contains(a.edges[x], y) && a.p.turns.near(a.xs[x], a.ys[y]) {
			both[x] = y
		}
	}
	return both
}

// places are the indices of a list in the order of a time.
func places(list []*Exchange, at func(*Exchange) uint64) []int32 {
	order := make([]int32, len(list))
	for i := range order {
		order[i] = int32(i) //nolint:gosec // at most maxAssigned
	}
	slices.SortFunc(order, func(p, q int32) int { return cmp.Compare(at(list[p]), at(list[q])) })
	return order
}
