package journey

import (
	"net/netip"
	"time"
)

// Said is what a proxy said of one request, in its access log. It is hearsay until both of its connections are known to be of the process
// that said it.
type Said struct {
	By         Speaker
	Downstream Connection // on which the proxy was asked
	Upstream   Connection // on which it asked; zero: it answered by itself
	RequestID  string
	Method     string
	Path       string // as received, without the query
	Authority  string
	Status     int    // 0: no response
	Flags      string // Envoy's response flags, HAProxy's termination state; empty: nothing special

	Start    uint64        // when the proxy began with the request
	Duration time.Duration // from then on, until it was over
	Upto     time.Duration // from then on, until the first byte went upstream; 0: not said
	Answer   time.Duration // from then on, until the answer's first byte came from upstream; 0: not said
	Error    time.Duration // by which Start may be off
	Early    time.Duration // by which all of these may be before what they are about: the proxy reads its clock once a turn of its loop
}

const (
	// SureStart is up to which error in time the order of what happens on a connection of HTTP/1 tells which request is meant: a client
	// that has its response needs longer to ask again.
	SureStart = 10 * time.Microsecond
	// Slow is how much later than a proxy says something may be seen to happen: it notes what it writes before it does, and waits for a CPU.
	// Envoy on two busy cores: 8 ms in one of ten.
	Slow = 50 * time.Millisecond
)

// Sure says whether order tells which request of HTTP/1 is meant.
func (s *Said) Sure() bool { return s.Error <= SureStart }

// Earliest is when something was at the earliest that was so long after the start, as it is said.
func (s *Said) Earliest(after time.Duration) uint64 {
	at := s.Start + uint64(max(after, 0))
	return at - min(at, uint64(max(s.Error, 0)+SureStart))
}

// Latest is when it was at the latest, for what the proxy notes after it has read it.
func (s *Said) Latest(after time.Duration) uint64 {
	return s.Start + uint64(max(after, 0)+max(s.Error, 0)+max(s.Early, 0)+SureStart)
}

// LatestWrite is the same for what the proxy notes before it writes it.
func (s *Said) LatestWrite(after time.Duration) uint64 { return s.Latest(max(after, 0) + Slow) }

// Speaker is who said it, as the kernel knows. One of Pid and Addr is set, where it is known at all.
type Speaker struct {
	Pid  int        // of the process at the other end of the unix socket
	Addr netip.Addr // from which it came over IP
}

// Connection is a TCP connection as one of its ends sees it.
type Connection struct{ Local, Remote netip.AddrPort }

// IsValid says whether both addresses are there.
func (c Connection) IsValid() bool { return c.Local.IsValid() && c.Remote.IsValid() }
