package bpf

import (
	"errors"
	"fmt"
	"math/bits"
)

// Sizes of the recorder's memory, all powers of two. Small maps stay in the CPU's caches.
type Sizes struct {
	Flights int // records of 384 B; the ring must outlast the longest pause of the reader
	Index   int // entries of 8 B for messages in flight, in sets of 8
	Sockets int // socket states of 32 B, in sets of 4
}

// DefaultSizes serve about 1,000 requests in flight through six legs each, whose 12,000 sockets then take less than a fifth of the
// places, and an agent that gets no CPU for 0.4 s at 20,000 messages a second: 3 MB, 32 KB, 2 MB.
func DefaultSizes() Sizes { return Sizes{Flights: 8192, Index: 4096, Sockets: 65536} }

// Validate says which size is not a power of two in its range.
func (s Sizes) Validate() error {
	var errs []error
	for _, f := range []struct {
		key           string
		val, min, max int
	}{
		{"flights", s.Flights, 1024, 1 << 20},
		{"index", s.Index, 512, 1 << 18},
		{"sockets", s.Sockets, 256, 1 << 20},
	} {
		if f.val < f.min || f.val > f.max || bits.OnesCount(uint(f.val)) != 1 {
			errs = append(errs, fmt.Errorf("recorder.%s is %d: it must be a power of two from %d to %d", f.key, f.val, f.min, f.max))
		}
	}
	return errors.Join(errs...)
}

const (
	indexWays  = 8       // INDEX_WAYS in c/flight.h
	socketWays = 4       // SOCKET_WAYS
	socketSize = 32      // struct socket
	entrySize  = 8       // of struct index_set
	headsSize  = 4 << 20 // HEADS_SIZE
	// HeadBytes is how much of one message is captured at most.
	HeadBytes = 1024
	// FramesBytes is how much of one write of HTTP/2 is.
	FramesBytes = 32768

	threadsSize = 1024 * 4 * 64 // THREAD_SETS of struct thread_set in c/plain.h
	parkedSize  = 2048 * 40     // PARKED of struct parked in c/tie.h
	stalledSize = 512 * 40      // STALLED of struct stalled
	objectsSize = 2048 * 4 * 24 // OBJECT_SETS of struct object_set
	tlsSize     = tlsBinaries * 16
	goSets      = 128 * 8   // GO_SETS of struct go_set in c/gohttp.h
	tripsSize   = 2048 * 24 // TRIP_SETS of struct trip_set
	goSize      = goBinaries * 16
)
