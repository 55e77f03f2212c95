package join

import "github.com/meshwatch/meshwatch/bpf"

// holes are times in which something that a process read or wrote was missed, so that what is left proves less: the last ones, in ns.
type holes struct {
	list [maxHoles]hole
	next int
}

type hole struct{ from, to uint64 }

const maxHoles = 64

func (h *holes) add(from, to uint64) {
	h.list[h.next%maxHoles] = hole{from, to}
	h.next++
}

func (h *holes) overlap(from, to uint64) bool {
	for _, o := range h.list[:min(h.next, maxHoles)] {
		if o.from <= to && from <= o.to {
			return true
		}
	}
	return false
}

// missed notes that something of a connection between two processes was missed in a time.
func (j *Joiner) missed(from, to uint64, pids ...uint32) {
	for _, pid := range pids {
		if pid != 0 {
			j.process(pid).holes.add(from, to)
		}
	}
}

// unpaired counts a response whose request was missed.
func (j *Joiner) unpaired(m *Message) {
	j.lost.unpairedResponse.Add(1)
	j.missed(m.StartNs-min(m.StartNs, longAgo), max(m.StartNs, m.RecvNs), m.SendPid, m.RecvPid)
}

// longAgo is before what was missed began, where nobody knows, in ns.
const longAgo = uint64(100e6)

// unansweredBy notes an exchange that has no response, or one that was missed.
func (j *Joiner) unansweredBy(x *Exchange) {
	if x.Resp == nil {
		j.missed(x.Req.StartNs, j.now, x.Req.SendPid, x.Req.RecvPid)
	}
}

// gapBefore notes that what a stream had between its last flight and f was missed.
func (j *Joiner) gapBefore(s *stream, f *bpf.Flight) {
	from := s.lastNs
	if from == 0 {
		from = f.StartNs - min(f.StartNs, longAgo)
	}
	j.missed(from, f.StartNs, f.SendPid, f.RecvPid)
}

// heldSince is since when something that a process read or wrote is held back, as something before it is missing; the end of time: nothing is.
func (j *Joiner) heldSince(pid uint32) uint64 {
	since := ^uint64(0)
	for l := range j.holding {
		for i := range l.held {
			if f := &l.held[i].f; f.SendPid == pid || f.RecvPid == pid {
				since = min(since, f.StartNs)
			}
		}
	}
	return since
}
