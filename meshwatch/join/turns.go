package join

import "sort"

// turns are what the threads of a proxy read and wrote, in order. A worker with an event loop reads all that is ready, and writes what it has made
// of it before the next turn ends. So between reading and writing it goes back from writing to reading at most once.
type turns map[uint32]*thread

// thread is one thread's: times in ns, of which the lowest bit says that it was a write.
type thread struct{ at []uint64 }

// maxTurned is how many reads and writes of a thread are remembered: 128 KB, some seconds.
const maxTurned = 1 << 14

const wrote = 1

func (t turns) note(tid uint32, ns, kind uint64) {
	h := t[tid]
	if h == nil {
		if len(t) >= maxThreads {
			clear(t)
		}
		h = &thread{}
		t[tid] = h
	}
	if len(h.at) >= maxTurned {
		h.at = h.at[:copy(h.at, h.at[maxTurned/2:])]
	}
	e := ns&^1 | kind
	h.at = append(h.at, e)
	for i := len(h.at) - 1; i > 0 && h.at[i-1] > e; i-- {
		h.at[i-1], h.at[i] = h.at[i], h.at[i-1]
	}
}

func (h *thread) find(ns uint64) int {
	return sort.Search(len(h.at), func(i int) bool { return h.at[i] >= ns&^1 })
}

// since is when what was written at a time can have been read at the earliest.
func (t turns) since(tid uint32, ns uint64) uint64 {
	h := t[tid]
	if h == nil {
		return 0
	}
	back, last := 0, uint64(wrote)
	for i := h.find(ns) - 1; i >= 0; i-- {
		kind := h.at[i] & 1
		if kind == wrote && last != wrote {
			if back++; back > 1 {
				return h.at[i]
			}
		}
		last = kind
	}
	return 0
}

// until is when what was read at a time must have been written at the latest.
func (t turns) until(tid uint32, ns uint64) uint64 {
	h := t[tid]
	if h == nil {
		return 1<<64 - 1
	}
	back, last := 0, uint64(0)
	for i := h.find(ns) + 1; i < len(h.at); i++ {
		kind := h.at[i] & 1
		if kind != wrote && last == wrote {
			if back++; back > 1 {
				return h.at[i]
			}
		}
		last = kind
	}
	return 1<<64 - 1
}

// turn notes what the threads of proxies did with a message.
func (j *Joiner) turn(m *Message) {
	if pid := m.SendPid; pid != 0 {
		if p := j.process(pid); p.proxy && m.Flight.Thread() != 0 {
			p.turns.note(m.Flight.Thread(), m.StartNs, wrote)
		}
	}
	if pid := m.RecvPid; pid != 0 && m.RecvNs != 0 {
		if p := j.process(pid); p.proxy && m.Flight.RecvTid != 0 {
			p.turns.note(m.Flight.RecvTid, m.RecvNs, 0)
		}
	}
}
