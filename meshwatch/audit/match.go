package audit

import (
	"cmp"
	"hash/maphash"
	"slices"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// entry is what a proxy said, until it is judged.
type entry struct {
	journey.Said
	came     uint64
	id       head.ID
	hasID    bool
	from, to *exchange // once they are found
}

// Say takes what a proxy said. now is CLOCK_MONOTONIC in ns, as for Tick.
func (a *Audit) Say(s *journey.Said, now uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts.entries++
	switch {
	case !s.Upstream.IsValid():
		a.counts.own++
		return
	case len(a.waiting)+len(a.settling) >= a.cfg.Entries:
		a.lost.full.Add(1)
		return
	}
	e := &entry{Said: *s, came: now}
	e.id, e.hasID = head.ParseID([]byte(s.RequestID))
	e.Error = min(max(e.Error, 0), late)
	a.waiting = append(a.waiting, e)
}

// Tick judges the entries that have waited long enough. Call it some times a second.
func (a *Audit) Tick(now uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	due := func(list []*entry, wait time.Duration) int {
		n := 0
		for n < len(list) && list[n].came+uint64(wait) <= now { //nolint:gosec // positive
			n++
		}
		return n
	}
	n := due(a.waiting, a.cfg.Wait)
	for _, e := range a.waiting[:n] {
		if why := a.find(e); why != nil {
			why.Add(1)
		} else if a.claim(e) {
			a.settling = append(a.settling, e)
		}
	}
	a.waiting = slices.Delete(a.waiting, 0, n)
	n = due(a.settling, a.cfg.Wait+a.cfg.Settle)
	for _, e := range a.settling[:n] {
		a.judge(e)
	}
	a.settling = slices.Delete(a.settling, 0, n)
}

// claim notes that one exchange was caused by another, as an entry has it, and says whether that is news. If another entry says otherwise (that
// the same one was caused by another, or caused another: a proxy logs a request once, with the last it asked), nobody knows whom to believe.
func (a *Audit) claim(e *entry) bool {
	from, to := e.from, e.to
	switch {
	case to.named == from && from.caused == to:
		a.counts.again++
		return false
	case to.named != nil || from.caused != nil:
		to.disputed = to.disputed || to.named != nil
		from.disputed = from.disputed || from.caused != nil
		a.lost.contradicted.Add(1)
		return false
	}
	to.named, from.caused = from, to
	return true
}

// judge compares an entry with the join that was made.
func (a *Audit) judge(e *entry) {
	from, to := e.from, e.to
	switch {
	case from.disputed || to.disputed:
		a.lost.contradicted.Add(1)
	case to.join == journey.MethodProxyLog: // it would be compared with itself
		a.counts.used++
	case to.parent < 0:
		a.counts.missing[to.unjoined]++
	case to.journey == from.journey && to.parent == from.at:
		a.counts.right[to.join]++
	default:
		a.counts.wrong[to.join]++
	}
}

const (
	late   = 50 * time.Millisecond // that a proxy may take from reading a request until it begins with it, and the like
	tooFew = 16                    // exchanges that may be meant on one connection, beyond which it is not tried to tell them apart
)

// find looks for which exchange was caused by which as the entry has it, or says why that cannot be told.
func (a *Audit) find(e *entry) (why *loss.Counter) {
	asked, all := a.askedBy(e)
	asking, too := a.asks(e)
	switch {
	case !all || !too:
		return a.lost.ambiguous
	case len(asked) == 0 || len(asking) == 0:
		return a.lost.unseen
	}
	if len(asked) > tooFew || len(asking) > tooFew {
		return a.lost.ambiguous
	}
	why = a.lost.processes
	several := false
	for _, x := range asked {
		for _, y := range asking {
			switch {
			case x.server.pid == 0 || x.server.pid != y.client.pid:
			case !speaks(e.By, x, y):
				why = a.lost.speaker
			default:
				several = several || e.from != nil
				e.from, e.to = x, y
			}
		}
	}
	switch {
	case several:
		e.from, e.to = nil, nil
		return a.lost.ambiguous
	case e.from == nil:
		return why
	}
	return nil
}

// speaks says whether it was the process of these connections that spoke: by its id where that is known, else by one of its own addresses.
// Loopback's are everybody's.
func speaks(by journey.Speaker, x, y *exchange) bool {
	if by.Pid != 0 {
		return by.Pid == x.server.pid
	}
	addr := by.Addr.Unmap()
	return addr.IsValid() && !addr.IsLoopback() && (addr == x.server.addr || addr == y.client.addr)
}

// askedBy are the exchanges with which the entry may begin: the proxy read them shortly before it began, and answered no later than it was over.
func (a *Audit) askedBy(e *entry) (list []*exchange, all bool) {
	earliest, latest := e.Earliest(0), e.Latest(0)
	path := maphash.String(a.seed, e.Path)
	oldest := earliest - min(earliest, uint64(late))
	list, all = a.asked.between(pairOf(e.Downstream.Local, e.Downstream.Remote), oldest, latest)
	list = slices.DeleteFunc(list, func(x *exchange) bool {
		switch {
		case x.read < oldest, x.read > latest, x.answered != 0 && (x.answered < earliest || x.answered > e.LatestWrite(e.Duration)):
			return true
		case e.Path != "" && x.target != path:
			return true
		case e.Status != 0 && x.status != 0 && e.Status != x.status:
			return true
		}
		return e.differs(x)
	})
	return e.first(list), all
}

// first leaves of several exchanges on one connection of HTTP/1 the first: the others were read when it was answered, so that the proxy cannot
// have begun with them.
func (e *entry) first(list []*exchange) []*exchange {
	if len(list) < 2 || !e.Sure() || slices.ContainsFunc(list, func(x *exchange) bool { return x.shared }) {
		return list
	}
	return []*exchange{slices.MinFunc(list, func(x, y *exchange) int { return cmp.Compare(x.read, y.read) })}
}

// asks are the exchanges that may be what the proxy asked upstream meanwhile.
func (a *Audit) asks(e *entry) (list []*exchange, all bool) {
	earliest, over := e.Earliest(e.Upto), e.LatestWrite(e.Duration)
	if e.Answer > 0 { // it says this after it read, so that what was asked next on the connection is out
		over = e.Latest(e.Answer)
	}
	latest := min(over, e.Latest(e.Upto+late))
	list, all = a.asking.between(pairOf(e.Upstream.Local, e.Upstream.Remote), min(earliest, latest), latest)
	return slices.DeleteFunc(list, func(y *exchange) bool {
		return y.began < earliest || y.began > latest || y.ended > over || e.differs(y)
	}), all
}

// differs says whether an exchange is of another request, by its id or method.
func (e *entry) differs(x *exchange) bool {
	return e.hasID && x.hasID && e.id != x.id || e.Method != "" && x.method != "" && e.Method != x.method
}
