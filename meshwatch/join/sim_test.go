package join

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/meshwatch/meshwatch/bpf"
)

// simulation is a proxy of which all is known: threads that read what has come in batches, in the order in which it came, and write in any
// order; requests go on by the connection that became free last, or in the order of reading. Which exchange caused which is known by the
// ports.
type simulation struct {
	rand     *rand.Rand
	habit    habit
	workers  []*simWorker
	clients  []*simConn
	events   simEvents
	flights  []simFlight
	order    []int // of flights, as a reader sees them
	now      uint64
	left     int // requests to be sent
	sent     int
	varied   bool
	named    func(n int) bool // whether a request carries an id; nil: none does
	uses     int              // of a connection to the upstream host, 0: any number
	half     func(*Joiner)    // is called when half of the flights were given; may be nil
	lose     float64          // share of flights that nobody sees
	cause    map[simSent]int  // number of a request by what the proxy sent for it
	sock     uint64
	answered int
}

type habit uint8

const (
	takesLast     habit = iota // Envoy
	takesLastLate              // nobody known: the same, but when it writes
	keepsOrder                 // HAProxy
	takesAnyFree               // nobody known: what cannot be foretold must not be claimed
	handsOver                  // HAProxy, too: of those that another thread has left
)

const simProxy = 101 // its pid

type simWorker struct {
	tid   uint32
	busy  uint64 // until then
	inbox []simMessage
	idle  []*simConn
	waits []simMessage // for a connection, see takesLast
	begun int          // connections that are being opened
	later []func()     // what it will write in its next turn, see takesLast
}

type simMessage struct {
	conn   *simConn
	number int
	kind   simKind
	of     *simMessage // of simOpened: for which the connection was opened
}

type simSent struct {
	seq  uint32
	port uint16
}

type simKind uint8

const (
	simAsked simKind = iota
	simAnswer
	simOpened // a connection that was opened can be used
)

type simConn struct {
	worker *simWorker
	client bool // of a client; else to the upstream host
	socks  [2]uint64
	port   uint16
	seq    [2]uint32
	prev   [2]int // flights, by index + 1
	peer   *simConn
	number int
	used   int // requests
}

type simFlight struct {
	f    bpf.Flight
	text []byte
	prev int
	lost bool
}

type simEvent struct {
	at uint64
	do func()
}

type simEvents []simEvent

func (e simEvents) Len() int           { return len(e) }
func (e simEvents) Less(a, b int) bool { return e[a].at < e[b].at }
func (e simEvents) Swap(a, b int)      { e[a], e[b] = e[b], e[a] }
func (e *simEvents) Push(x any)        { *e = append(*e, x.(simEvent)) } //nolint:forcetypeassert // heap's
func (e *simEvents) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newSimulation(seed uint64, h habit, workers, inFlight, requests int) *simulation {
	s := &simulation{rand: rand.New(rand.NewPCG(seed, 1)), habit: h, left: requests, now: uint64(1e11), cause: map[simSent]int{}} //nolint:gosec // it must be the same each time
	for i := range workers {
		s.workers = append(s.workers, &simWorker{tid: uint32(simProxy + i)}) //nolint:gosec // a few
	}
	for i := range inFlight * workers {
		c := s.conn(s.workers[i%workers], true)
		s.clients = append(s.clients, c)
		s.after(uint64(s.rand.IntN(int(ms))), func() { s.ask(c) })
	}
	return s
}

func (s *simulation) conn(w *simWorker, client bool) *simConn {
	s.sock += 2
	return &simConn{worker: w, client: client, socks: [2]uint64{s.sock, s.sock + 1}, port: uint16(1024 + s.sock/2), seq: [2]uint32{uint32(s.sock) << 10, 7}} //nolint:gosec // a few thousand
}

func (s *simulation) after(ns uint64, do func()) { heap.Push(&s.events, simEvent{s.now + ns, do}) }

// run lets everything happen.
func (s *simulation) run() {
	for len(s.events) > 0 {
		e := heap.Pop(&s.events).(simEvent) //nolint:forcetypeassert // what is in it
		s.now = max(s.now, e.at)
		e.do()
	}
	s.number()
}

// ask has a client send a request.
func (s *simulation) ask(c *simConn) {
	if s.left == 0 {
		return
	}
	s.left--
	s.sent++
	s.arrive(c.worker, s.write(c, 0, s.sent, s.request(s.sent)), simMessage{conn: c, number: s.sent, kind: simAsked})
}

func (s *simulation) request(n int) string {
	item, id := 0, ""
	if s.varied {
		item = n
	}
	if s.named != nil && s.named(n) {
		id = fmt.Sprintf("X-Request-ID: 00000000-0000-4000-8000-%012d\r\n", n)
	}
	return fmt.Sprintf("GET /item/%d HTTP/1.1\r\nHost: backend.demo:8080\r\nUser-Agent: simulation\r\n%s\r\n", item, id)
}

// write makes a flight that is read later; it returns its index.
func (s *simulation) write(c *simConn, side int, _ int, text string) int {
	f := bpf.Flight{
		StartNs: s.now, SendNs: s.now + 500, Seq: c.seq[side], End: c.seq[side] + uint32(len(text)), Ack: c.seq[1-side], //nolint:gosec // short
		SendSk: c.socks[side], RecvSk: c.socks[1-side], HeadLen: uint16(len(text)), //nolint:gosec // short
	}
	f.RecvUpto = f.End
	proxy := 1 // the side that is the proxy's
	other := uint32(1)
	if !c.client {
		proxy, other = 0, 102
	}
	pids := [2]uint32{other, other}
	tids := [2]uint32{other, other}
	pids[proxy], tids[proxy] = simProxy, c.worker.tid
	ports := [2]uint16{c.port, 8080}
	f.SendPid, f.RecvPid, f.SendTid, f.RecvTid = pids[side], pids[1-side], tids[side], tids[1-side]
	f.SendPort, f.SendPeer, f.RecvPort, f.RecvPeer = ports[side], ports[1-side], ports[1-side], ports[side]
	f.SendPaddr[0] = byte(1 + proxy)
	switch {
	case text != "":
	case c.used > 0:
		f.Flags, f.RecvSk, f.RecvNs = bpf.Flags(bpf.FlagClose), 0, s.now
	default:
		f.Flags, f.End = bpf.Flags(bpf.FlagSYN), f.Seq+1
	}
	s.flights = append(s.flights, simFlight{f: f, text: []byte(text), prev: c.prev[side], lost: s.rand.Float64() < s.lose})
	c.seq[side] = f.End
	c.prev[side] = len(s.flights)
	return len(s.flights) - 1
}

func (s *simulation) read(i int) {
	f := &s.flights[i].f
	f.RecvNs, f.RecvEndNs = s.now, s.now
}

// arrive gives a message to a worker, which reads it when it is its turn.
func (s *simulation) arrive(w *simWorker, flight int, m simMessage) {
	s.after(uint64(1000+s.rand.IntN(20_000)), func() {
		m.conn.number = flight
		s.tell(w, m)
	})
}

// tell puts something into a worker's inbox.
func (s *simulation) tell(w *simWorker, m simMessage) {
	w.inbox = append(w.inbox, m)
	if len(w.inbox) == 1 && len(w.later) == 0 {
		s.after(max(w.busy, s.now)-s.now, func() { s.turn(w) })
	}
}

// turn is one round of a worker's loop: all that has come is read, then what comes of it is written.
func (s *simulation) turn(w *simWorker) {
	batch := w.inbox
	w.inbox = nil
	var writes []func()
	for _, m := range batch {
		s.now += uint64(2000 + s.rand.IntN(20_000))
		switch m.kind {
		case simAsked:
			s.read(m.conn.number)
			writes = append(writes, s.handOn(w, m))
		case simAnswer:
			s.read(m.conn.number)
			writes = append(writes, s.handBack(w, m))
			s.free(w, m.conn)
		case simOpened: // as Envoy does: what has waited goes out at once
			w.begun--
			switch {
			case m.of != nil:
				s.askFor(w, *m.of, m.conn)
			case len(w.waits) > 0:
				first := w.waits[0]
				w.waits = w.waits[1:]
				s.askFor(w, first, m.conn)
			default:
				w.idle = append(w.idle, m.conn)
			}
		}
	}
	if s.habit == takesLast { // what comes of it is written in the next turn
		writes, w.later = w.later, writes
	}
	if s.habit != keepsOrder {
		s.rand.Shuffle(len(writes), func(a, b int) { writes[a], writes[b] = writes[b], writes[a] })
	}
	for _, do := range writes {
		s.now += uint64(1000 + s.rand.IntN(10_000))
		do()
	}
	for len(w.waits) > 0 && len(w.idle) > 0 {
		m, up := w.waits[0], s.take(w)
		w.waits = w.waits[1:]
		w.later = append(w.later, func() { s.askFor(w, m, up) })
	}
	w.busy = s.now
	if len(w.inbox) > 0 || len(w.later) > 0 {
		s.after(0, func() { s.turn(w) })
	}
}

// handOn takes a connection for a request.
func (s *simulation) handOn(w *simWorker, m simMessage) func() {
	if s.habit == takesLastLate {
		return func() { s.askFor(w, m, s.take(w)) }
	}
	if s.habit == takesLast && len(w.idle) == 0 {
		w.waits = append(w.waits, m)
		if len(w.waits) > w.begun {
			s.opens(w, nil)
		}
		return func() {}
	}
	if (s.habit == keepsOrder || s.habit == handsOver) && len(w.idle) == 0 {
		return func() { s.opens(w, &m) }
	}
	up := s.take(w)
	return func() { s.askFor(w, m, up) }
}

// opens opens a connection, which takes its time, for one request, nil: for who waits longest then.
func (s *simulation) opens(w *simWorker, only *simMessage) {
	c := s.conn(w, false)
	w.begun++
	i := s.write(c, 0, 0, "")
	s.after(uint64(20_000+s.rand.IntN(400_000)), func() {
		s.read(i)
		s.tell(w, simMessage{conn: c, kind: simOpened, of: only})
	})
}

// free takes a connection back.
func (s *simulation) free(w *simWorker, c *simConn) {
	if !s.isUsedUp(c) {
		w.idle = append(w.idle, c)
	}
}

func (s *simulation) isUsedUp(c *simConn) bool { return s.uses > 0 && c.used == s.uses }

func (s *simulation) take(w *simWorker) (up *simConn) {
	switch n := len(w.idle); {
	case n == 0:
		up = s.conn(w, false)
	case s.habit == handsOver && len(s.workers[0].idle) > 0 && s.rand.IntN(2) == 0:
		from := s.workers[0]
		up, from.idle = from.idle[0], from.idle[1:]
		up.worker = w
	case s.habit == takesLast, s.habit == takesLastLate:
		up, w.idle = w.idle[n-1], w.idle[:n-1]
	default:
		i := s.rand.IntN(n)
		up = w.idle[i]
		w.idle = slices.Delete(w.idle, i, i+1)
	}
	return up
}

// askFor asks the upstream host for what a client asked.
func (s *simulation) askFor(w *simWorker, m simMessage, up *simConn) {
	up.peer = m.conn
	up.used++
	s.cause[simSent{up.seq[0], up.port}] = int(m.conn.port)
	i := s.write(up, 0, m.number, s.request(m.number))
	s.after(uint64(5000+s.rand.IntN(50_000)), func() { s.read(i) })
	s.after(uint64(60_000+s.rand.ExpFloat64()*2e6), func() {
		s.arrive(w, s.write(up, 1, m.number, ok(200, "")), simMessage{conn: up, number: m.number, kind: simAnswer})
	})
}

// handBack frees a connection, and answers.
func (s *simulation) handBack(w *simWorker, m simMessage) func() {
	client := m.conn.peer
	m.conn.peer = nil
	if s.isUsedUp(m.conn) {
		s.write(m.conn, 0, 0, "")
	}
	return func() {
		i := s.write(client, 1, m.number, ok(200, ""))
		s.answered++
		s.after(uint64(5000+s.rand.IntN(50_000)), func() {
			s.read(i)
			s.after(uint64(s.rand.IntN(200_000)), func() { s.ask(client) })
		})
	}
}

// replay gives the flights to a joiner as a reader does: looking every 10 ms, at what was read by then. half is called
// when half of them were given.
func (s *simulation) replay(j *Joiner, half func()) {
	const look = 10 * ms
	now := s.flights[s.order[0]].f.StartNs
	var f bpf.Flight // each is copied
	for n, i := range s.order {
		if n == len(s.order)/2 {
			half()
		}
		at := &s.flights[i]
		for at.f.RecvNs > now {
			j.Tick(now)
			now += look
		}
		if !at.lost {
			f = at.f
			j.Flight(&f, at.text)
		}
	}
	j.Tick(now)
	j.Tick(s.now + 2000*ms)
	j.Close()
}

// number gives flights their ids, by when they were sent, and the order in which a reader sees them.
func (s *simulation) number() {
	s.order = make([]int, len(s.flights))
	for i := range s.order {
		s.order[i] = i
	}
	slices.SortStableFunc(s.order, func(a, b int) int { return cmp.Compare(s.flights[a].f.StartNs, s.flights[b].f.StartNs) })
	for id, i := range s.order {
		s.flights[i].f.Id = uint64(id) + 1 //nolint:gosec // an index
	}
	for i := range s.flights {
		if p := s.flights[i].prev; p > 0 {
			s.flights[i].f.Prev = uint32(s.flights[p-1].f.Id) //nolint:gosec // low half
		}
	}
	const look = 10 * ms
	began := s.flights[s.order[0]].f.StartNs
	seen := func(i int) uint64 { return (max(s.flights[i].f.RecvNs, began) - began + look - 1) / look }
	slices.SortStableFunc(s.order, func(a, b int) int { return cmp.Compare(seen(a), seen(b)) })
}
