package join

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
)

// talking is one HTTP/1 connection: a client with up to depth requests under way, and a server that answers one after the other.
type talking struct {
	depth     int
	bursts    bool // the client asks again only when all is answered
	readAhead bool // the server reads what has come while it is at work
	n         int  // requests
	syn       bool // the connection's beginning is recorded
}

// passed is a flight of one, and the bytes captured of it.
type passed struct {
	f bpf.Flight
	b []byte
}

// passes are all flights of it, in the order in which they were sent.
func (c talking) passes(w *world, r *rand.Rand) (all []*passed) {
	defer func(now uint64) { w.now = now }(w.now)
	conn := w.conn(1, 2)
	var asks, answers []*passed
	came, got := 0, 0 // requests at the server, responses at the client
	say := func(side int, ack uint32, msg string) *passed {
		f, b := conn.flight(side, msg)
		f.Prev, f.Ack, f.RecvNs, f.SendNs = 0, ack, 0, w.now
		p := &passed{f, b}
		all = append(all, p)
		return p
	}
	read := func(p *passed) {
		if p.f.RecvNs == 0 {
			w.now += ms / 10
			p.f.RecvNs, p.f.RecvEndNs = w.now, w.now
		}
	}
	acks := func(list []*passed, n int, first uint32) uint32 {
		if n == 0 {
			return first
		}
		return list[n-1].f.End
	}
	const client, server = 0xffffff00, 0x7fffff80 // where conn begins
	if c.syn {
		p := say(0, 0, "")
		p.f.Flags, p.f.Seq, p.f.End, p.f.RecvSk = bpf.Flags(bpf.FlagSYN), p.f.Seq-1, p.f.Seq-1, 0
		read(p)
	}
	for burst := false; got < c.n; {
		w.now += ms / 10
		switch r.IntN(4) {
		case 0:
			if burst = burst && len(asks) != got+c.depth || len(asks) == got; len(asks) < min(c.n, got+c.depth) && (burst || !c.bursts) {
				asks = append(asks, say(0, acks(answers, got, server), get(fmt.Sprintf("/%d", len(asks)), "")))
			}
		case 1:
			if came < len(asks) {
				if came++; c.readAhead {
					read(asks[came-1])
				}
			}
		case 2:
			if n := len(answers); n < came {
				read(asks[n])
				w.now += ms / 10
				answers = append(answers, say(1, acks(asks, came, client), ok(200+n, "")))
			}
		case 3:
			if got < len(answers) {
				got++
				read(answers[got-1])
			}
		}
	}
	return all
}

// What may become of flights before the joiner sees them.
type fate int

const (
	kept   fate = iota
	missed      // by the recorder: they are taken for more of the one before
	lapped      // recorded, and overwritten before they were read
)

// hear gives the joiner what is left of flights, when it was read. It counts the requests that are given out with a response, those that have
// another's, and those of which both flights were left.
func (w *world) hear(all []*passed, of func(i int) fate) (right, wrong, whole int) {
	var before [2]*passed // on each socket
	var left []*passed
	flights := map[int]int{}
	for i, p := range all {
		b := before[p.f.SendSk&1]
		is := of(i)
		if is == missed {
			if b != nil {
				b.f.End, b.f.RecvUpto = p.f.End, p.f.End
			}
			continue
		}
		if b != nil {
			p.f.Prev = uint32(b.f.Id)
		}
		if before[p.f.SendSk&1] = p; is == lapped {
			continue
		}
		left = append(left, p)
		var n int
		if _, err := fmt.Sscanf(string(p.b), "GET /%d", &n); err != nil {
			_, _ = fmt.Sscanf(string(p.b), "HTTP/1.1 %d", &n)
			n -= 200
		}
		flights[n]++
	}
	slices.SortStableFunc(left, func(a, b *passed) int { return cmp.Compare(a.f.RecvNs, b.f.RecvNs) })
	for _, p := range left {
		w.now = max(w.now, p.f.RecvNs)
		w.j.Tick(w.now)
		w.j.Flight(&p.f, p.b)
	}
	w.now += uint64(time.Minute)
	w.j.Tick(w.now)
	w.j.Close()
	for _, line := range w.out {
		var n, status int
		if _, err := fmt.Sscanf(line, "1-2 /%d %d", &n, &status); err != nil {
			continue
		}
		if status == 200+n {
			right++
		} else {
			wrong++
		}
	}
	for _, n := range flights {
		whole += n / 2
	}
	return right, wrong, whole
}

// Whatever is lost of a connection, whoever pipelines on it: no request is given another's response. That cannot be told where recording began
// when a client that pipelines had requests under way that its server had read already, until it has all its answers; nor always where much
// is lost of a connection of such a client.
func TestNeverAnothersResponse(t *testing.T) {
	const connections, requests = 200, 60
	for how, lost := range map[string]struct {
		fate    func(i, syn int, r *rand.Rand) fate
		unknown bool    // what was before the first flight that is left
		most    float64 // of a client that pipelines: wrong ones
		right   float64 // of one that does not: those that are left
	}{
		"the first request":      {fate: func(i, syn int, _ *rand.Rand) fate { return lappedIf(i == syn) }, right: 1},
		"the SYN":                {fate: func(i, syn int, _ *rand.Rand) fate { return lappedIf(i < syn) }, right: 0.93},
		"both":                   {fate: func(i, syn int, _ *rand.Rand) fate { return lappedIf(i <= syn) }, right: 1},
		"all until some request": {fate: func(i, _ int, _ *rand.Rand) fate { return fate(b2i(i < 20)) }, unknown: true, right: 0.99},
		"some":                   {fate: func(_, _ int, r *rand.Rand) fate { return lappedIf(r.IntN(30) == 0) }, right: 0.98},
		"some beginnings":        {fate: func(_, _ int, r *rand.Rand) fate { return fate(b2i(r.IntN(30) == 0)) }, most: 1e-3, right: 0.98},
		"a third":                {fate: func(_, _ int, r *rand.Rand) fate { return lappedIf(r.IntN(3) == 0) }, most: 1e-3, right: 0.9},
	} {
		for _, c := range []talking{{depth: 1}, {depth: 2}, {depth: 4}, {depth: 2, bursts: true}, {depth: 4, bursts: true}} {
			t.Run(fmt.Sprintf("%d under way, bursts %t, lost: %s", c.depth, c.bursts, how), func(t *testing.T) {
				var right, wrong, whole int
				c.n = requests
				for seed := range uint64(connections) {
					r := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // no secret
					w := openWorld(t)
					w.conn(9, 8).ask("/before", "") // so that it knows of flights before the first of this connection
					for range 3 {
						w.now += 2000 * ms
						w.j.Tick(w.now)
					}
					c.readAhead, c.syn = seed%2 == 0, seed%4 < 2 || how == "the SYN"
					n, bad, all := w.hear(c.passes(w, r), func(i int) fate { return lost.fate(i, b2i(c.syn), r) })
					if lost.unknown && c.depth > 1 && c.readAhead {
						bad = 0
					}
					right, wrong, whole = right+n, wrong+bad, whole+all
				}
				if most := lost.most * connections * requests; wrong > 0 && (c.depth == 1 || float64(wrong) > most) {
					t.Errorf("%d requests have another's response", wrong)
				}
				if c.depth == 1 && float64(right) < lost.right*float64(whole) {
					t.Errorf("%d of %d requests have their response", right, whole)
				}
			})
		}
	}
}

func lappedIf(is bool) fate { return fate(2 * b2i(is)) }

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
