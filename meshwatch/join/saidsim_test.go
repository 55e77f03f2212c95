package join

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/meshwatch/meshwatch/bpf"
)

// saidSim is a proxy that only exists in a test: workers with an event loop each, which read what is ready, and write in the next turn, in any
// order, what they have made of it. Its clients send no ids, as no app does. Some of its requests have an id on both sides, as what comes in
// through a sidecar has.
type saidSim struct {
	rng     *rand.Rand
	w       *world
	opts    saidOptions
	now     uint64 // ns
	workers []*saidWorker
	flights []*saidFlight
	truth   map[uint64]int // flight of a request → number of the request
	next    int            // number of the next request
	queue   []saidEvent
	words   []saidWord // what the proxy says of its requests, see said_test.go
}

type saidOptions struct {
	clients, workers int
	requests         int
	withID           float64 // share of the requests
	targets          int     // different ones
	lost             float64 // share of the flights that nobody sees
	service          uint64  // ns that the upstream takes, about
	stalls           float64 // share of the answers that are written 100 ms after the proxy notes that it has
}

type saidWorker struct {
	tid   uint32
	ready []func() // reads
	made  []func() // writes of the turn before
	awake bool
	idle  []*conn
}

type saidFlight struct {
	f    bpf.Flight
	b    []byte
	lost bool
}

type saidEvent struct {
	at uint64
	do func()
}

const saidProxy, saidClient, saidUpstream = 101, 1, 2

func newSaidSim(w *world, seed uint64, o saidOptions) *saidSim {
	s := &saidSim{rng: rand.New(rand.NewPCG(seed, seed)), w: w, opts: o, now: w.now, truth: map[uint64]int{}} //nolint:gosec // it need not be secret
	for i := range o.workers {
		s.workers = append(s.workers, &saidWorker{tid: uint32(1000 + i)})
	}
	for i := range o.clients {
		s.client(w.conn(saidClient, saidProxy), s.workers[i%o.workers])
	}
	for len(s.queue) > 0 {
		e := s.queue[0]
		s.queue = s.queue[1:]
		s.now = max(s.now, e.at)
		e.do()
	}
	return s
}

func (s *saidSim) at(ns uint64, do func()) {
	i, _ := slices.BinarySearchFunc(s.queue, ns, func(e saidEvent, ns uint64) int { return cmp.Compare(e.at, ns+1) })
	s.queue = slices.Insert(s.queue, i, saidEvent{ns, do})
}

// about is a time that varies, in ns.
func (s *saidSim) about(ns uint64) uint64 { return 1 + uint64(s.rng.ExpFloat64()*float64(ns)) }

// write sends a message now.
func (s *saidSim) write(c *conn, side int, tid uint32, msg string) *saidFlight {
	s.w.now = s.now - ms // flight adds it
	f, b := c.flight(side, msg)
	f.SendTid, f.RecvNs, f.RecvEndNs = tid, 0, 0
	out := &saidFlight{f, b, s.rng.Float64() < s.opts.lost}
	s.flights = append(s.flights, out)
	return out
}

func (s *saidSim) read(f *saidFlight, tid uint32) {
	f.f.RecvNs, f.f.RecvEndNs, f.f.RecvTid = s.now, s.now, tid
}

// client sends one request after the other.
func (s *saidSim) client(c *conn, k *saidWorker) {
	s.at(s.now+s.about(s.opts.service), func() {
		if s.next == s.opts.requests {
			return
		}
		n := s.next
		s.next++
		id := ""
		if s.rng.Float64() < s.opts.withID {
			id = fmt.Sprintf("5a0c8b1e-33a4-4c0e-9d6e-%012d", n)
		}
		msg := get(fmt.Sprintf("/%d", s.rng.IntN(s.opts.targets)), id)
		f := s.write(c, 0, 10, msg)
		s.truth[f.f.Id] = n
		s.later(k, func() {
			s.read(f, k.tid)
			s.begins(n, c)
			k.made = append(k.made, func() { s.forward(c, k, n, msg) })
		})
	})
}

// later has a worker read something in its next turn.
func (s *saidSim) later(k *saidWorker, read func()) {
	s.at(s.now+s.about(20_000), func() {
		k.ready = append(k.ready, read)
		if !k.awake {
			k.awake = true
			s.at(s.now+s.about(5_000), func() { s.turn(k) })
		}
	})
}

// turn is one of a worker's loop.
func (s *saidSim) turn(k *saidWorker) {
	ready, made := k.ready, k.made
	k.ready, k.made = nil, nil
	for _, do := range ready {
		s.now += s.about(5_000)
		do()
	}
	s.rng.Shuffle(len(made), func(i, j int) { made[i], made[j] = made[j], made[i] })
	for _, do := range made {
		s.now += s.about(5_000)
		do()
	}
	if k.awake = len(k.ready)+len(k.made) > 0; k.awake {
		s.at(s.now+s.about(2_000), func() { s.turn(k) })
	}
}

// forward asks upstream, on the connection that was free last.
func (s *saidSim) forward(c *conn, k *saidWorker, n int, msg string) {
	var up *conn
	if m := len(k.idle); m > 0 {
		up, k.idle = k.idle[m-1], k.idle[:m-1]
	} else {
		up = s.w.conn(saidProxy, saidUpstream)
	}
	f := s.write(up, 0, k.tid, msg)
	s.truth[f.f.Id] = n
	s.goesOn(n, up)
	s.at(s.now+s.about(20_000), func() {
		s.read(f, 20)
		s.at(s.now+s.about(s.opts.service), func() {
			r := s.write(up, 1, 20, ok(200, ""))
			s.later(k, func() {
				s.read(r, k.tid)
				s.hasAnswer(n)
				k.idle = append(k.idle, up)
				k.made = append(k.made, func() {
					s.ends(n)
					s.stalled(func() {
						a := s.write(c, 1, k.tid, ok(200, ""))
						s.isOver(n, a)
						s.at(s.now+s.about(20_000), func() {
							s.read(a, 10)
							s.client(c, k)
						})
					})
				})
			})
		})
	})
}

// sort puts the flights in the order in which they are given out.
func (s *saidSim) sort() {
	slices.SortStableFunc(s.flights, func(a, b *saidFlight) int { return cmp.Compare(a.f.RecvNs, b.f.RecvNs) })
}

// play gives the flights to a joiner as a reader would.
func (s *saidSim) play(j *Joiner, tick func(now uint64)) {
	s.sort()
	at := uint64(0)
	for _, f := range s.flights {
		if f.f.RecvNs > at+20*ms {
			at = f.f.RecvNs
			s.says(j, at)
			tick(at)
		}
		if !f.lost {
			j.Flight(&f.f, f.b)
		}
	}
	for range 200 {
		at += 20 * ms
		s.says(j, at)
		tick(at)
	}
}
