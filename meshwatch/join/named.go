package join

import "time"

// A process is named while all that it is asked, and asks, carries a request id: heads alone join what it does. Then nothing else is kept of
// it: it stands on no shelf, and its workers have no model. With the first request that has no id all that
// begins anew, as if recording had just begun.

// namedAfter is for how long a process must have had ids only, in ns.
const namedAfter = uint64(10 * time.Second)

const ( // of Exchange.named
	ofServer = 1 << iota
	ofClient
)

// isNamed says whether an exchange of a proxy needs no more than its id, and takes in that it has none.
func (j *Joiner) isNamed(x *Exchange, pid uint32) bool {
	p := j.process(pid)
	if x.hasID && !x.byResp {
		return p.named
	}
	p.unnamed = j.now
	if p.named { // what waits or is under way is not known
		p.named = false
		p.gaps.add(j.now-min(j.now, missedFor), j.now+missedFor)
		p.inDoubt(j.now-min(j.now, missedFor), j.now+missedFor)
	}
	return false
}

// nameProcesses finds those that have had ids only for a while, and forgets what else is known of what they do.
func (j *Joiner) nameProcesses() {
	found, pools := map[uint32]bool{}, map[*pool]bool{}
	for pid, p := range j.processes {
		if !p.named && j.now-p.unnamed >= namedAfter && j.isProxy(pid) {
			found[pid] = true
		}
	}
	var places []*place
	for k, s := range j.shelves.all {
		if !found[k.pid] {
			continue
		}
		for p := range s.places() {
			if places = append(places, p); !p.x.hasID || p.x.byResp { // it takes longer than that
				delete(found, k.pid)
			}
		}
	}
	if len(found) == 0 {
		return
	}
	for pid := range found {
		p := j.processes[pid]
		p.named, p.opening = true, nil
		for _, o := range [...]*order{&p.order, &p.streams, &p.opened} {
			o.in, o.chosen, o.out = 0, 0, max(o.out, j.now)
		}
	}
	for k, w := range j.workers {
		if found[k.pid] {
			for _, p := range w.pools {
				p.fail(j.now)
				p.opening, p.noting = nil, nil
				pools[p] = true
			}
			delete(j.workers, k)
		}
	}
	for _, h := range j.halves {
		if up := &h.leg.up; pools[up.of] {
			*up = upstream{used: up.used}
		}
	}
	for _, p := range places {
		if found[p.on.key.pid] {
			j.dropSide(p)
		}
	}
}

// dropSide takes one side of an exchange from its shelf, and out of what models know.
func (j *Joiner) dropSide(p *place) {
	x := p.x
	if p == &x.asServer {
		x.named |= ofServer
		x.waits, x.unknown, x.handed, x.lane, x.class = false, false, false, nil, nil
	} else {
		x.named |= ofClient
		x.byOpening, x.pool, x.inPool, x.inOrder, x.byWaiting = false, nil, guess{}, guess{}, ref{}
	}
	j.shelves.drop(p)
}
