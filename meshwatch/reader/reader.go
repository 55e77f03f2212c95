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
	// claimGrace is how long a serial may be claimed before it is written: longer, and its slot held a flight still under
	// way, so the recorder took the next one.
	claimGrace = uint64(50 * time.Millisecond)
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
	Read uint64 // given out
	Open int    // watched now
	Lag  uint64 // records behind the writer at the last poll
}

type losses struct{ lapped, headLapped, unfinished, noSender *loss.Counter }

// waiting is a record that was not final when it was first seen.
type waiting struct {
	serial uint64
	since  uint64
	copy   *kept
}

// kept is a copy of one.
type kept struct {
	f    bpf.Flight
	head []byte // empty: it could not be had
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
	r.stats.Lag = last + 1 - r.next
	fresh = int(r.stats.Lag) //nolint:gosec // at most some millions
	if n := r.ring.Len(); r.stats.Lag > n {
		r.lost.lapped.Add(r.stats.Lag - n)
		r.next = last + 1 - n
	}
	for ; r.next <= last; r.next++ {
		w := waiting{serial: r.next, since: now}
		if !r.look(&w, now) {
			r.open = append(r.open, w)
		}
	}
	r.stats.Open = len(r.open)
	return fresh
}

// Stats is what was read so far.
func (r *Reader) Stats() Stats { return r.stats }

// Close gives out what is still under way, as it is.
func (r *Reader) Close() {
	for i := range r.open {
		w := &r.open[i]
		if id := r.ring.ID(w.serial); id >= w.serial || id == 0 {
			r.giveUp(w)
		}
	}
	r.open = r.open[:0]
}

// final says whether nothing more is expected of a record. It may have been read after now.
func final(f *bpf.Flight, now uint64) bool {
	if f.RecvNs == 0 || int32(f.RecvUpto-f.End) < 0 { //nolint:gosec // sequence numbers
		return false
	}
	return f.SendNs != 0 || int64(now-f.RecvNs) > int64(senderGrace) //nolint:gosec // a difference
}

// recheck looks again at what was not final.
func (r *Reader) recheck(now uint64) {
	open := r.open[:0]
	for _, w := range r.open {
		if !r.look(&w, now) {
			open = append(open, w)
		}
	}
	r.open = open
}

// look returns true when w needs no more watching: it was given out, counted or never used.
func (r *Reader) look(w *waiting, now uint64) bool {
	age := now - w.since
	switch id := r.ring.ID(w.serial); {
	case id > w.serial: // overwritten
		r.giveUp(w)
		return true
	case id == w.serial:
		return r.lookAt(w, now, age)
	case id == 0: // being written
		if age > patience {
			r.giveUp(w)
		}
		return age > patience
	}
	return age > claimGrace
}

// lookAt is look for a record that is there.
func (r *Reader) lookAt(w *waiting, now, age uint64) bool {
	if r.tryTake(w, now) {
		return true
	}
	if age > patience {
		r.giveUp(w)
		return true
	}
	if age > keepCopyAfter {
		r.copyOut(w)
	}
	return false
}

// tryTake gives out a record if it is final. The slot may be taken by a new flight while it is copied.
func (r *Reader) tryTake(w *waiting, now uint64) bool {
	at := r.ring.At(w.serial)
	if at.RecvNs == 0 { // the usual reason to wait, without a copy
		return false
	}
	r.work = *at
	if !final(&r.work, now) {
		return false
	}
	head, ok := r.ring.Head(r.head[:0], &r.work)
	if r.work.Id != w.serial || r.ring.ID(w.serial) != w.serial {
		r.giveUp(w)
		return true
	}
	if !ok {
		head = head[:0]
		if k := w.copy; k != nil && k.f.HeadPos == r.work.HeadPos {
			head = k.head // it waited longer than the ring of heads lasts
		}
	}
	if r.work.SendNs == 0 {
		r.lost.noSender.Add(1)
	}
	r.give(&r.work, head)
	r.drop(w)
	return true
}

// copyOut keeps what a record holds now, in case its slot is taken. False: it was taken.
func (r *Reader) copyOut(w *waiting) bool {
	f := *r.ring.At(w.serial)
	head, ok := r.ring.Head(r.head[:0], &f)
	if f.Id != w.serial || r.ring.ID(w.serial) != w.serial {
		return false
	}
	if w.copy == nil {
		if n := len(r.free); n > 0 {
			w.copy, r.free = r.free[n-1], r.free[:n-1]
		} else {
			w.copy = &kept{}
		}
	}
	w.copy.f = f
	if ok {
		w.copy.head = append(w.copy.head[:0], head...)
	}
	return true
}

// giveUp gives out a record that did not become final, as last seen.
func (r *Reader) giveUp(w *waiting) {
	if !r.copyOut(w) && w.copy == nil {
		r.lost.lapped.Add(1)
		return
	}
	r.lost.unfinished.Add(1)
	r.give(&w.copy.f, w.copy.head)
	r.drop(w)
}

func (r *Reader) give(f *bpf.Flight, head []byte) {
	if len(head) < int(f.HeadLen) {
		r.lost.headLapped.Add(1)
	}
	r.stats.Read++
	r.take(f, head)
}

// drop ends the use of a copy.
func (r *Reader) drop(w *waiting) {
	if w.copy != nil {
		w.copy.head = w.copy.head[:0]
		r.free = append(r.free, w.copy)
		w.copy = nil
	}
}
