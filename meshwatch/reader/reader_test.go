package reader

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

const ms = uint64(time.Millisecond)

// fakeRing is a recorder's memory that the test writes. Its length is that of its records; heads holds them by position.
type fakeRing struct {
	last    uint64
	records []bpf.Flight
	heads   map[uint32][]byte
	torn    map[uint64]func() // what the recorder does to a record while it is copied, once: runs after the copy
}

func newFakeRing(n int) *fakeRing {
	return &fakeRing{records: make([]bpf.Flight, n), heads: map[uint32][]byte{}, torn: map[uint64]func(){}}
}

func (r *fakeRing) Len() uint64                  { return uint64(len(r.records)) }
func (r *fakeRing) Last() uint64                 { return r.last }
func (r *fakeRing) ID(serial uint64) uint64      { return r.At(serial).Id }
func (r *fakeRing) At(serial uint64) *bpf.Flight { return &r.records[serial%r.Len()] }

func (r *fakeRing) Copy(to *bpf.Flight, serial uint64) { *to = *r.At(serial) }

func (r *fakeRing) Watch(serial uint64, on bool) {
	r.At(serial).Watched = map[bool]uint16{true: 1}[on]
}

// Head comes between the copy of a record and the look whether it is still the same: here the recorder takes it away.
func (r *fakeRing) Head(buf []byte, f *bpf.Flight) ([]byte, bool) {
	if change := r.torn[f.Id]; change != nil {
		delete(r.torn, f.Id)
		change()
	}
	if f.HeadLen == 0 || f.HeadLen > bpf.HeadBytes {
		return buf, f.HeadLen == 0
	}
	b, ok := r.heads[f.HeadPos]
	return append(buf, b...), ok
}

// bench is a ring, its reader, and what the reader gave out.
type bench struct {
	*fakeRing
	reader *Reader
	lost   loss.Set
	now    uint64
	given  []string
	first  int                  // records given out, without updates
	want   map[uint64]join.Want // by serial
}

func newBench(n int) *bench {
	b := &bench{fakeRing: newFakeRing(n), now: uint64(time.Hour), want: map[uint64]join.Want{}}
	b.reader = New(b.fakeRing, &b.lost, b)
	return b
}

func (b *bench) Flight(f *bpf.Flight, head []byte) join.Want {
	b.given = append(b.given, fmt.Sprintf("%d %s", f.Id, head))
	b.first++
	return b.want[f.Id]
}

func (b *bench) Update(f *bpf.Flight) join.Want {
	b.given = append(b.given, fmt.Sprintf("%d to %d", f.Id, int32(f.RecvUpto)))
	return b.want[f.Id]
}

// write claims the next record for an unread flight with its own serial as its head.
func (b *bench) write() *bpf.Flight {
	b.last++
	f := b.At(b.last)
	*f = bpf.Flight{Id: b.last, StartNs: b.now, SendNs: b.now, Seq: 0xfffffff0, End: 0x10, RecvUpto: 0xfffffff0, HeadPos: uint32(b.last), HeadLen: 2}
	b.heads[f.HeadPos] = fmt.Appendf(nil, "h%d", b.last)
	f.HeadLen = uint16(len(b.heads[f.HeadPos]))
	return f
}

// read is the receiver's reading of all of a flight.
func (b *bench) read(f *bpf.Flight) { f.RecvNs, f.RecvEndNs, f.RecvUpto = b.now, b.now, f.End }

func (b *bench) poll(after uint64) int {
	b.now += after
	return b.reader.Poll(b.now)
}

// wants compares what was given out, "serial head", and the losses, "reason count".
func (b *bench) wants(t *testing.T, given []string, losses ...string) {
	t.Helper()
	if diff := cmp.Diff(given, b.given); diff != "" {
		t.Errorf("given out (-want +got):\n%s", diff)
	}
	var lost []string
	for _, row := range b.lost.Rows() {
		if row.Count > 0 {
			lost = append(lost, fmt.Sprintf("%s %d", row.Reason, row.Count))
		}
	}
	if diff := cmp.Diff(losses, lost); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	if b.reader.Stats().Read != uint64(b.first) {
		t.Errorf("stats say %d read, given out were %d", b.reader.Stats().Read, b.first)
	}
}

func TestReader(t *testing.T) {
	for name, tt := range map[string]struct {
		do     func(*bench)
		given  []string
		losses []string
	}{
		"final ones in order": {do: func(b *bench) {
			for range 3 {
				b.read(b.write())
			}
			b.poll(ms)
			b.read(b.write())
			b.poll(ms)
			b.poll(ms)
		}, given: []string{"1 h1", "2 h2", "3 h3", "4 h4"}},

		"a later one first": {do: func(b *bench) {
			f := b.write()
			b.read(b.write())
			b.poll(ms)
			b.read(f)
			b.poll(ms)
		}, given: []string{"2 h2", "1 h1"}},

		"more is wanted until all is read": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			f.RecvUpto, b.want[1] = f.Seq+1, join.Follow
			b.poll(ms)
			if f.Watched != 0 {
				panic("marked although it may be over at the next look")
			}
			b.poll(11 * uint64(time.Second))
			if f.Watched == 0 {
				panic("the recorder may overwrite it")
			}
			b.read(f)
			b.want[1] = join.Done
			b.poll(ms)
			if f.Watched != 0 {
				panic("the recorder cannot use the record again")
			}
			b.poll(ms)
		}, given: []string{"1 h1", "1 to -15", "1 to 16"}},

		"more is wanted, and its sender returns late": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			f.SendNs, b.want[1] = 0, join.Follow
			b.poll(senderGrace + ms)
			f.SendNs = b.now
			b.want[1] = join.Done
			b.poll(ms)
		}, given: []string{"1 h1", "1 to 16"}},

		"more is wanted, and its sender is never seen": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			f.SendNs, b.want[1] = 0, join.Follow
			b.poll(senderGrace + ms)
			b.want[1] = join.Done
			b.poll(ms)
		}, given: []string{"1 h1", "1 to 16"}, losses: []string{"sender-not-seen 1"}},

		"to be seen again, and it is overwritten": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			b.want[1] = join.Again
			b.poll(ms)
			b.poll(ms)
			if f.Watched != 0 {
				panic("the recorder cannot use the record again")
			}
			b.At(1).Id = 5
			b.poll(ms)
		}, given: []string{"1 h1", "1 to 16"}},

		"seen again, then followed": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			b.want[1] = join.Again
			b.poll(ms)
			b.want[1] = join.Follow
			b.poll(ms)
			if f.Watched == 0 {
				panic("the recorder may overwrite it")
			}
			b.want[1] = join.Done
			b.poll(ms)
		}, given: []string{"1 h1", "1 to 16", "1 to 16"}},

		"more is wanted, and it is overwritten": {do: func(b *bench) {
			b.read(b.write())
			b.want[1] = join.Follow
			b.poll(ms)
			b.At(1).Id = 5
			b.poll(ms)
		}, given: []string{"1 h1"}, losses: []string{"end-not-seen 1"}},

		"what a closed socket did last comes before its end": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			b.want[1] = join.Follow
			b.poll(ms)
			between := b.write()
			b.read(between)
			b.torn[2] = func() { f.RecvUpto++ } // after this poll has looked at 1
			end := b.write()
			b.read(end)
			end.Flags = bpf.Flags(bpf.FlagClose)
			b.poll(ms)
		}, given: []string{"1 h1", "1 to 16", "2 h2", "1 to 17", "3 h3"}},

		"a SYN does not wait for its delivery": {do: func(b *bench) {
			f := b.write()
			f.Flags, f.SendNs, f.HeadLen, b.want[1] = bpf.Flags(bpf.FlagSYN), 0, 0, join.Follow
			b.poll(ms)
			b.poll(11 * uint64(time.Second))
			b.want[1] = join.Done
			b.poll(ms)
		}, given: []string{"1 ", "1 to -16", "1 to -16"}},

		"a mark that came too late does not stay": {do: func(b *bench) {
			f := b.write()
			f.Watched = 1
			b.read(f)
			b.poll(ms)
			if f.Watched != 0 {
				panic("the recorder cannot use the record again")
			}
		}, given: []string{"1 h1"}},

		"being written": {do: func(b *bench) {
			f := b.write()
			whole := *f
			f.Id = 0
			b.poll(ms)
			b.poll(5000 * ms)
			*f = whole
			b.read(f)
			b.poll(ms)
		}, given: []string{"1 h1"}},

		"never written": {do: func(b *bench) {
			b.write().Id = 0
			b.poll(ms)
			b.poll(patience)
			if b.reader.Stats().Open != 1 {
				panic("not watched")
			}
			b.poll(ms)
		}, losses: []string{"lapped 1"}},

		"unread for long, and being overwritten when patience ends": {do: func(b *bench) {
			f := b.write()
			b.poll(ms)
			b.poll(keepCopyAfter + ms)
			f.Id = 0
			b.poll(patience)
		}, given: []string{"1 h1"}, losses: []string{"unfinished 1"}},

		"a serial whose slot was still under way is no loss": {do: func(b *bench) {
			long := b.write()
			for range 3 {
				b.read(b.write())
			}
			b.poll(ms)
			b.last++ // 5 would overwrite 1: abandoned
			b.read(b.write())
			b.poll(ms)
			b.poll(claimGrace + ms)
			if n := b.reader.Stats().Open; n != 1 {
				panic(fmt.Sprintf("%d open", n))
			}
			b.read(long)
			b.poll(ms)
		}, given: []string{"2 h2", "3 h3", "4 h4", "6 h6", "1 h1"}},

		"lapped by a few": {do: func(b *bench) {
			for range 7 {
				b.read(b.write())
			}
			if fresh := b.poll(ms); fresh != 7 || b.reader.Stats().Lag != 7 {
				panic("lag")
			}
		}, given: []string{"4 h4", "5 h5", "6 h6", "7 h7"}, losses: []string{"lapped 3"}},

		"lapped many times": {do: func(b *bench) {
			for range 1003 {
				b.read(b.write())
			}
			b.poll(ms)
		}, given: []string{"1000 h1000", "1001 h1001", "1002 h1002", "1003 h1003"}, losses: []string{"lapped 999"}},

		"overwritten between the count and the look": {do: func(b *bench) {
			b.read(b.write())
			b.At(1).Id = 5
			b.poll(ms)
		}, losses: []string{"lapped 1"}},

		"overwritten while it is copied": {do: func(b *bench) {
			b.read(b.write())
			b.torn[1] = func() { b.At(1).Id = 0 }
			b.poll(ms)
		}, losses: []string{"lapped 1"}},

		"overwritten while watched, too soon for a copy": {do: func(b *bench) {
			b.write()
			b.poll(ms)
			b.At(1).Id = 5
			b.poll(ms)
		}, losses: []string{"lapped 1"}},

		"overwritten while watched, given out from the copy": {do: func(b *bench) {
			b.write()
			b.poll(ms)
			b.poll(keepCopyAfter + ms)
			for range 4 {
				b.read(b.write())
			}
			delete(b.heads, 1)
			b.poll(ms)
		}, given: []string{"1 h1", "2 h2", "3 h3", "4 h4", "5 h5"}, losses: []string{"unfinished 1"}},

		"overwritten while it is copied, given out from the copy before": {do: func(b *bench) {
			f := b.write()
			b.poll(ms)
			b.poll(keepCopyAfter + ms)
			b.read(f)
			b.torn[1] = func() { f.Id = 0 }
			b.poll(ms)
		}, given: []string{"1 h1"}, losses: []string{"unfinished 1"}},

		"read late: the head comes from the copy": {do: func(b *bench) {
			f := b.write()
			b.poll(ms)
			b.poll(keepCopyAfter + ms)
			delete(b.heads, 1)
			b.poll(ms)
			b.read(f)
			b.poll(ms)
		}, given: []string{"1 h1"}},

		"sender not seen": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			f.SendNs = 0
			b.poll(ms)
			b.poll(senderGrace - ms)
			if len(b.given) != 0 {
				panic("did not wait for the sender")
			}
			b.poll(ms)
		}, given: []string{"1 h1"}, losses: []string{"sender-not-seen 1"}},

		"read after the look began: its sender may still come": {do: func(b *bench) {
			f := b.write()
			b.read(f)
			f.SendNs, f.RecvNs = 0, b.now+1000
			b.poll(0)
			f.SendNs = b.now + 2000
			b.poll(ms)
		}, given: []string{"1 h1"}},

		"unread for long": {do: func(b *bench) {
			b.write()
			b.poll(ms)
			b.poll(patience)
			if len(b.given) != 0 {
				panic("impatient")
			}
			b.poll(ms)
		}, given: []string{"1 h1"}, losses: []string{"unfinished 1"}},

		"unread for long, and overwritten in that moment": {do: func(b *bench) {
			f := b.write()
			b.poll(ms)
			b.torn[1] = func() { f.Id = 5 }
			b.poll(patience + ms)
		}, losses: []string{"lapped 1"}},

		"head lapped": {do: func(b *bench) {
			b.read(b.write())
			delete(b.heads, 1)
			b.poll(ms)
		}, given: []string{"1 "}, losses: []string{"head-lapped 1"}},

		"head lapped before the copy, counted once": {do: func(b *bench) {
			f := b.write()
			b.poll(ms)
			delete(b.heads, 1)
			for range 3 {
				b.poll(keepCopyAfter + ms)
			}
			b.read(f)
			b.poll(ms)
		}, given: []string{"1 "}, losses: []string{"head-lapped 1"}},

		"no head is no loss": {do: func(b *bench) {
			f := b.write()
			f.HeadLen = 0
			b.read(f)
			b.poll(ms)
		}, given: []string{"1 "}},

		"close": {do: func(b *bench) {
			b.write()        // 1: unread
			f := b.write()   // 2: overwritten
			b.write().Id = 0 // 3: being written
			b.read(b.write())
			b.poll(ms)
			b.last++ // 5: claimed, but 1 is under way in its slot
			b.poll(ms)
			f.Id = 6
			b.reader.Close()
			b.reader.Close()
		}, given: []string{"4 h4", "1 h1"}, losses: []string{"lapped 2", "unfinished 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(4)
			tt.do(b)
			b.wants(t, tt.given, tt.losses...)
		})
	}
}

// A reader that starts late begins with what comes, and what was there before is no loss.
func TestReaderStartsLate(t *testing.T) {
	b := newBench(4)
	for range 9 {
		b.read(b.write())
	}
	b.reader = New(b.fakeRing, &b.lost, b)
	b.poll(ms)
	b.read(b.write())
	b.poll(ms)
	b.wants(t, []string{"10 h10"})
}

// Copies of records are used again, never for two records at a time.
func TestReaderKeepsCopiesApart(t *testing.T) {
	b := newBench(8)
	for round := range 3 {
		var open []*bpf.Flight
		for range 8 {
			open = append(open, b.write())
		}
		b.poll(ms)
		b.poll(keepCopyAfter + ms)
		for i, f := range open {
			if (i+round)%2 == 0 {
				b.read(f)
			}
		}
		clear(b.heads)
		b.poll(ms)
		for _, f := range open {
			f.Id += 8 // overwritten
		}
		b.last += 8
		b.poll(ms)
		for _, f := range open {
			b.read(f)
		}
		b.poll(ms)
		seen := map[string]bool{}
		for _, g := range b.given {
			var id, head uint64
			n, _ := fmt.Sscanf(g, "%d h%d", &id, &head)
			if n == 2 && id != head || seen[g] {
				t.Errorf("round %d: given out %q", round, g)
			}
			seen[g] = true
		}
	}
	b.given = nil
	f := b.write()
	clear(b.heads) // before there is a copy: the head of another one must not take its place
	b.poll(ms)
	b.poll(keepCopyAfter + ms)
	b.read(f)
	b.poll(ms)
	f = b.write()
	clear(b.heads)
	b.poll(ms)
	b.poll(keepCopyAfter + ms)
	f.Id += 8
	b.poll(ms)
	if diff := cmp.Diff([]string{"49 ", "50 "}, b.given); diff != "" {
		t.Errorf("given out without heads (-want +got):\n%s", diff)
	}
	if n := len(b.reader.free); n != 8 {
		t.Errorf("%d copies in memory for 8 records", n)
	}
}

// When recording stops, what is under way is counted and forgotten, and its records may be used again.
func TestCut(t *testing.T) {
	b := newBench(16)
	b.write() // nobody reads it
	grows := b.write()
	b.want[2] = join.Follow
	b.read(grows)
	syn := b.write()
	syn.Flags = bpf.Flags(bpf.FlagSYN)
	b.want[3] = join.Again
	b.poll(ms)
	b.poll(ms)
	if grows.Watched == 0 {
		t.Fatal("a flight that is followed is not marked")
	}
	b.reader.Cut()
	if grows.Watched != 0 || b.reader.Stats().Open != 3 {
		t.Errorf("marked %d, %d under way at the last look", grows.Watched, b.reader.Stats().Open)
	}
	given := len(b.given)
	b.read(b.At(1))
	b.read(b.write())
	b.poll(ms)
	b.given = b.given[given:]
	b.wants(t, []string{"4 h4"}, "recording-stopped 2")
}
