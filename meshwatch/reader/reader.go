// Package reader takes flights out of the recorder's ring, in place and in order, and counts what it missed. A flight is given
// out when its first byte has been read; whoever takes it says whether the rest of it matters and is then told of it.
package reader

import (
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// Ring is what is read; *bpf.Ring is one.
type Ring interface {
	Len() uint64
	Last() uint64
	ID(serial uint64) uint64
	At(serial uint64) *bpf.Flight
	Watch(serial uint64, on bool)
	Copy(to *bpf.Flight, serial uint64)
	Head(buf []byte, f *bpf.Flight) ([]byte, bool)
}

// Sink takes what is read. The flight and its head are valid until the call returns.
type Sink interface {
	// Flight takes a record once.
	Flight(f *bpf.Flight, head []byte) join.Want
	// Update takes a record of which more is wanted, as it is now, at each poll, until Done.
	Update(f *bpf.Flight) join.Want
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
	sink  Sink
	next  uint64
	open  []waiting
	given int // in open: given out, and more is wanted
	free  []*kept
	work  bpf.Flight
	spare bpf.Flight // scratch of copyOut
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

type losses struct{ lapped, headLapped, unfinished, noSender, noEnd, cut *loss.Counter }

// waiting is a record that was not ready when it was first seen, or of which more is wanted.
type waiting struct {
	serial   uint64
	since    uint64
	given    bool
	followed bool
	copy     *kept
}

// kept is a copy of one.
type kept struct {
	f    bpf.Flight
	head []byte // empty: it could not be had
}

// New makes a reader that begins with what is recorded from now on.
func New(ring Ring, set *loss.Set, sink Sink) *Reader {
	return &Reader{
		ring: ring, sink: sink, next: ring.Last() + 1, head: make([]byte, 0, bpf.FramesBytes),
		lost: losses{
			lapped: set.Counter("ring", "lapped"), headLapped: set.Counter("ring", "head-lapped"),
			unfinished: set.Counter("ring", "unfinished"), noSender: set.Counter("ring", "sender-not-seen"),
			noEnd: set.Counter("ring", "end-not-seen"), cut: set.Counter("ring", "recording-stopped"),
		},
	}
}

// Poll gives out everything that has become ready. now is CLOCK_MONOTONIC ns. It returns how many records were new.
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
		if r.given > 0 && uint32(r.ring.At(r.next).Flags)&bpf.FlagClose != 0 {
			r.recheck(now) // what the closed socket did last comes before its end
		}
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

// Cut forgets what is under way: recording has stopped, and nobody will see the rest.
func (r *Reader) Cut() {
	for i := range r.open {
		w := &r.open[i]
		if w.followed && r.ring.ID(w.serial) == w.serial {
			r.ring.Watch(w.serial, false)
		}
		if !w.given || w.followed {
			r.lost.cut.Add(1)
		}
		r.drop(w)
	}
	r.open, r.given = r.open[:0], 0
}

// Close gives out what is still under way, as it is.
func (r *Reader) Close() {
	for i := range r.open {
		w := &r.open[i]
		if id := r.ring.ID(w.serial); !w.given && (id >= w.serial || id == 0) {
			r.giveUp(w)
		}
	}
	r.open = r.open[:0]
}

// ready says whether a record can be given out. It may have been read after now. A SYN need not have been delivered: it may go
// to another node, and what follows it waits for it.
func ready(f *bpf.Flight, now uint64) bool {
	if isSYN(f) {
		return true
	}
	return f.RecvNs != 0 && (f.SendNs != 0 || int64(now-f.RecvNs) > int64(senderGrace)) //nolint:gosec // a difference
}

func isSYN(f *bpf.Flight) bool { return uint32(f.Flags)&bpf.FlagSYN != 0 }

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
	if w.given {
		return r.update(w)
	}
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
	if done, tried := r.tryTake(w, now); tried {
		return done
	}
	if age > patience {
		r.giveUp(w)
		return true
	}
	if age > keepCopyAfter && (w.copy == nil || !w.copy.same(r.ring.At(w.serial))) {
		r.copyOut(w)
	}
	return false
}

// tryTake gives out a record if it is ready. The slot may be taken by a new flight while it is copied.
func (r *Reader) tryTake(w *waiting, now uint64) (done, tried bool) {
	at := r.ring.At(w.serial)
	if at.RecvNs == 0 && !isSYN(at) { // the usual reason to wait, without a copy
		return false, false
	}
	r.ring.Copy(&r.work, w.serial)
	if !ready(&r.work, now) {
		return false, false
	}
	head, ok := r.ring.Head(r.head[:0], &r.work)
	if r.work.Id != w.serial || r.ring.ID(w.serial) != w.serial {
		r.giveUp(w)
		return true, true
	}
	if !ok {
		head = head[:0]
		if k := w.copy; k != nil && k.f.HeadPos == r.work.HeadPos {
			head = k.head // it waited longer than the ring of heads lasts
		}
	}
	want := r.give(&r.work, head)
	r.drop(w)
	if want == join.Done {
		return r.mark(w, want), true
	}
	// most of what goes on is over at the next look, and a record lasts longer: so it is not marked yet
	w.given, w.followed = true, want == join.Follow
	r.given++
	return false, true
}

// update tells of the rest of a record that was given out. True: nobody wants more, or there is none.
func (r *Reader) update(w *waiting) bool {
	r.ring.Copy(&r.work, w.serial)
	if r.work.Id != w.serial || r.ring.ID(w.serial) != w.serial {
		if w.followed {
			r.lost.noEnd.Add(1)
		}
		r.given--
		return true
	}
	done := r.mark(w, r.sink.Update(&r.work))
	if done {
		r.given--
	}
	return done
}

// mark tells the recorder whether the record in r.work is followed. True: nobody wants more of it.
func (r *Reader) mark(w *waiting, want join.Want) bool {
	w.followed = want == join.Follow
	if watched := r.work.Watched != 0; watched != w.followed { // also where that was written for the flight before, too late
		r.ring.Watch(w.serial, w.followed)
	}
	if want == join.Done && r.work.SendNs == 0 && !isSYN(&r.work) {
		r.lost.noSender.Add(1)
	}
	return want == join.Done
}

// copyOut keeps what a record holds now, in case its slot is taken. False: it was taken.
func (r *Reader) copyOut(w *waiting) bool {
	f := &r.spare
	r.ring.Copy(f, w.serial)
	head, ok := r.ring.Head(r.head[:0], f)
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
	w.copy.f = *f
	if ok {
		w.copy.head = append(w.copy.head[:0], head...)
	}
	return true
}

// same says whether nothing has come to a record since it was copied. One that goes to another node is looked at a hundred times.
func (k *kept) same(at *bpf.Flight) bool {
	f := &k.f
	return at.Id == f.Id && at.Nstamps == f.Nstamps && at.End == f.End && at.SendNs == f.SendNs && at.HeadLen == f.HeadLen &&
		at.Flags == f.Flags && at.Retransmits == f.Retransmits && at.DropReason == f.DropReason
}

// giveUp gives out a record that did not become ready, as last seen.
func (r *Reader) giveUp(w *waiting) {
	if !r.copyOut(w) && w.copy == nil {
		r.lost.lapped.Add(1)
		return
	}
	r.lost.unfinished.Add(1)
	r.give(&w.copy.f, w.copy.head)
	r.drop(w)
}

func (r *Reader) give(f *bpf.Flight, head []byte) join.Want {
	if len(head) < int(f.HeadLen) {
		r.lost.headLapped.Add(1)
	}
	r.stats.Read++
	return r.sink.Flight(f, head)
}

// drop ends the use of a copy.
func (r *Reader) drop(w *waiting) {
	if w.copy != nil {
		w.copy.head = w.copy.head[:0]
		r.free = append(r.free, w.copy)
		w.copy = nil
	}
}
