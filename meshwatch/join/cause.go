package join

import (
	"iter"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// A process's exchanges by what they ask for: where the cause of one that carries no id is looked for. Both sides of a relay are
// found here: what a process was asked, and what it asked.

// shelfKey is a process and what is asked of it or by it: method, target and host.
type shelfKey struct {
	pid  uint32
	what uint64
}

// shelf has the exchanges of one key. What the process was asked is in two chains: as it came, and what was answered and is over by when
// that was.
type shelf struct {
	key            shelfKey
	in, over, asks chain
}

// chain is a list through the places of exchanges.
type chain struct {
	first, last *place
	n           int
}

// places are all that stand there.
func (s *shelf) places() iter.Seq[*place] {
	return func(yield func(*place) bool) {
		for _, c := range [...]*chain{&s.in, &s.over, &s.asks} {
			for p := c.first; p != nil; p = p.next {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// place is where an exchange stands on one side of a relay.
type place struct {
	x          *Exchange
	on         *shelf // nil: nowhere
	in         *chain // of the shelf
	prev, next *place // in the chain
}

// shelves is the index: a place for each side of each exchange that is not given out, up to most. What comes when it is full
// has none: it is joined by ids only.
type shelves struct {
	all  map[shelfKey]*shelf
	free []*shelf
	n    int
}

// mostPlaces bounds the index: some 16 MB with the exchanges that stand there. At 10,000 requests a second through six legs, each kept
// for a quarter of a second, there are 30,000.
const mostPlaces = 1 << 16

// put gives x a place among what a process was asked, or what it asks. False: all are taken.
func (s *shelves) put(p *place, x *Exchange, pid uint32, asks bool) bool {
	if s.n == mostPlaces {
		return false
	}
	key := shelfKey{pid, x.what()}
	at := s.all[key]
	if at == nil {
		if n := len(s.free); n > 0 {
			at, s.free = s.free[n-1], s.free[:n-1]
		} else {
			at = &shelf{}
		}
		at.key = key
		s.all[key] = at
	}
	*p = place{x: x, on: at, in: &at.in}
	if asks {
		p.in = &at.asks
	}
	p.in.add(p, p.in.last)
	s.n++
	return true
}

// goBack moves the last place of a chain to where it is in order of a time. False: that is too far back.
func (p *place) goBack(when func(*Exchange) uint64) bool {
	behind, at := p.prev, when(p.x)
	if behind == nil || when(behind.x) <= at {
		return true
	}
	for n := 0; behind != nil && when(behind.x) > at; behind = behind.prev {
		if n++; n > farBack {
			return false
		}
	}
	p.in.remove(p)
	p.in.add(p, behind)
	return true
}

// farBack bounds how far it is looked back in a chain for the place of what came late, and for what it may have to do with. What came later
// than that is not weighed, see tooLate.
const farBack = 64

// sent and answers are what chains are in order of.
func sent(x *Exchange) uint64    { return x.Req.StartNs }
func answers(x *Exchange) uint64 { return x.Resp.StartNs }

// drop takes a place back.
func (s *shelves) drop(p *place) {
	at := p.on
	if at == nil {
		return
	}
	p.in.remove(p)
	*p = place{}
	s.n--
	if at.in.n+at.over.n+at.asks.n == 0 {
		delete(s.all, at.key)
		s.free = append(s.free, at)
	}
}

// isOver moves what was answered to those that were, in the order in which they were.
func (j *Joiner) isOver(x *Exchange) {
	p := &x.asServer
	at := p.on
	if at == nil || p.in != &at.in || x.Resp == nil {
		return
	}
	p.in.remove(p)
	p.in = &at.over
	p.in.add(p, p.in.last)
	if !p.goBack(answers) {
		j.tooLate(at.key.pid, x.Req.RecvNs, answers(p.prev.x))
	}
}

// add puts a place behind another one of the chain, nil: first.
func (c *chain) add(p, behind *place) {
	p.prev = behind
	if behind != nil {
		p.next, behind.next = behind.next, p
	} else {
		p.next, c.first = c.first, p
	}
	if p.next != nil {
		p.next.prev = p
	} else {
		c.last = p
	}
	c.n++
}

func (c *chain) remove(p *place) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		c.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		c.last = p.prev
	}
	p.prev, p.next = nil, nil
	c.n--
}

// shelve gives an exchange its places: once its server and its client are known.
func (j *Joiner) shelve(x *Exchange) {
	switch pid := x.ServerPid(); {
	case pid == 0 || x.asServer.on != nil || x.counted || x.done || x.named&ofServer != 0:
	case !j.isProxy(pid):
		j.process(pid).reads(x)
	case j.isNamed(x, pid):
		x.named |= ofServer
	default:
		j.shelveServer(x, pid)
	}
	switch pid := x.ClientPid(); {
	case pid == 0 || x.asClient.on != nil || x.named&ofClient != 0:
	case !j.isProxy(pid):
		if p := j.processes[pid]; p != nil {
			p.asks(x)
		}
	case j.isNamed(x, pid):
		x.named |= ofClient
		x.Req.leg.up.used = true
	default:
		j.shelveClient(x, pid)
	}
}

// shelveServer gives x its place among what a proxy was asked.
func (j *Joiner) shelveServer(x *Exchange, pid uint32) {
	if !j.shelves.put(&x.asServer, x, pid, false) {
		j.lost.indexFull.Add(1)
		return
	}
	j.cameLate(x)
	j.note(eventAsked, x, pid, x.Req.Flight.RecvTid, x.Req.RecvNs)
}

// shelveClient gives x its place among what a proxy asks.
func (j *Joiner) shelveClient(x *Exchange, pid uint32) {
	if !j.shelves.put(&x.asClient, x, pid, true) {
		j.lost.indexFull.Add(1)
		return
	}
	x.Req.leg.latest = max(x.Req.leg.latest, x.Req.StartNs)
	x.rivals = int32(x.asClient.on.in.n) //nolint:gosec // at most mostPlaces
	if !x.asClient.goBack(sent) {
		j.tooLate(pid, x.Req.StartNs, sent(x.asClient.prev.x))
	}
	j.note(eventAsks, x, pid, x.Req.Flight.Thread(), x.Req.StartNs)
}

// cameLate notes x among those that may have caused what was answered before x came to us.
func (j *Joiner) cameLate(x *Exchange) {
	n := 0
	asks := &x.asServer.on.asks
	for p := asks.last; p != nil && p.x.Req.StartNs >= x.Req.RecvNs; p = p.prev {
		if n++; n > farBack {
			j.tooLate(x.ServerPid(), x.Req.RecvNs, sent(asks.last.x))
			return
		}
		if p.x.considered && p.x.sought < mostFits && !j.mayBe(p.x, x) {
			p.x.giveUp()
		}
	}
}

// tooLate notes that an exchange came to us so late that others were weighed without it, or stand where they are not found: of what was asked
// from its time until then nothing is decided by leaving others out.
func (j *Joiner) tooLate(pid uint32, from, to uint64) {
	j.process(pid).late.add(from, to)
}

// unshelve takes them back.
func (j *Joiner) unshelve(x *Exchange) {
	j.shelves.drop(&x.asServer)
	j.shelves.drop(&x.asClient)
	j.served(x)
}

// claim says that y caused x, and puts the two into one group. False: it cannot be, or the group would be too large. Whoever claims
// has evidence beyond what the heads say; relate leaves it alone.
func (j *Joiner) claim(x, y *Exchange, r journey.Relay) bool {
	if x == y || x.claimed || y.Req.StartNs >= x.Req.StartNs || y.root() == x {
		return false
	}
	if !j.gather(x, y) {
		return false
	}
	x.parent, x.claimed, x.Relay = y, true, r
	x.Relay.Pid = int(x.ClientPid())
	y.asked = true
	return true
}

// gather makes one group of two exchanges' groups. False: it would be too large.
func (j *Joiner) gather(x, y *Exchange) bool {
	to, from := j.groupOf(y), j.groupOf(x)
	if to == from {
		return true
	}
	if len(to.xs)+len(from.xs) > maxGroup {
		j.lost.groupFull.Add(1)
		return false
	}
	if len(to.xs) < len(from.xs) {
		to, from = from, to
	}
	for _, m := range from.xs {
		m.group = to
	}
	to.xs = append(to.xs, from.xs...)
	to.open += from.open
	to.stale, to.asking = true, to.asking || from.asking
	to.last = max(to.last, from.last)
	for _, id := range from.ids {
		if j.groups[id] == from {
			j.groups[id] = to
			to.ids = append(to.ids, id)
		}
	}
	for _, t := range from.traces {
		if j.traces[t] == from {
			j.traces[t] = to
			to.traces = append(to.traces, t)
		}
	}
	clear(from.xs)
	from.ids, from.traces, from.xs, from.open = from.ids[:0], from.traces[:0], from.xs[:0], 0
	if !from.queued && !from.linking { // else flush finds it empty
		j.freeGroup(from)
	}
	if !to.linking {
		j.enqueue(to)
	}
	return true
}

// groupOf is an exchange's group: a new one if nothing has given it one.
func (j *Joiner) groupOf(x *Exchange) *group {
	if x.group == nil {
		j.join(j.newGroup(), x)
	}
	return x.group
}

// freeGroup takes back one that is empty.
func (j *Joiner) freeGroup(g *group) {
	*g = group{ids: g.ids[:0], traces: g.traces[:0], xs: g.xs[:0]}
	j.freeGroups = append(j.freeGroups, g)
}
