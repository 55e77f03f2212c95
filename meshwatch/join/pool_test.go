package join

import (
	"strconv"
	"strings"
	"testing"
)

// script tells a pool what its worker does, a line each, a millisecond apart:
//
//	read a          a request, which goes on by a connection that is free, or is being opened
//	read a opens C  the same, and a connection is begun for it
//	open C          its TLS handshake is over
//	late C          it was, three milliseconds ago, while the worker was looked at until now
//	connected C     it is open, without TLS
//	ask C a         what is asked on it is, by the model, a; ?: it does not say
//	ask C/3 a       the same of an HTTP/2 stream
//	free C          its response was read
//	wrote           the worker wrote what it had read before
type script struct {
	*testing.T
	w    *worker
	c    *class
	p    *pool
	now  uint64
	ys   map[string]*Exchange
	legs map[string]*Leg
	xs   map[string]*Exchange // the latest of each connection
	n    uint64
}

func newScript(t *testing.T) *script {
	t.Helper()
	w := &worker{proc: &process{}, classes: map[classKey]*class{}, pools: map[poolKey]*pool{}, lines: map[uint64]*line{}}
	p := &pool{streak: leastStreak}
	return &script{T: t, w: w, p: p, c: &class{pool: p}, now: 1e9, ys: map[string]*Exchange{}, legs: map[string]*Leg{}, xs: map[string]*Exchange{}}
}

func (s *script) leg(name string, isH2 bool) *Leg {
	l := s.legs[name]
	if l == nil {
		l = &Leg{opener: 1}
		if isH2 {
			l.multi = &multiplex{}
		}
		s.legs[name] = l
	}
	return l
}

func (s *script) run(isH2 bool, lines ...string) {
	s.Helper()
	for _, line := range lines {
		s.now += 1e6
		f := strings.Fields(line)
		switch f[0] {
		case "read":
			s.n++
			y := &Exchange{serial: s.n, Req: &Message{RecvNs: s.now}}
			s.ys[f[1]] = y
			s.c.asked(y, s.w, false, len(f) > 2)
			if len(f) > 2 {
				s.p.begins(s.leg(f[3], isH2), s.now)
			}
		case "open":
			l := s.leg(f[1], isH2)
			l.hellos, l.shook = 2, s.now
			s.p.shaken(s.w, l)
		case "late":
			l := s.leg(f[1], isH2)
			s.w.done = s.now
			l.hellos, l.shook = 2, s.now-3e6
			s.p.shaken(s.w, l)
		case "connected":
			s.leg(f[1], isH2).connected = s.now
		case "ask":
			name, stream, _ := strings.Cut(f[1], "/")
			id, _ := strconv.Atoi(stream)
			l := s.leg(name, isH2)
			s.n++
			x := &Exchange{serial: s.n, Req: &Message{StartNs: s.now, leg: l}, Stream: Stream{ID: uint32(id)}} //nolint:gosec // a few
			s.xs[name] = x
			behind := 0
			if id != 0 {
				behind, _ = l.up.streams.place(uint32(id), !l.up.used) //nolint:gosec // a few
			}
			l.up.used = true
			s.p.asks(x, s.c, s.w, behind)
			got := "?"
			for name, y := range s.ys {
				if x.inPool.of() == y && !x.inPool.shaky {
					got = name
				}
			}
			if got != f[2] {
				s.Errorf("%q: by the model it is %s", line, got)
			}
		case "free":
			x := s.xs[f[1]]
			x.Resp = &Message{StartNs: s.now, RecvNs: s.now}
			s.w.turns.owes(s.now)
			s.p.free(x, s.w, false, s.now)
		case "wrote":
			s.w.turns.writes(s.now, s.now-1e6)
		default:
			s.Fatalf("%q: what is that?", line)
		}
	}
}

// What Envoy does with its connections, see pool.
func TestPool(t *testing.T) {
	for _, c := range []struct {
		name  string
		isH2  bool
		lines []string
	}{
		{"what became free last is taken first", false, []string{
			"read a opens A", "connected A", "ask A a", "read b opens B", "connected B", "ask B b",
			"free A", "free B", "wrote", "read c", "read d", "ask A d", "ask B c"}},
		{"who has waited longest takes what is open first", false, []string{
			"read a opens A", "read b opens B", "connected A", "connected B", "ask A a", "ask B b"}},
		{"by their handshakes, whatever is written first", false, []string{
			"read a opens A", "read b opens B", "open B", "open A", "ask A b", "ask B a"}},
		{"one who waits takes what became free", false, []string{
			"read a opens A", "open A", "ask A a", "read b opens B", "free A", "wrote", "ask A b", "open B", "read c", "ask B c"}},
		{"unless another one came in the same turn: nobody knows", false, []string{
			"read a opens A", "open A", "ask A a", "read b opens B", "free A", "read c", "ask A ?", "open B", "ask B ?"}},
		{"nobody needed what was opened: it is free", false, []string{
			"read a opens A", "open A", "ask A a", "read b opens B", "free A", "wrote", "ask A b", "open B", "free A", "read c", "ask A c", "read d", "ask B d"}},
		{"of two that are open nobody knows which is taken first", false, []string{
			"read a opens A", "connected A", "ask A a", "read b opens B", "connected B", "free A", "wrote", "ask A b", "free A", "read c", "read d", "ask A ?", "ask B ?"}},
		{"but one alone took the one that is asked on", false, []string{
			"read a opens A", "connected A", "ask A a", "read b opens B", "connected B", "free A", "wrote", "ask A b", "free A", "read c", "ask B c"}},
		{"a connection of HTTP/2 is for all that wait", true, []string{
			"read a opens A", "read b", "read c", "open A", "ask A/1 a", "ask A/3 b", "ask A/5 c", "read d", "ask A/7 d"}},
		{"its streams may be seen in another order", true, []string{
			"read a opens A", "read b", "open A", "ask A/3 b", "ask A/1 a"}},
		{"a connection was missed: nothing is known", false, []string{
			"read a opens A", "read b opens B", "connected A", "connected B", "ask B ?"}},
	} {
		t.Run(c.name, func(t *testing.T) { newScript(t).run(c.isH2, c.lines...) })
	}
}

// How many requests a connection is given is seen by those that were closed.
func TestRooms(t *testing.T) {
	s := newScript(t)
	for range leastClosed {
		s.p.rooms.closed(2)
	}
	s.run(true, "read a opens A", "read b", "read c opens B", "open B", "open A", "ask B/1 a", "ask A/1 c", "ask B/3 b", "read d", "ask A/3 d")
	s.p.rooms.closed(3)
	if s.p.rooms.most != 0 {
		t.Errorf("a connection is given %d, though one had more", s.p.rooms.most)
	}
}

// A proxy of which the model is wrong costs no more than looking at its requests: it is asked about fewer and fewer.
func TestTrust(t *testing.T) {
	var got trust
	asked := 0
	for range 100_000 {
		if got.rests > 0 {
			got.rests--
			continue
		}
		asked++
		got.contradicted(failed)
	}
	if asked > 2000 {
		t.Errorf("a model that is always wrong is asked about %d of 100,000 requests", asked)
	}
}

// Whatever is not seen any more: a pool stays small.
func TestPoolIsBounded(t *testing.T) {
	s := newScript(t)
	for i := range 3 * mostWaiting {
		n := strconv.Itoa(i)
		s.run(false, "read "+n+" opens "+n)
	}
	if len(s.p.waiting) > mostWaiting || len(s.p.opening) > mostWaiting || len(s.p.unknown) > mostWaiting {
		t.Errorf("%d wait, %d are being opened, of %d nothing is known, want at most %d", len(s.p.waiting), len(s.p.opening), len(s.p.unknown), mostWaiting)
	}
}

// That a connection was open is known once its peer has read what ends the handshake, which on a busy node may be when others were given
// away in its place: of these nothing is said, of later ones it is.
func TestOvertaken(t *testing.T) {
	s := newScript(t)
	s.run(false, "read a opens A", "read b opens B", "read c opens C", "read d opens D", "open B", "ask B a", "open C", "late A", "ask A ?", "ask C ?",
		"open D", "ask D d")
	for name, want := range map[string]bool{"B": true, "D": false} {
		if x := s.xs[name]; x.pool.shifted.touch(x.Req.StartNs, x.Req.StartNs) != want {
			t.Errorf("%s took another's place: %v, want %v", name, !want, want)
		}
	}
}

// That a connection was begun may be known late, too: whoever it was for was taken for one that goes on by another one.
func TestBegunLate(t *testing.T) {
	s := newScript(t)
	s.w.pools[poolKey{}] = s.p
	s.run(false, "read a opens A", "read b")
	s.w.done = s.now
	s.w.do(&event{at: s.now - 1e6, kind: eventOpens, leg: s.leg("B", false)}, poolKey{})
	if s.p.broken < s.ys["b"].Req.RecvNs {
		t.Errorf("the model failed for what was read until %d ns, want %d at least", s.p.broken, s.ys["b"].Req.RecvNs)
	}
	s.run(false, "open A", "ask A ?")
}

// Where who a connection was said to hand on was answered first, others near it may have changed places as well.
func TestContradicted(t *testing.T) {
	for name, after := range map[string]int64{"before": -1, "after": 1} {
		s := newScript(t)
		s.run(false, "read a opens A", "connected A", "ask A a", "free A")
		x := s.xs["A"]
		s.ys["a"].Resp = &Message{StartNs: uint64(int64(x.Resp.RecvNs) + after)} //nolint:gosec // far from the ends
		s.p.isContradicted(x)
		for _, at := range []uint64{x.Req.StartNs - unsettled, x.Req.StartNs + unsettled} {
			if got := s.p.shifted.touch(at, at); got != (after < 0) {
				t.Errorf("answered %s: in doubt at %d ns: %v", name, at, got)
			}
		}
	}
}

// A part of the model is believed with fewer tests of its own where the whole is proven.
func TestBelievesPool(t *testing.T) {
	for _, c := range []struct {
		name        string
		pool, waits record
		want        bool
	}{
		{"it is proven by itself", record{}, record{leastTests, 0}, true},
		{"too few", record{}, record{leastTests - 1, 0}, false},
		{"with the others", record{leastTests, 0}, record{leastOfPart, 0}, true},
		{"too few of its own", record{leastTests, 0}, record{leastOfPart - 1, 0}, false},
		{"it was wrong", record{mostWrong, 0}, record{leastOfPart, 1}, false},
		{"the others were", record{leastTests, 1}, record{leastOfPart, 0}, false},
	} {
		p, x := &process{pool: c.pool, waits: c.waits}, &Exchange{inPool: guess{waited: true, choice: true}}
		if got := p.believesPool(x); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// Workers are looked at one after the other: a connection may be seen to be used by the one that it was handed over to before it is seen to
// be opened by the other. It stays with the one that uses it.
func TestOpenedByAnother(t *testing.T) {
	s, other := newScript(t), newScript(t)
	s.run(false, "read a opens A", "connected A", "ask A a")
	other.legs["A"] = s.legs["A"]
	other.run(false, "read b opens A")
	if up := s.legs["A"].up; up.of != s.p || up.opens || len(other.p.opening) > 0 {
		t.Errorf("a connection that is used is taken for one that another worker opens: %+v", up)
	}
	s.run(false, "read c opens C")
	other.legs["C"] = s.legs["C"]
	other.run(false, "open C")
	if up := s.legs["C"].up; !up.opens || len(other.p.idle)+len(other.p.bound) > 0 {
		t.Errorf("a handshake that another worker ends makes a connection its own: %+v", up)
	}
}

// Of two requests that were asked on a connection at once, the answer to the first one makes it free, that to the second one cannot: it would
// be taken twice.
func TestFreedTwice(t *testing.T) {
	for _, lines := range [][]string{
		{"read b opens B", "free A", "free A"},
		{"read b opens B", "free A", "connected B", "ask B b", "free A"},
		{"free A", "free A"},
	} {
		s := newScript(t)
		s.run(false, "read a opens A", "connected A", "ask A a")
		s.run(false, lines...)
		if n := len(s.p.freed) + len(s.p.idle); n > 0 {
			t.Errorf("%q: %d are taken for free", lines, n)
		}
	}
}
