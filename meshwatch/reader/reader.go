// Package reader takes finished flights out of the recorder's ring, in place and in order, and counts what it missed.
package reader

import (
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// Ring is what is read; *bpf.Ring is one.
type Ring interface {
	Len() uint64
	Last() uint64
	ID(serial uint64) uint64
	At(serial uint64) *bpf.Flight
	Head(buf []byte, f *bpf.Flight) ([]byte, bool)
}

// Times in ns.
const (
	// keepCopyAfter is the age from which an unfinished record is copied at each poll, as its slot may be taken.
	keepCopyAfter = uint64(50 * time.Millisecond)
	// senderGrace is how long a flight that was read waits for its writer to return from the call.
	senderGrace = uint64(50 * time.Millisecond)
	// patience is how long an unread flight is watched before it is given out as it is.
	patience = uint64(10 * time.Second)
)

// Reader reads one ring. One goroutine owns it.
type Reader struct {
	ring  Ring
	take  func(*bpf.Flight, []byte)
	next  uint64
	open  []waiting
	free  []*kept
	work  bpf.Flight
	head  []byte
	lost  losses
	stats Stats
}

// Stats count records since the start.
type Stats struct {
	Read    uint64 // given out
	Skipped uint64 // serials that were never used: their slot held a flight still under way
	Open    int    // watched now
	Lag     uint64 // records behind the writer at the last poll
}

type losses struct{ lapped, headLapped, unfinished, noSender *loss.Counter }

// waiting is a record that was not final when it was first seen.
type waiting struct {
	serial uint64
	since  uint64
	copy   *kept
}

type kept struct {
	f    bpf.Flight
	head []byte
	ok   bool
}

// New makes a reader that begins with what is recorded from now on.
func New(ring Ring, set *loss.Set, take func(f *bpf.Flight, head []byte)) *Reader {
	return &Reader{
		ring: ring, take: take, next: ring.Last() + 1, head: make([]byte, 0, bpf.HeadBytes),
		lost: losses{
			lapped: set.Counter("ring", "lapped"), headLapped: set.Counter("ring", "head-lapped"),
			unfinished: set.Counter("ring", "unfinished"), noSender: set.Counter("ring", "sender-not-seen"),
		},
	}
}

// Poll gives out everything that has become final. now is CLOCK_MONOTONIC ns. The flight and its head are valid until
// take returns. It returns how many records were new.
func (r *Reader) Poll(now uint64) (fresh int) {
	r.recheck(now)
	last := r.ring.Last()
	if last+1 < r.next { // another ring in its place
		r.next = last + 1
	}
	r.stats.Lag = last + 1 - r.next
	fresh = int(r.stats.Lag) //nolint:gosec // at most some millions
	if n := r.ring.Len(); r.stats.Lag > n {
		r.lost.lapped.Add(r.stats.Lag - n)
		r.next = last + 1 - n
	}
	for ; r.next <= last; r.next++ {
		switch id := r.ring.ID(r.next); {
		case id == r.next:
			if !r.tryTake(r.next, now) {
				r.open = append(r.open, waiting{serial: r.next, since: now})
			}
		case id > r.next:
			r.lost.lapped.Add(1)
		default: // being written, or its slot is still another flight's
			r.open = append(r.open, waiting{serial: r.next, since: now})
		}
	}
	r.stats.Open = len(r.open)
	return fresh
}

// Skip drops what is in the ring unread, for a pause of recording.
func (r *Reader) Skip() {
	r.next = r.ring.Last() + 1
	r.open = r.open[:0]
}

// Stats is what was read so far.
func (r *Reader) Stats() Stats { return r.stats }

// Close gives out what is still under way, as it is.
func (r *Reader) Close() {
	for i := range r.open {
		w := &r.open[i]
		if r.copyOut(w) || w.copy != nil && w.copy.ok {
			r.giveCopy(w.copy, r.lost.unfinished)
		}
	}
	r.open = r.open[:0]
}

// final says whether nothing more is expected of a record.
func final(f *bpf.Flight, now uint64) bool {
	if f.RecvNs == 0 || int32(f.RecvUpto-f.End) < 0 { //nolint:gosec // sequence numbers
		return false
	}
	return f.SendNs != 0 || now-f.RecvNs > senderGrace
}

// tryTake gives out a record if it is final. The slot may be taken by a new flight while it is copied: then it counts as lapped.
func (r *Reader) tryTake(serial, now uint64) bool {
	at := r.ring.At(serial)
	if at.RecvNs == 0 { // the usual reason to wait, without a copy
		return false
	}
	r.work = *at
	if !final(&r.work, now) {
		return false
	}
	head, ok := r.ring.Head(r.head[:0], &r.work)
	if r.work.Id != serial || r.ring.ID(serial) != serial {
		r.lost.lapped.Add(1)
		return true
	}
	if !ok {
		r.lost.headLapped.Add(1)
		head = head[:0]
	}
	if r.work.SendNs == 0 {
		r.lost.noSender.Add(1)
	}
	r.stats.Read++
	r.take(&r.work, head)
	return true
}

// recheck looks again at what was not final.
func (r *Reader) recheck(now uint64) {
	kept := r.open[:0]
	for _, w := range r.open {
		if !r.recheckOne(&w, now) {
			kept = append(kept, w)
		}
	}
	r.open = kept
}

// recheckOne returns true when w needs no more watching.
func (r *Reader) recheckOne(w *waiting, now uint64) bool {
	id := r.ring.ID(w.serial)
	switch {
	case id == w.serial:
		if r.tryTake(w.serial, now) {
			r.drop(w.copy)
			return true
		}
	case id < w.serial: // not written: a claim takes less than a poll, so it was skipped
		if now-w.since > senderGrace {
			r.stats.Skipped++
			return true
		}
		return false
	default: // overwritten
		if w.copy != nil && w.copy.ok {
			r.giveCopy(w.copy, r.lost.unfinished)
		} else {
			r.lost.lapped.Add(1)
		}
		return true
	}
	if now-w.since > patience {
		if r.copyOut(w) {
			r.giveCopy(w.copy, r.lost.unfinished)
		}
		return true
	}
	if now-w.since > keepCopyAfter {
		r.copyOut(w)
	}
	return false
}

// copyOut keeps what a record holds now, in case its slot is taken.
func (r *Reader) copyOut(w *waiting) bool {
	if w.copy == nil {
		if n := len(r.free); n > 0 {
			w.copy, r.free = r.free[n-1], r.free[:n-1]
		} else {
			w.copy = &kept{}
		}
		w.copy.ok = false
	}
	f := *r.ring.At(w.serial)
	head, ok := r.ring.Head(r.head[:0], &f)
	if f.Id != w.serial || r.ring.ID(w.serial) != w.serial {
		return false
	}
	w.copy.f = f
	if ok {
		w.copy.head = append(w.copy.head[:0], head...)
	} else if !w.copy.ok {
		w.copy.head = w.copy.head[:0]
		r.lost.headLapped.Add(1)
	}
	w.copy.ok = true
	return true
}

func (r *Reader) giveCopy(k *kept, why *loss.Counter) {
	why.Add(1)
	r.stats.Read++
	r.take(&k.f, k.head)
	r.drop(k)
}

func (r *Reader) drop(k *kept) {
	if k != nil {
		k.ok = false
		r.free = append(r.free, k)
	}
}
