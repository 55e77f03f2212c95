package join

import "github.com/meshwatch/meshwatch/meshwatch/journey"

// threads are what is known of a process that is no proxy, which may do anything: that it asks for something else, or the same, proves
// nothing. But where a thread reads a request, answers it and does nothing else meanwhile, that thread tells what was asked for it.
type threads struct {
	open                  int32          // requests that it was asked and has not answered
	seen, alone, overlaps uint32         // exchanges served; those that one thread read and answered; those it read before it had answered another
	at                    map[uint32]ref // thread → what it has read last
	last                  map[uint32]uint64
}

const (
	provenApp   = 256  // exchanges that an app must have served so
	fadeAfter   = 4096 // exchanges: then the older half counts half
	mostThreads = 4096 // that are remembered of one app: 200 KB
)

// perRequest says whether a thread of the app does nothing else from reading a request to answering it.
func (t *threads) perRequest() bool {
	return t.seen >= provenApp && t.alone == t.seen && t.overlaps == 0
}

// reads notes that an app was asked.
func (p *process) reads(x *Exchange) {
	t := &p.app
	x.counted = true
	t.open++
	if t.at == nil || len(t.at) >= mostThreads {
		t.at = map[uint32]ref{}
	}
	if tid := x.Req.Flight.RecvTid; tid != 0 {
		t.at[tid] = refTo(x)
	}
}

// asks notes what an app asks: how many it may be for, and the one that its thread has read.
func (p *process) asks(x *Exchange) {
	if x.rivals == 0 {
		x.rivals = p.app.open
	}
	if tid := x.Req.Flight.Thread(); tid != 0 {
		x.byThread = p.app.at[tid]
	}
}

// served notes that an app has answered, or never will.
func (j *Joiner) served(x *Exchange) {
	if !x.counted {
		return
	}
	x.counted = false
	p := j.processes[x.ServerPid()]
	if p == nil {
		return
	}
	t := &p.app
	t.open = max(0, t.open-1)
	if x.Resp == nil {
		return
	}
	if t.seen >= fadeAfter {
		t.seen, t.alone, t.overlaps = t.seen/2, t.alone/2, t.overlaps/2
	}
	t.seen++
	read, wrote := x.Req.Flight.RecvTid, x.Resp.Flight.Thread()
	if read == wrote {
		t.alone++
	}
	if x.Req.RecvNs < t.last[read] {
		t.overlaps++
	}
	if t.last == nil || len(t.last) >= mostThreads {
		t.last = map[uint32]uint64{}
	}
	t.last[wrote] = max(t.last[wrote], x.Resp.StartNs)
}

// seekByThread joins what an app asks to what its thread was asked, where threads tell.
func (j *Joiner) seekByThread(x *Exchange) bool {
	p, y := j.processes[x.ClientPid()], x.byThread.of()
	if x.claimed || p == nil || y == nil || y.Resp == nil || !p.app.perRequest() {
		return false
	}
	tid := x.Req.Flight.Thread()
	if y.Req.Flight.RecvTid != tid || y.Resp.Flight.Thread() != tid || !y.holds(x.Req.StartNs) {
		return false
	}
	return j.claim(x, y, journey.Relay{Method: journey.MethodThread, Confidence: byThread, Candidates: max(1, int(x.rivals))})
}

// byThread is the share of joins by thread that are right.
const byThread = 0.9995

// mayBeOf is how many requests an app may have asked x for, 0: its client is a proxy, or nobody knows.
func (j *Joiner) mayBeOf(x *Exchange) int32 {
	if pid := x.ClientPid(); pid == 0 || j.isProxy(pid) {
		return 0
	}
	return x.rivals
}
