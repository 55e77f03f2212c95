package reader

import (
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// nobody takes all and wants no more of it.
type nobody struct{ flights int }

func (n *nobody) Flight(*bpf.Flight, []byte) join.Want { n.flights++; return join.Done }
func (n *nobody) Update(*bpf.Flight) join.Want         { return join.Done }

// BenchmarkPoll is what a record costs that is ready when it is first seen, 864 of which are new at each look. 0 allocations.
func BenchmarkPoll(b *testing.B) {
	ring, now := newFakeRing(8192), uint64(time.Hour)
	for i := range ring.records {
		ring.records[i] = bpf.Flight{SendNs: now, RecvNs: now, HeadPos: uint32(i % 16), HeadLen: 200}
		ring.heads[uint32(i%16)] = make([]byte, 200)
	}
	var sink nobody
	r := New(ring, &loss.Set{}, &sink)
	b.ReportAllocs()
	for n := 0; n < b.N; n += 864 {
		for range 864 {
			ring.last++
			ring.At(ring.last).Id = ring.last
		}
		r.Poll(now)
	}
	if sink.flights < b.N {
		b.Fatalf("%d of %d records given out", sink.flights, b.N)
	}
}

// BenchmarkPollUnread is what a look at a record costs that nobody has read for long, as one that goes to another node. 0 allocations.
func BenchmarkPollUnread(b *testing.B) {
	ring, now := newFakeRing(1024), uint64(time.Hour)
	r := New(ring, &loss.Set{}, &nobody{})
	for range 1000 {
		ring.last++
		*ring.At(ring.last) = bpf.Flight{Id: ring.last, SendNs: now, HeadLen: 200}
	}
	ring.heads[0] = make([]byte, 200)
	r.Poll(now)
	r.Poll(now + 2*keepCopyAfter)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += 1000 {
		r.Poll(now + 3*keepCopyAfter)
	}
}
