package join

import (
	"slices"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
)

// process is what was learned of one.
type process struct {
	pool, waits    record // see pool: of what took a free connection, and of what waited for one with others
	waitsAlone     record // or as the only one
	thread         record // who reads a request hands it on
	lines, answers record // heads are handed on with the lines that they must be handed on with, and no others of that kind
	tests          uint64
	order, streams order // see line
	opened         order // see opened.go
	fresh          fresh
	gaps           spans    // when something was missed of what it was asked, or asked
	late           spans    // of what came too late to be weighed
	opening        []uint64 // ns: when connections were begun that no request was seen on
	app            threads
	used           uint64
	unnamed        uint64 // ns: when something without an id was last seen of it
	named          bool   // see named.go
}

func (j *Joiner) process(pid uint32) *process {
	p := j.processes[pid]
	if p == nil {
		p = &process{unnamed: j.now}
		j.processes[pid] = p
	}
	p.used = j.now
	return p
}

// opens notes that a request waited for its connection.
func (p *process) opens(x *Exchange) {
	to := x.Req.StartNs
	from := to - min(to, openingTakes)
	if x.Connect != nil {
		from = x.Connect.StartNs
		p.opening = slices.DeleteFunc(p.opening, func(at uint64) bool { return at == from })
	}
	p.orderOf(x).doubt.add(from, to)
}

// isOpening says whether at a time a connection was being opened, for a request that waits for it, and that was not seen yet. Those that
// wait for a connection of HTTP/2 do so in order.
func (p *process) isOpening(o *order, at uint64) bool {
	return o == &p.order && slices.ContainsFunc(p.opening, func(began uint64) bool { return began <= at && at-began < openingTakes })
}

// missed notes that something of a connection was missed in a time: whatever it was, its ends may have been asked, or ask, by it.
func (j *Joiner) missed(from, to uint64, pids ...uint32) {
	for _, pid := range pids {
		if p := j.processes[pid]; p != nil {
			p.gaps.add(from, to)
			p.inDoubt(from, to)
		}
	}
}

// gapBefore notes that what a stream had between its last flight and f was missed.
func (j *Joiner) gapBefore(s *stream, f *bpf.Flight) {
	from := max(s.lastNs, f.StartNs-min(f.StartNs, missedFor))
	j.missed(from, max(f.StartNs, f.RecvNs), f.SendPid, f.RecvPid)
}

// unpaired counts a response whose request was missed.
func (j *Joiner) unpaired(m *Message) {
	j.lost.unpairedResponse.Add(1)
	j.missed(m.StartNs-min(m.StartNs, missedFor), max(m.StartNs, m.RecvNs), m.SendPid, m.RecvPid)
}

// missedFor is how long ago what was missed began at most, in ns.
const missedFor = uint64(time.Second)

// inDoubt says that in an interval something may have been overtaken, whatever it was.
func (p *process) inDoubt(from, to uint64) {
	p.order.doubt.add(from, to)
	p.streams.doubt.add(from, to)
	p.opened.doubt.add(from, to)
}

// openingTakes is how long a connection is waited for, in ns, before it is used: with TLS, and on a node that is busy.
const openingTakes = uint64(300 * time.Millisecond)

// order is what is known of an order of handing on.
type order struct {
	record
	alone  record // of those which the worker had read alone, and not handed on yet
	in     uint32 // exchanges that did not contradict it since out
	chosen uint32 // of them, those where others were waiting
	out    uint64 // ns: when one did

	doubt spans // when something may have overtaken
}

// step takes in whether an exchange contradicts the order.
func (o *order) step(x *Exchange, agrees bool) {
	switch {
	case !agrees:
		o.in, o.chosen, o.out = 0, 0, max(o.out, x.Resp.RecvNs)
	case x.inOrder.y != nil:
		if o.in++; x.inOrder.choice || x.byOpening && x.rivals > 1 {
			o.chosen++
		}
	}
}

// orderOf is the order that x is in.
func (p *process) orderOf(x *Exchange) *order {
	switch {
	case x.Stream.ID != 0:
		return &p.streams
	case x.byOpening:
		return &p.opened
	}
	return &p.order
}

// record is how often a way of joining was right about a join that was decided otherwise, where it had a choice.
type record struct{ right, wrong uint64 }

// proven says whether a way of joining was right often enough, and next to never wrong.
func (r *record) proven() bool { return r.right >= leastTests && r.wrong*mostWrong <= r.right }

const (
	leastTests = 32   // with none of them wrong, fewer than one in ten is at 97 % confidence; what follows tests on
	mostWrong  = 2000 // half of what may be wrong
)

func (r *record) test(right bool) {
	if right {
		r.right++
	} else {
		r.wrong++
	}
	if r.right+r.wrong > testsKept {
		r.right, r.wrong = r.right/2, (r.wrong+1)/2
	}
}

// testsKept is after how many tests the old ones count half.
const testsKept = 1 << 14
