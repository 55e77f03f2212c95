package join

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
)

// fuzzed is a proxy with a few threads, clients and upstream hosts. Each command is three bytes: what is done, on which connection, and how:
// in the lowest two bits of that is by which thread, counted from the connection's own, in the next three what becomes of the record.
type fuzzed struct {
	*world
	threads uint32
	down    []*wire // of clients
	up      []*wire // to upstream hosts
	ids     [8]string
	late    []func()     // gives a record that was not given when it was made
	again   []bpf.Flight // of which the joiner wanted more
	given   map[uint64]bool
	habits  byte
}

// What the proxy was seen to do before, so that a few commands reach what else takes hundreds; in the lowest two bits are its threads.
const (
	fuzzPools   = 4 << iota // it keeps its connections as Envoy does
	fuzzDoubted             // or otherwise, nearly too often
	fuzzRooms               // it closes connections of HTTP/2 after two requests
	fuzzOrder               // it hands on in the order of reading, and opens each connection for one request
)

// fuzzLooks is how often the joiner gets to see what was recorded, by the highest two bits: of what threads did in between it sees all that
// one did before all that the other did.
var fuzzLooks = [4]uint64{0, 10 * ms, 40 * ms, 80 * ms}

// wire is a connection of the proxy.
type wire struct {
	*conn
	proxy   int    // the side that is the proxy's
	home    uint32 // its thread
	tls     bool
	talks   [2]*talk // of HTTP/2; nil: HTTP/1
	streams []uint32 // that are not answered
	last    uint32   // stream
}

// What is done.
const (
	fuzzAsk byte = iota
	fuzzOpen
	fuzzShake
	fuzzHandOn
	fuzzAnswer
	fuzzHandBack
	fuzzClose
	fuzzWait
	fuzzKinds
)

// What becomes of a record; else it is given at once.
const (
	fuzzLost   = 4 << 2
	fuzzLate   = 5 << 2
	fuzzUnread = 6 << 2
	fuzzSlow   = 7 << 2
	fuzzFate   = 7 << 2

	fuzzNamed  = 1 << 5 // it has an id
	fuzzOther  = 1 << 6 // it asks for something else; of connections: ports are used again
	fuzzFailed = 1 << 7 // it is answered otherwise; of connections: sockets are used again
)

func newFuzzed(t *testing.T, habits byte) *fuzzed {
	z := &fuzzed{world: newWorld(t), threads: 1 + uint32(habits&3), given: map[uint64]bool{}, habits: habits}
	z.j.emit = z.takes
	proven := record{right: leastTests}
	known(func(p *process) {
		if habits&fuzzPools != 0 {
			p.pool, p.waits, p.waitsAlone = proven, proven, proven
		}
		if habits&fuzzOrder != 0 {
			p.order.record, p.opened.record = proven, proven
			p.order.in, p.opened.in = leastInStep, leastInStep
		}
	})(z.j)
	for i := range 8 {
		z.down = append(z.down, z.wire(z.conn(1, simProxy), 1, i, i == 7, false))
	}
	for i := range 8 { // the last two to another host
		z.up = append(z.up, z.wire(z.upstream(i), 0, i, false, false))
	}
	return z
}

func (z *fuzzed) upstream(i int) *conn {
	c := z.conn(simProxy, 2)
	c.ports[1] += uint16(i / 6) //nolint:gosec // a few
	return c
}

func (z *fuzzed) wire(c *conn, proxy, home int, isH2, tls bool) *wire {
	w := &wire{conn: c, proxy: proxy, home: uint32(home), tls: tls, last: ^uint32(0)} //nolint:gosec // a few
	if isH2 {
		w.talks[0], w.talks[1] = c.talks(tls)
	}
	return w
}

// takes has a tree that was given out.
func (z *fuzzed) takes(tree *Tree) {
	for i, x := range tree.Exchanges {
		if z.given[x.serial] {
			z.t.Errorf("exchange %d is given twice", x.serial)
		}
		z.given[x.serial] = true
		switch {
		case (i == 0) != (x.Parent < 0), x.Parent >= i:
			z.t.Errorf("exchange %d of a tree has parent %d", i, x.Parent)
		case i > 0:
			y := tree.Exchanges[x.Parent]
			if y != x.parent || y.ServerPid() != x.ClientPid() || !y.holds(x.Req.StartNs) {
				z.t.Errorf("%s: %d cannot be caused by %d", text(tree), i, x.Parent)
			}
		}
	}
}

// send gives a record, or not.
func (z *fuzzed) send(w *wire, side int, how byte, f bpf.Flight, b []byte) {
	tid := 1 + (w.home+uint32(how&3))%z.threads
	if f.SendTid = 50; side == w.proxy {
		f.SendTid = tid
	} else if f.RecvSk != 0 {
		f.RecvTid = tid
	}
	b = bytes.Clone(b)
	give := func() {
		if z.j.Flight(&f, b) != Done {
			z.again = append(z.again, f)
		}
	}
	switch how & fuzzFate {
	case fuzzLost:
		return
	case fuzzLate:
		z.late = append(z.late, give)
		return
	case fuzzUnread:
		f.RecvSk, f.RecvPid, f.RecvTid, f.RecvNs, f.RecvEndNs = 0, 0, 0, 0, 0
	case fuzzSlow:
		if f.RecvEndNs += 5 * ms; how&fuzzNamed != 0 {
			f.RecvNs = f.RecvEndNs
		}
	}
	give()
}

// say has a side write what HTTP/1 has as text, and HTTP/2 as fields of a stream.
func (z *fuzzed) say(w *wire, side int, how byte, text string, stream uint32, fields ...string) {
	var f bpf.Flight
	var b []byte
	switch {
	case w.talks[0] != nil:
		w.talks[side].head(stream, true, fields...)
		f, b = w.talks[side].flight()
	case w.tls:
		f, b = w.record(side, text)
	default:
		f, b = w.flight(side, text)
	}
	z.send(w, side, how, f, b)
}

func (z *fuzzed) ask(w *wire, how byte, id string) {
	target := "/"
	if how&fuzzOther != 0 {
		target = "/other"
	}
	fields := []string{":method", "GET", ":scheme", "http", ":path", target, ":authority", "x"}
	if id != "" {
		fields = append(fields, "x-request-id", id)
	}
	w.last += 2
	w.streams = append(w.streams, w.last)
	z.say(w, 0, how, get(target, id), w.last, fields...)
}

func (z *fuzzed) answer(w *wire, which, how byte) {
	n, stream := len(w.streams), uint32(1)
	if n > 0 {
		i := int(which) % n
		stream = w.streams[i]
		w.streams = slices.Delete(w.streams, i, i+1)
	}
	if how&fuzzFailed != 0 {
		z.say(w, 1, how, ok(503, ""), stream, ":status", "503")
	} else {
		z.say(w, 1, how, ok(200, ""), stream, ":status", "200")
	}
}

func (z *fuzzed) opens(w *wire, how byte) {
	f := w.syn(0)
	f.SendPid = w.pids[0]
	if how&fuzzFate == fuzzUnread {
		lost(f)
	}
	z.send(w, 0, how, *f, nil)
}

func (z *fuzzed) closes(w *wire, how byte) {
	for side := range 2 {
		if how&fuzzOther != 0 && side != w.proxy {
			continue
		}
		f, _ := w.flight(side, "")
		f.Flags |= bpf.Flags(bpf.FlagClose)
		if f.RecvSk = 0; how&fuzzNamed != 0 {
			f.Flags |= bpf.Flags(bpf.FlagReset)
		}
		if how&fuzzFailed != 0 { // it waits for nothing
			f.Prev, f.Ack = 0, 0
		}
		z.send(w, side, how, f, nil)
	}
}

// inPlaceOf has a connection begin in place of another one, by its ports or its sockets maybe.
func (c *conn) inPlaceOf(old *conn, how byte) *conn {
	if how&fuzzOther != 0 {
		c.ports = old.ports
	}
	if how&fuzzFailed != 0 {
		c.socks = old.socks
	}
	return c
}

func (z *fuzzed) do(what, which, how byte) {
	in, out := z.down[which>>3&7], z.up[which&7]
	switch what % fuzzKinds {
	case fuzzAsk:
		d := which & 7
		if z.ids[d] = ""; how&fuzzNamed != 0 {
			z.ids[d] = uuid(int(z.id)) //nolint:gosec // a few
		}
		z.ask(z.down[d], how, z.ids[d])
	case fuzzOpen:
		slot := int(which & 7)
		c := z.upstream(slot).inPlaceOf(out.conn, how)
		z.opens(z.wire(c, 0, slot, false, false), how) // HTTP/2 says something at once
		z.up[slot] = z.wire(c, 0, slot, which&16 != 0, which&8 != 0)
	case fuzzShake:
		f, b := out.record(int(how>>7), "")
		z.send(out, int(how>>7), how, f, b)
	case fuzzHandOn:
		id := ""
		if how&fuzzNamed != 0 {
			id = z.ids[which>>3&7]
		}
		z.ask(out, how, id)
	case fuzzAnswer:
		z.answer(out, which>>3, how)
	case fuzzHandBack:
		z.answer(z.down[which&7], which>>3, how)
	case fuzzClose:
		if which&64 == 0 {
			z.closes(out, how)
			return
		}
		z.closes(in, how)
		d := int(which >> 3 & 7)
		z.down[d] = z.wire(z.conn(1, simProxy).inPlaceOf(in.conn, how), 1, d, which&1 != 0, false)
	case fuzzWait:
		wait := uint64(how) * ms
		if which >= 192 {
			wait *= 64
		}
		z.now += wait
		for _, give := range z.late {
			give()
		}
		z.late = z.late[:0]
		z.again = slices.DeleteFunc(z.again, func(f bpf.Flight) bool {
			if f.RecvNs == 0 {
				f.RecvNs, f.RecvEndNs = z.now, z.now
			}
			return z.j.Update(&f) == Done
		})
	}
}

// look has each pool as the proxy's habits make it, and says what of it is not as it must be.
func (z *fuzzed) look() {
	for _, w := range z.j.workers {
		for _, p := range w.pools {
			z.haveHabits(p)
			z.check(p)
		}
	}
}

func (z *fuzzed) haveHabits(p *pool) {
	if z.habits&fuzzPools != 0 {
		p.streak = max(p.streak, leastStreak)
	}
	if z.habits&fuzzDoubted != 0 {
		p.trust.doubts, p.trust.rests = mostDoubts, min(p.trust.rests, 3)
	}
	if z.habits&fuzzRooms != 0 {
		p.rooms.most = 2
	}
}

func (z *fuzzed) check(p *pool) {
	for i, l := range p.idle {
		if !l.up.known || l.up.of != p || slices.Contains(p.idle[i+1:], l) {
			z.t.Fatalf("a connection is free that is not, or twice: %+v", l.up)
		}
	}
	for i, l := range p.bound {
		if len(l.up.lane) == 0 || l.up.of != p || slices.Contains(p.bound[i+1:], l) {
			z.t.Fatalf("a connection is taken that is not, or twice: %+v", l.up)
		}
	}
	for i, o := range p.opening {
		if up := &o.leg.up; !up.opens || up.of != p || slices.ContainsFunc(p.opening[i+1:], func(q opening) bool { return q.leg == o.leg }) {
			z.t.Fatalf("a connection is being opened that is not, or twice: %+v", up)
		}
	}
}

// end lets everything expire: nothing must be left of it, and each exchange must have been given.
func (z *fuzzed) end() {
	for range 4 {
		z.now += uint64(5 * time.Minute)
		z.j.Tick(z.now)
	}
	j := z.j
	if n := len(z.given) + int(j.lost.cut.Value()); uint64(n) != j.Stats.Requests {
		z.t.Errorf("%d exchanges are given of %d", n, j.Stats.Requests)
	}
	for name, n := range map[string]int{
		"workers": len(j.workers), "processes": len(j.processes), "apps": len(j.apps), "servers": len(j.servers), "sockets": len(j.halves),
		"held": len(j.holding), "groups": len(j.groups), "traces": len(j.traces), "quiet": len(j.quiet), "places": j.shelves.n, "shelves": len(j.shelves.all),
	} {
		if n != 0 {
			z.t.Errorf("%d %s are left", n, name)
		}
	}
	for _, p := range j.pages.all {
		if p.live != 0 {
			z.t.Errorf("%d flights are left on a page", p.live)
		}
	}
	j.Close()
}

// fuzzHabit is what a proxy does that is known, or not.
type fuzzHabit struct {
	kind  byte // of its upstream connections: 1: TLS, 2: HTTP/2
	first bool // it opens each for one request; which one is taken that is free is not known, else it is the last
	once  bool // they are closed once they were used
	named int  // of so many requests one has an id
	chaos float64
}

// fuzzSeed is commands for what such a proxy does; of these a share is something else.
func fuzzSeed(seed uint64, steps int, h fuzzHabit) []byte {
	r := rand.New(rand.NewPCG(seed, 5)) //nolint:gosec // it must be the same each time
	out := []byte{byte(seed)}
	step := func(what, which, how byte) {
		if r.Float64() < h.chaos {
			what, which, how = byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))
		}
		out = append(out, what, which, how)
	}
	pick := func(from *[][2]byte) (up, down byte, ok bool) {
		if len(*from) == 0 {
			return 0, 0, false
		}
		i := r.IntN(len(*from))
		one := (*from)[i]
		*from = slices.Delete(*from, i, i+1)
		return one[0], one[1], true
	}
	threads := 1 + byte(seed)&3
	by := func(up, down byte) byte { return (down%threads + threads - up%threads) % threads } // its client's thread has it
	var idle, waits [4][]byte
	var opening, taken, busy [][2]byte
	var named [8]byte
	var done []byte
	fresh, quiet := []byte{0, 1, 2, 3, 4, 5}, []byte{0, 1, 2, 3, 4, 5, 6, 7}
	free := func(up, down byte) {
		if t := down % threads; len(waits[t]) > 0 && !h.first {
			taken, waits[t] = append(taken, [2]byte{up, waits[t][0]}), waits[t][1:]
		} else {
			idle[t] = append(idle[t], up)
		}
	}
	for range steps {
		switch r.IntN(10) {
		case 0, 1, 2:
			if len(quiet) == 0 {
				continue
			}
			d := quiet[0]
			quiet = quiet[1:]
			if named[d] = 0; r.IntN(h.named) == 0 {
				named[d] = fuzzNamed
			}
			step(fuzzAsk, d, named[d])
			t := d % threads
			if n := len(idle[t]); n > 0 {
				if h.first {
					n = 1 + r.IntN(n)
				}
				taken = append(taken, [2]byte{idle[t][n-1], d})
				idle[t] = slices.Delete(idle[t], n-1, n)
				continue
			}
			if !h.first || len(fresh) == 0 {
				waits[t] = append(waits[t], d)
			}
			if len(fresh) > 0 {
				opener := by(fresh[0], d)
				if h.first && r.IntN(3) == 0 { // HAProxy's threads leave connections to others
					opener = byte(r.IntN(4))
				}
				step(fuzzOpen, fresh[0]|h.kind<<3, opener)
				opening, fresh = append(opening, [2]byte{fresh[0], d}), fresh[1:]
			}
		case 3, 4:
			if up, down, ok := pick(&opening); ok {
				for i := range 4 * (h.kind & 1) {
					step(fuzzShake, up, by(up, down)|i%2<<7)
				}
				if h.first {
					taken = append(taken, [2]byte{up, down})
				} else {
					free(up, down)
				}
			}
		case 5, 6:
			if up, down, ok := pick(&taken); ok {
				step(fuzzHandOn, up|down<<3, by(up, down)|named[down])
				busy = append(busy, [2]byte{up, down})
			}
		case 7:
			if up, down, ok := pick(&busy); ok {
				step(fuzzAnswer, up, by(up, down))
				done = append(done, down)
				if t := down % threads; len(waits[t]) > 0 && h.first {
					taken, waits[t] = append(taken, [2]byte{up, waits[t][0]}), waits[t][1:]
				} else if h.once || r.IntN(16) == 0 {
					step(fuzzClose, up, by(up, down))
					fresh = append(fresh, up)
				} else {
					free(up, down)
				}
			}
		case 8:
			for _, d := range done {
				step(fuzzHandBack, d, 0)
			}
			quiet, done = append(quiet, done...), done[:0]
		default:
			step(fuzzWait, 0, byte(r.IntN(40)))
		}
	}
	return out
}

// Whatever the threads of a proxy do, nothing panics, each exchange is given once, under what may have caused it, and nothing is kept.
func FuzzWorkers(f *testing.F) {
	for kind := range byte(4) {
		for habits := range uint64(64) {
			f.Add(fuzzSeed(habits|habits%4<<6, 300, fuzzHabit{kind: kind, named: 2, first: habits%3 == 0, once: habits%5 == 0, chaos: []float64{0, 0.02, 0.1, 0.4}[(habits>>2+habits)%4]}))
		}
	}
	f.Add(fuzzSeed(fuzzPools, 2000, fuzzHabit{named: 3}))
	f.Add(fuzzSeed(fuzzOrder, 2000, fuzzHabit{named: 3, first: true, once: true}))
	f.Add(fuzzSeed(fuzzDoubted|3, 2000, fuzzHabit{named: 3, first: true}))
	f.Add(fuzzSeed(3<<6|3, 2000, fuzzHabit{named: 3, first: true}))
	f.Add(fuzzSeed(1, 2000, fuzzHabit{named: 3, chaos: 0.2}))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		z := newFuzzed(t, in[0])
		for in = in[1:]; len(in) >= 3; in = in[3:] {
			z.do(in[0], in[1], in[2])
			if z.now-z.j.now >= fuzzLooks[z.habits>>6] {
				z.j.Tick(z.now)
				z.look()
			}
		}
		z.end()
	})
}
