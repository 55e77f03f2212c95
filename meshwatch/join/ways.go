package join

import "math/bits"

// ways are what is known of how a process works, from joins that rest on something else: evidence counts only where it has just been proven.
type ways struct {
	proven         uint32 // joins that were looked at
	threads        uint32 // of them: one thread read and wrote all four messages
	lines          uint32 // the request had the same end-to-end lines
	answers        uint32 // the response had
	back           delays // from reading a response to sending one
	asks           uint32 // joins in which no connection had to be opened
	sent, answered uint32 // of them, of all: the request, the response went out in the turn after it was read, see turns
	order          order

	// of a process that is no proxy: exchanges served, those of them that one thread read and answered, and those that it read before it had
	// answered the one before.
	seen, alone, overlaps uint32
	last                  map[uint32]uint64 // thread → when it last answered
}

const (
	provenAfter = 64    // joins, before they prove anything
	fadeAfter   = 4096  // joins: then the older half counts half
	oddOnes     = 0.002 // of them may be otherwise
	oddTurns    = 0.02  // of them, where what is odd shows: it has nothing that fits, or shares it with another
	provenApp   = 256   // exchanges
	maxThreads  = 4096
)

// learn takes a join that is known for certain.
func (w *ways) learn(t turns, x, y *Exchange) {
	if w.proven >= fadeAfter {
		w.proven, w.threads, w.lines, w.answers = w.proven/2, w.threads/2, w.lines/2, w.answers/2
		w.asks, w.sent, w.answered = w.asks/2, w.sent/2, w.answered/2
		w.back.fade()
	}
	w.proven++
	if sameThread(x, y) {
		w.threads++
	}
	if x.lines == y.lines {
		w.lines++
	}
	if x.respLines == y.respLines {
		w.answers++
	}
	x.settleTurns(t)
	if y.answeredAt < x.writtenUntil {
		w.answered++
	}
	if x.Connect == nil {
		if w.asks++; y.Req.RecvNs >= x.readSince {
			w.sent++
		}
	}
	w.back.add(y.answeredAt - x.askedAt)
	if sameThread(x, y) && t.near(x, y) {
		w.order.learn(sample{x.askTid, y.Req.RecvNs, x.Req.StartNs, x.askedAt, y.answeredAt})
	}
}

// holds says whether what was seen so often is a rule.
func (w *ways) holds(n uint32) bool {
	return w.proven >= provenAfter && float64(w.proven-n) <= oddOnes*float64(w.proven)
}

// turnsForth and turnsBack say whether requests and responses go out in the turn after they were read.
func (w *ways) turnsForth() bool {
	return w.asks >= provenAfter && float64(w.asks-w.sent) <= oddTurns*float64(w.asks)
}

func (w *ways) turnsBack() bool {
	return w.proven >= provenAfter && float64(w.proven-w.answered) <= oddTurns*float64(w.proven)
}

// settleTurns notes in which time the cause of x was read and answered, by the turns of its threads.
func (x *Exchange) settleTurns(t turns) {
	if !x.settledTurns {
		x.settledTurns = true
		x.readSince, x.writtenUntil = t.since(x.askTid, x.Req.StartNs), t.until(x.gotTid, x.askedAt)
	}
}

// served learns from an exchange of an app.
func (w *ways) served(y *Exchange) {
	if w.last == nil || len(w.last) >= maxThreads {
		w.last = map[uint32]uint64{}
	}
	if w.seen >= fadeAfter {
		w.seen, w.alone, w.overlaps = w.seen/2, w.alone/2, w.overlaps/2
	}
	w.seen++
	if y.readTid == y.answerTid {
		w.alone++
	}
	if y.Req.RecvNs < w.last[y.readTid] {
		w.overlaps++
	}
	w.last[y.answerTid] = max(w.last[y.answerTid], y.answeredAt)
}

// threadPerRequest says whether a thread of the app does nothing else from reading a request to answering it.
func (w *ways) threadPerRequest() bool {
	return w.seen >= provenApp && w.alone == w.seen && w.overlaps == 0
}

func sameThread(x, y *Exchange) bool {
	return y.readTid == x.askTid && y.answerTid == x.gotTid && y.readTid == y.answerTid && y.readTid != 0
}

// delays are a distribution of times in ns: four classes for each power of two.
type delays struct {
	counts [4 * 40]uint32
	n      uint32
}

func class(ns uint64) int {
	if ns < 4 {
		return 0
	}
	k := bits.Len64(ns) - 3
	return min(4*k+int(ns>>k&3), len(delays{}.counts)-1) //nolint:gosec // below 4
}

func (d *delays) add(ns uint64) {
	d.counts[class(ns)]++
	d.n++
}

func (d *delays) fade() {
	d.n = 0
	for i := range d.counts {
		d.counts[i] /= 2
		d.n += d.counts[i]
	}
}

// most is a time that is longer than nearly all: twice what one in 1,000 exceeds. 0: not known.
func (d *delays) most() uint64 {
	if d.n < provenAfter {
		return 0
	}
	over := d.n / 1000
	for i := len(d.counts) - 1; i >= 0; i-- {
		if d.counts[i] > over {
			k := i / 4
			return 2 * (uint64(4+i%4) + 1) << k //nolint:gosec // small
		}
		over -= d.counts[i]
	}
	return 0
}
