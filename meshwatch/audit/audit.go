// Package audit scores joins against what proxies say of themselves: journeys as they were emitted on one side, entries of access logs on
// the other, in any order. It computes on values it is given and does no I/O.
//
// An entry names two connections of a proxy. It is believed only if both are legs of one process that was seen: the same process read the
// one and wrote the other, and said so itself. Then the exchange on the upstream connection must have the one on the downstream connection
// as its parent. Times only narrow which exchange of a connection is meant; where several remain, nothing is said.
package audit

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// Config bounds an Audit.
type Config struct {
	Wait      time.Duration // from an entry's coming until its connections are looked for: its journey must be there by then
	Settle    time.Duration // from then on until it is judged: who says otherwise must have done so by then
	Exchanges int           // remembered, at about 700 B each; the oldest go
	Entries   int           // waiting, at about 400 B each and their texts; what comes beyond is counted as table-full
}

// DefaultConfig is for journeys that are emitted within a second or two of their end.
func DefaultConfig() Config {
	return Config{Wait: 4 * time.Second, Settle: 2 * time.Second, Exchanges: 1 << 16, Entries: 1 << 14}
}

// Audit compares. Its methods may be called from any goroutine.
type Audit struct {
	cfg  Config
	seed maphash.Seed
	lost losses

	mu       sync.Mutex // guards what follows
	ring     []*exchange
	next     int // in ring
	journeys uint64
	asked    index    // by the connection on which a process was asked, as it sees it
	asking   index    // by the one on which it asks
	waiting  []*entry // as they came
	settling []*entry // of these, those whose exchanges were found
	counts   counts
}

// pair is a connection: the addresses and ports of both its ends, IPv4 in IPv6's form. Smaller than a journey.Connection: there are many.
type pair struct {
	local, remote         [16]byte
	localPort, remotePort uint16
}

func pairOf(local, remote netip.AddrPort) pair {
	return pair{local.Addr().As16(), remote.Addr().As16(), local.Port(), remote.Port()}
}

// slice is some 67 ms: exchanges are looked for by connection and time, so that a connection with very many costs no more.
const slice = 26 // bits of ns

// place is a connection in a slice of time.
type place struct {
	pair
	slice uint64
}

// index has the exchanges of a connection by when they began, oldest first.
type index map[place][]*exchange

func (i index) add(p pair, at uint64, x *exchange) {
	k := place{p, at >> slice}
	i[k] = append(i[k], x)
}

// forget takes the oldest exchange of a place away, which x is.
func (i index) forget(p pair, at uint64, x *exchange) {
	k := place{p, at >> slice}
	switch list := i[k]; {
	case len(list) == 0 || list[0] != x:
	case len(list) == 1:
		delete(i, k)
	default:
		i[k] = list[1:]
	}
}

// mostLooks is how many exchanges of a connection are looked at for an entry: 10,000 a second have so many in its time.
const mostLooks = 1024

// between has those of a connection that began from one time to another, and perhaps some before and after; false if they are more
// than mostLooks. from is not after to.
func (i index) between(p pair, from, to uint64) (out []*exchange, all bool) {
	for at := from >> slice; at <= to>>slice; at++ {
		list := i[place{p, at}]
		if len(out)+len(list) > mostLooks {
			return nil, false
		}
		out = append(out, list...)
	}
	return out, true
}

// exchange is what is compared of one.
type exchange struct {
	journey           uint64
	at, parent        int // in the journey
	asked, redirected pair
	asking            pair
	server, client    end
	id                head.ID
	hasID             bool
	method            string
	target            uint64
	status            int
	began, read       uint64 // the request: sent, and read by the server
	answered, ended   uint64 // the response: sent, and read by the client; 0: none was seen
	join              journey.Method
	unjoined          string
	named, caused     *exchange // the parent, and the child, that an entry named
	disputed          bool      // another entry named another one
	shared            bool      // HTTP/2: several at a time are on the connection
}

// end is a process, 0: not seen; and an address of it.
type end struct {
	pid  int
	addr netip.Addr
}

// losses are entries of which nothing can be said, by reason.
type losses struct{ full, unseen, processes, speaker, ambiguous, contradicted *loss.Counter }

// New makes an Audit that counts in set what it cannot use.
func New(cfg Config, set *loss.Set) *Audit {
	return &Audit{
		cfg: cfg, seed: maphash.MakeSeed(), ring: make([]*exchange, cfg.Exchanges),
		asked: index{}, asking: index{}, counts: newCounts(),
		lost: losses{
			full: set.Counter("audit", "table-full"), unseen: set.Counter("audit", "connection-not-seen"), processes: set.Counter("audit", "not-one-process"),
			speaker: set.Counter("audit", "not-the-speaker"), ambiguous: set.Counter("audit", "ambiguous"), contradicted: set.Counter("audit", "contradicted"),
		},
	}
}

// Journey takes one that was emitted. It keeps nothing of it but short strings.
func (a *Audit) Journey(j *journey.Journey) {
	joins := make([]journey.Method, len(j.Exchanges))
	for i := range j.Relays {
		joins[j.Relays[i].To] = j.Relays[i].Method
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.journeys++
	for i, e := range j.Exchanges {
		x := a.exchange(e)
		x.journey, x.at, x.parent, x.join = a.journeys, i, e.Parent, joins[i]
		if x.parent < 0 {
			x.unjoined = j.Unjoined
		}
		a.keep(x)
	}
}

func (a *Audit) exchange(e *journey.Exchange) *exchange {
	c, s := &e.Leg.Client, &e.Leg.Server
	x := &exchange{
		asked: pairOf(s.Local, s.Peer), redirected: pairOf(c.Peer, s.Peer), asking: pairOf(c.Local, c.Peer),
		server: end{s.Pid, s.Local.Addr().Unmap()}, client: end{c.Pid, c.Local.Addr().Unmap()},
		method: e.Method, shared: e.Stream != 0, target: maphash.String(a.seed, e.Target), status: e.Status, began: e.Request.Start, read: e.Request.Recv,
	}
	x.id, x.hasID = head.ParseID([]byte(e.RequestID))
	if x.read == 0 {
		x.read = x.began
	}
	if e.Response != nil {
		x.answered, x.ended = e.Response.Start, e.Response.Recv
	}
	return x
}

// keep remembers an exchange in place of the oldest.
func (a *Audit) keep(x *exchange) {
	if old := a.ring[a.next]; old != nil {
		a.asked.forget(old.asked, old.read, old)
		if old.redirected != old.asked {
			a.asked.forget(old.redirected, old.read, old)
		}
		a.asking.forget(old.asking, old.began, old)
	}
	a.ring[a.next] = x
	a.next = (a.next + 1) % len(a.ring)
	a.asked.add(x.asked, x.read, x)
	if x.redirected != x.asked {
		a.asked.add(x.redirected, x.read, x)
	}
	a.asking.add(x.asking, x.began, x)
}
