package join

import (
	"sort"

	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// process is what relating without ids looks at: the exchanges of one process that are answered and not given out yet, and what is known
// of its ways. Of a process that has neither asked nor been asked for some time there is none.
type process struct {
	in    timeline // those it was asked, by when it began to answer
	out   timeline // those it asked, by when it began to read the answer
	ways  ways
	proxy bool
	turns turns
	holes holes
	used  uint64
}

// maxListed is how many exchanges a timeline has at most: 1 MB. A second of 60,000 requests; what is forced out relates to nothing any more.
const maxListed = 1 << 16

// timeline is exchanges in the order of a time. They come nearly in order, and go in any: those that went leave a hole until all before have gone.
type timeline struct {
	list []entry
	gone int // at its beginning
}

type entry struct {
	at uint64 // CLOCK_MONOTONIC ns
	x  *Exchange
}

// add says whether it had to force one out.
func (t *timeline) add(at uint64, x *Exchange) (forced bool) {
	if t.gone > len(t.list)/2 {
		n := copy(t.list, t.list[t.gone:])
		clear(t.list[n:])
		t.list, t.gone = t.list[:n], 0
	}
	if len(t.list)-t.gone >= maxListed {
		forced = t.list[t.gone].x != nil
		t.list[t.gone].x = nil
		t.gone++
	}
	t.list = append(t.list, entry{at, x})
	for i := len(t.list) - 1; i > t.gone && t.list[i-1].at > at; i-- {
		t.list[i-1], t.list[i] = t.list[i], t.list[i-1]
	}
	return forced
}

// remove takes out what was added with this time, if it is still there.
func (t *timeline) remove(at uint64, x *Exchange) {
	for i := t.from(at); i < len(t.list) && t.list[i].at == at; i++ {
		if t.list[i].x == x {
			t.list[i].x = nil
			break
		}
	}
	for t.gone < len(t.list) && t.list[t.gone].x == nil {
		t.gone++
	}
	if t.gone == len(t.list) {
		t.list, t.gone = t.list[:0], 0
	}
}

// from is the index of the first one that is not before a time.
func (t *timeline) from(at uint64) int {
	return t.gone + sort.Search(len(t.list)-t.gone, func(i int) bool { return t.list[t.gone+i].at >= at })
}

func (j *Joiner) process(pid uint32) *process {
	p := j.processes[pid]
	if p == nil {
		p = &process{proxy: j.isProxy(pid), turns: turns{}}
		j.processes[pid] = p
	}
	p.used = j.now
	return p
}

// answered lists an exchange with both its processes, once its response is there.
func (j *Joiner) answered(x *Exchange) {
	if x.listed {
		return
	}
	x.listed, x.servedBy, x.askedBy = true, x.ServerPid(), x.ClientPid()
	x.askedAt, x.answeredAt = x.Resp.RecvNs, x.Resp.StartNs
	x.readTid, x.askTid = x.Req.Flight.RecvTid, x.Req.Flight.Thread()
	x.answerTid, x.gotTid = x.Resp.Flight.Thread(), x.Resp.Flight.RecvTid
	forced := false
	if x.servedBy != 0 && x.Req.RecvNs != 0 {
		p := j.process(x.servedBy)
		forced = p.in.add(x.answeredAt, x)
		if !p.proxy {
			p.ways.served(x)
		}
	}
	if x.askedBy != 0 && x.askedAt != 0 {
		forced = j.process(x.askedBy).out.add(x.askedAt, x) || forced
	}
	if forced {
		j.lost.forcedOut.Add(1)
	}
}

// describeLines notes what proxies keep of an exchange's heads, once.
func (j *Joiner) describeLines(x *Exchange) {
	if !x.described {
		x.described, x.lines, x.respLines = true, j.linesOf(x.Req), j.linesOf(x.Resp)
	}
}

// linesOf is 0 where the head was not captured as a whole.
func (j *Joiner) linesOf(m *Message) uint64 {
	if m.result != head.Complete {
		return 0
	}
	return j.cfg.Parser.EndToEnd(m.captured(), j.seed) | 1
}

// unlist forgets an exchange that is given out.
func (j *Joiner) unlist(x *Exchange) {
	if !x.listed {
		return
	}
	if p := j.processes[x.servedBy]; p != nil {
		p.in.remove(x.answeredAt, x)
	}
	if p := j.processes[x.askedBy]; p != nil {
		p.out.remove(x.askedAt, x)
	}
}

// forgetProcesses forgets those that have been idle for a time in ns.
func (j *Joiner) forgetProcesses(idle uint64) {
	for pid, p := range j.processes {
		if j.now-p.used > idle && len(p.in.list) == 0 && len(p.out.list) == 0 {
			delete(j.processes, pid)
		}
	}
}
