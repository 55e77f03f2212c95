package reader

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// Heads as they could stand in memory: whole, cut, none, junk.
var heads = []string{
	"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: 5a0c8b1e-33a4-4c0e-9d6e-000000000001\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET / HT", "",
	"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", "\x16\x03\x01\x02\x00", "HTTP/1.1 101 X\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1",
}

// source is the fuzzer's bytes, then zeros.
type source []byte

func (s *source) byte() (b byte) {
	if len(*s) > 0 {
		b, *s = (*s)[0], (*s)[1:]
	}
	return b
}

// number is small, or any 64 bits.
func (s *source) number() (n uint64) {
	if b := s.byte(); b < 250 {
		return uint64(b)
	}
	var b [8]byte
	*s = (*s)[copy(b[:], *s):]
	return binary.LittleEndian.Uint64(b[:])
}

// record is any flight; small numbers, so that sockets, sequences and ids meet again.
func (s *source) record(id, now uint64) bpf.Flight {
	f := bpf.Flight{
		Watched: uint16(s.byte() & 1),
		Id:      id, StartNs: now - s.number(), Seq: uint32(s.number()), End: uint32(s.number()), RecvUpto: uint32(s.number()), Ack: uint32(s.number()),
		Prev: uint32(s.number()), Nstamps: uint32(s.number()), Flags: bpf.Flags(s.number()), HeadPos: uint32(s.number()), HeadLen: uint16(s.number()),
		SendNs: now * uint64(s.byte()&1), RecvNs: (now + s.number()) * uint64(s.byte()&1), RecvEndNs: s.number(),
		SendSk: s.number() & 7, RecvSk: s.number() & 7, SendPid: uint32(s.byte() & 3), RecvPid: uint32(s.byte() & 3),
		SendPort: uint16(s.byte() & 1), SendPeer: uint16(s.byte() & 1), RecvPort: uint16(s.byte() & 1), RecvPeer: uint16(s.byte() & 1),
	}
	for i := range f.Stamps {
		f.Stamps[i].Delta, f.Stamps[i].Place = uint32(s.number()), uint32(s.number())
	}
	return f
}

// once is a joiner that gets each record once.
type once struct {
	t *testing.T
	*join.Joiner
	ring  *fakeRing
	given map[uint64]bool
}

func (o *once) Flight(f *bpf.Flight, head []byte) join.Want {
	if o.given[f.Id] || f.Id == 0 || f.Id > o.ring.last {
		o.t.Errorf("serial %d is given out again, or never was", f.Id)
	}
	o.given[f.Id] = true
	return o.Joiner.Flight(f, head)
}

// Whatever the memory holds and however it changes while it is read, nothing panics, and every serial ends in one way: given out
// once, counted as lapped or unfinished, still watched, or never used by the recorder.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := source(in)
		ring := newFakeRing(8)
		now := uint64(time.Hour)
		var lost loss.Set
		cfg := join.DefaultConfig(head.New(head.Config{}))
		cfg.SelfID = 77
		joiner := join.New(cfg, &lost, func(tree *join.Tree) {
			for i, x := range tree.Exchanges {
				if x.Parent >= i {
					t.Errorf("exchange %d has parent %d", i, x.Parent)
				}
			}
		})
		joiner.Tick(now)
		given := map[uint64]bool{}
		r := New(ring, &lost, &once{t, joiner, ring, given})
		unused := uint64(0)
		for len(s) > 0 {
			switch op := s.byte(); op % 8 {
			case 0, 1, 2: // a flight
				ring.last++
				ring.records[ring.last%8] = s.record(ring.last, now)
				ring.heads[uint32(s.byte())] = []byte(heads[int(op>>3)%len(heads)])
			case 3: // the receiver reads one
				f := ring.At(uint64(s.byte()))
				f.RecvNs, f.RecvUpto = now, f.End
			case 4: // a serial is passed over, as its slot is under way
				if ring.At(ring.last+1).Id != 0 {
					ring.last++
					unused++
				}
			case 5: // overwritten while it is copied: by the serial a whole lap later, which takes the ones between along
				id := ring.last - min(uint64(s.byte()&7), ring.last)
				if ring.At(id).Id != id || id == 0 {
					break
				}
				ring.torn[id] = func() {
					for ring.last < id+8 {
						ring.last++
						ring.records[ring.last%8] = s.record(ring.last, now)
					}
				}
			case 6: // being written when it is looked at
				ring.last++
				at, whole := ring.At(ring.last), s.record(ring.last, now)
				at.Id = 0
				r.Poll(now)
				if at.Id == 0 {
					*at = whole
				}
			case 7:
				now += uint64(s.byte()) * 100 * ms
				r.Poll(now)
				joiner.Tick(now)
			}
		}
		clear(ring.torn)
		r.Poll(now)
		r.Poll(now + claimGrace + 1) // what was passed over is forgotten now
		open := uint64(0)
		for _, w := range r.open {
			if !w.given {
				open++
			}
		}
		counted := counts(&lost)
		// a copy given out counts as unfinished too, so that what was given out is told from the records themselves
		if ended := uint64(len(given)) + counted["lapped"] + unused + open; ended < ring.last || ended > ring.last+unused {
			t.Errorf("%d serials: %d given out, %d lapped, %d passed over, %d open", ring.last, len(given), counted["lapped"], unused, open)
		}
		r.Close()
		if r.Stats().Read != uint64(len(given)) || uint64(len(given))+counts(&lost)["lapped"] < ring.last-unused {
			t.Errorf("at the end: %d serials, %d given out (stats: %d), %d lapped, %d passed over", ring.last, len(given), r.Stats().Read, counts(&lost)["lapped"], unused)
		}
		joiner.Tick(now + uint64(10*time.Minute))
		joiner.Close()
	})
}

func counts(set *loss.Set) map[string]uint64 {
	out := map[string]uint64{}
	for _, row := range set.Rows() {
		if row.Stage == "ring" {
			out[row.Reason] = row.Count
		}
	}
	return out
}
