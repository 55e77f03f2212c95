package join

import "time"

// cutFor is how long after recording began a request whose cause is missing is taken for one that began before. One that took longer
// than that until it went on shows its lower legs as a tree of their own, with no-parent.
const cutFor = uint64(100 * time.Millisecond)

// Cut says that recording begins or has ended (CLOCK_MONOTONIC ns): of what is under way something was or will be missed. It is
// counted and forgotten; what is over is given out.
func (j *Joiner) Cut(now uint64) {
	j.now = now
	for l := range j.holding {
		for i := range l.held {
			l.held[i].since = 0 // what precedes it never comes
		}
		j.release(l)
	}
	j.work(^uint64(0))
	j.flush(true)
	for _, h := range j.halves {
		j.lost.cut.Add(uint64(len(h.leg.queue)))
		h.leg.queue = nil
		if x := h.leg.multi; x != nil {
			j.lost.cut.Add(uint64(len(x.calls)))
			clear(x.calls)
		}
		for i := range h.leg.dirs {
			if m := h.leg.dirs[i].answering(); m != nil {
				m.exchange.done = true
				j.lost.cut.Add(1)
			}
		}
	}
	clear(j.halves)
	clear(j.holding)
	clear(j.workers)
	clear(j.apps)
	j.words = newWords()
	for _, p := range j.processes { // what they were seen to keep stays
		p.app.open, p.app.at, p.app.last = 0, nil, nil
	}
	j.shelves = shelves{all: map[shelfKey]*shelf{}}
	clear(j.groups)
	clear(j.traces)
	j.quiet = j.quiet[:0]
	j.pages.reset()
	j.parsedOf, j.begun = nil, now
	j.recent, j.horizon = j.latest+1, j.latest+1 // nothing from before is waited for
}

// cutOff says whether a root is the rest of a request that began before recording did: it was caused by another one, which is not there.
func (j *Joiner) cutOff(x *Exchange) bool {
	return x.Req.StartNs-min(j.begun, x.Req.StartNs) < cutFor && x.hasID && x.candidates == 0 && j.serves(x.ClientPid())
}

// reset forgets all that is on the pages.
func (s *pages) reset() {
	s.free = s.free[:0]
	for _, p := range s.all {
		clear(p.owners[:])
		p.n, p.live, p.heads = 0, 0, p.heads[:0]
		s.free = append(s.free, p)
	}
	s.cur = nil
}
