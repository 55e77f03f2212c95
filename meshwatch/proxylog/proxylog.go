// Package proxylog owns what proxies say of themselves: Envoy's access log service (gRPC) and lines of HAProxy's log (datagrams, or a ring's stream). It listens,
// reads, and gives out what was said as values. Whoever can reach a socket may speak: who it was is noted, as far as the kernel knows, and
// nothing that is said is believed here. What one speaker can cost is bounded, and everything that is not given out is counted.
package proxylog

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// Options say where to listen, and what it may cost. An address is an absolute path (of a unix socket) or HOST:PORT.
type Options struct {
	Envoy   []string // access log service, over TCP or a unix stream socket
	HAProxy []string // lines, over UDP or a unix datagram socket
	Rings   []string // lines, each behind its length, over TCP or a unix stream socket

	PerSecond int // entries that are read in a second, of all speakers
	PerPeer   int // and of one

	Monotonic func() uint64 // CLOCK_MONOTONIC in ns
	// Owner finds the process of this node that has the socket (transport tcp or udp) at an address; nil: speakers over IP are known by their
	// address alone. It takes some ms: see mostLookups.
	Owner  func(transport string, at netip.AddrPort) (pid int, err error)
	Losses *loss.Set
	Log    *slog.Logger
}

// queueLength is how many entries wait to be taken, at about 500 B each.
const queueLength = 4096

// Server listens until Close.
type Server struct {
	opts   Options
	out    chan journey.Said
	budget *budget
	owners owners
	lost   losses

	decoding sync.Mutex // one entry is decoded at a time: it may be large once decoded
	closers  []func() error
	serving  sync.WaitGroup
}

// losses are what was not given out, by reason.
type losses struct{ malformed, tooLong, overLimit, queueFull, connections, others, kernel, partial *loss.Counter }

// Listen begins to listen. The caller reads Entries, and calls Close.
func Listen(opts Options) (*Server, error) {
	c := opts.Losses.Counter
	s := &Server{
		opts: opts, out: make(chan journey.Said, queueLength), budget: newBudget(opts.PerSecond, opts.PerPeer), owners: newOwners(opts.Owner),
		lost: losses{
			malformed: c("accesslog", "malformed"), tooLong: c("accesslog", "too-long"), overLimit: c("accesslog", "over-limit"), queueFull: c("accesslog", "queue-full"),
			connections: c("accesslog", "too-many-connections"), others: c("accesslog", "not-a-request"), kernel: c("accesslog", "not-read-in-time"), partial: c("accesslog", "not-over"),
		},
	}
	for _, address := range opts.Envoy {
		if err := s.serveEnvoy(address); err != nil {
			return nil, errors.Join(fmt.Errorf("listen for Envoy's access log at %s: %w", address, err), s.Close())
		}
	}
	for _, address := range opts.HAProxy {
		if err := s.serveHAProxy(address); err != nil {
			return nil, errors.Join(fmt.Errorf("listen for HAProxy's log at %s: %w", address, err), s.Close())
		}
	}
	for _, address := range opts.Rings {
		if err := s.serveRing(address); err != nil {
			return nil, errors.Join(fmt.Errorf("listen for HAProxy's rings at %s: %w", address, err), s.Close())
		}
	}
	return s, nil
}

// Entries are what is said. It is closed by Close.
func (s *Server) Entries() <-chan journey.Said { return s.out }

// Close ends all connections, removes the sockets and closes Entries.
func (s *Server) Close() error {
	var errs []error
	for _, stop := range s.closers {
		errs = append(errs, stop())
	}
	s.serving.Wait()
	close(s.out)
	return errors.Join(errs...)
}

// give queues an entry and returns at once.
func (s *Server) give(e journey.Said) {
	select {
	case s.out <- e:
	default:
		s.lost.queueFull.Add(1)
	}
}

// monotonic is when something was by the recorder's clock, if it was so long after 1970, by the wall's. The clocks are compared now: wall time
// may have been set since the agent started. False: it is too far from now to be of use.
func (s *Server) monotonic(sinceEpoch time.Duration) (at uint64, off time.Duration, ok bool) {
	now, wall, off := s.clocks()
	age := wall - sinceEpoch
	if age < -time.Minute || age > 2*longest || age > 0 && uint64(age) > now {
		return 0, 0, false
	}
	return now - uint64(age), off, true //nolint:gosec // modulo 2^64, where it is in the future
}

// clocks reads both clocks, and by how much the one reading may be off from the other: some 0.2 µs, more where something came between.
func (s *Server) clocks() (now uint64, wall, off time.Duration) {
	off = time.Hour
	for range 8 {
		before := s.opts.Monotonic()
		w := time.Duration(time.Now().UnixNano())
		after := s.opts.Monotonic()
		if took := time.Duration(after - before); took < off { //nolint:gosec // it goes on
			now, wall, off = before+uint64(took)/2, w, took //nolint:gosec // as above
		}
		if off < 2*time.Microsecond {
			break
		}
	}
	return now, wall, off
}

// The longest texts of an entry that are kept, in bytes.
const (
	maxID        = 256 // as head.MaxID; a longer one is none
	maxMethod    = 32
	maxPath      = 1024
	maxAuthority = 256
	maxFlags     = 64
)

// longest is how long a request may have taken for what is said of it to be of use: its journey is gone by then.
const longest = time.Hour

// sound says whether an entry's times can be.
func sound(e *journey.Said) bool {
	return e.Duration >= 0 && e.Duration <= longest && e.Upto >= 0 && e.Upto <= e.Duration && e.Answer >= 0 && e.Answer <= e.Duration
}

// idOf is a request id, or none.
func idOf(text string) string {
	if len(text) > maxID {
		return ""
	}
	return text
}

func shorten(text string, most int) string { return text[:min(len(text), most)] }
