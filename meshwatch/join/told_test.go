package join

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/meshwatch/meshwatch/bpf"
)

// tells makes a text of what was written.
func (t *talk) tells() (bpf.Flight, []byte) {
	prev := t.c.prev[t.side]
	f, b := t.flight()
	t.c.prev[t.side] = prev
	f.Flags |= textFlag
	f.RecvSk, f.RecvPid, f.RecvPort, f.RecvPeer, f.Nstamps, f.Prev = 0, 0, 0, 0, 0, prev
	return f, b
}

// told is a flight that begins with a text, and ends where the stream does.
func (t *talk) told(seq uint32) bpf.Flight {
	end := t.c.seq[t.side]
	f, _ := t.c.flight(t.side, "")
	f.Seq, f.End = seq, end
	f.Flags, f.HeadLen = opaqueFlag|plainFlag|joinedFlag, 0
	return f
}

// However writes of a TLS library leave, the heads in them are read in order: with a flight of their own, several in one flight after they
// waited, behind another one in its packets, or in packets with which no flight began.
func TestHTTP2WritesThatWait(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t)
			r := rand.New(rand.NewPCG(seed, 9)) //nolint:gosec // no secret
			c := w.conn(1, 2)
			client, server := c.talks(true)
			var want []string
			ask := func() {
				n := len(want)
				client.ask(uint32(2*n+1), fmt.Sprintf("/%d", n), uuid(n))
				want = append(want, fmt.Sprintf("1-2 /%d 200", n))
			}
			for len(want) < 40 {
				switch some := 1 + r.IntN(3); r.IntN(4) {
				case 0:
					ask()
					client.send()
				case 1: // a flight begins with the first of them
					seq := c.seq[0]
					for range some {
						ask()
						f, b := client.tells()
						w.j.Flight(&f, b)
					}
					f := client.told(seq)
					w.j.Flight(&f, nil)
				case 2: // behind one that has a flight, which is read before or after, as long as it was or is
					ask()
					f, b := client.flight()
					own := f.End
					var texts []func()
					for range some {
						ask()
						g, b := client.tells()
						texts = append(texts, func() { w.j.Flight(&g, b) })
					}
					if f.End = c.seq[0]; r.IntN(3) == 0 {
						f.End = own
					}
					at := r.IntN(len(texts) + 1)
					for i, tell := range texts {
						if i == at {
							w.j.Flight(&f, b)
						}
						tell()
					}
					if at == len(texts) {
						w.j.Flight(&f, b)
					}
				case 3:
					for range some {
						ask()
						f, b := client.tells()
						w.j.Flight(&f, b)
					}
				}
			}
			w.settle()
			for _, n := range r.Perm(len(want)) {
				server.answer(uint32(2*n+1), 200)
			}
			server.send()
			w.settle()
			slices.Sort(want)
			slices.Sort(w.out)
			var lost []string
			if n := w.j.lost.hops.Value(); n > 0 { // in packets of which nothing else is known
				lost = []string{fmt.Sprintf("leg/hops-not-told %d", n)}
			}
			w.end(want, lost...)
		})
	}
}

// What left behind another write is seen when it was written, not when that one was; what waited, when it left.
func TestHTTP2WhenTextsLeft(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	client, _ := c.talks(true)
	client.ask(1, "/a", uuid(1))
	first, b := client.flight()
	w.now += 50 * ms
	client.ask(3, "/b", uuid(2))
	behind, b2 := client.tells()
	first.End, first.RecvEndNs = behind.End, w.now+5*ms
	w.j.Flight(&behind, b2)
	w.j.Flight(&first, b)
	client.ask(5, "/c", uuid(3))
	waited, b3 := client.tells()
	w.now += 50 * ms
	left := client.told(waited.Seq)
	w.j.Flight(&waited, b3)
	w.j.Flight(&left, nil)
	if n := w.j.lost.hops.Value(); n != 1 {
		t.Errorf("of %d writes the hops are not told, want that of one", n)
	}
	calls := w.j.halves[first.SendSk].leg.multi.calls
	for stream, want := range map[uint32][2]uint64{
		1: {first.StartNs, first.RecvNs}, 3: {behind.StartNs, first.RecvEndNs}, 5: {left.StartNs, left.RecvNs},
	} {
		if m := calls[stream].x.Req; m.StartNs != want[0] || m.RecvNs != want[1] || m.SendPid != 1 || m.RecvPid != 2 {
			t.Errorf("stream %d: sent at %d by %d, read at %d by %d, want %d and %d by 1 and 2", stream, m.StartNs, m.SendPid, m.RecvNs, m.RecvPid, want[0], want[1])
		}
	}
}

// A text that is lost is a gap, of which HPACK's table must know; one of a connection that is not known is counted.
func TestHTTP2TextLost(t *testing.T) {
	for _, begins := range []bool{false, true} { // a flight begins with it
		w := newWorld(t)
		c := w.conn(1, 2)
		client, server := c.talks(true)
		client.ask(1, "/a", uuid(1))
		client.send()
		client.ask(3, "/b", uuid(2))
		f, _ := client.tells()
		if begins {
			g := client.told(f.Seq)
			w.j.Flight(&g, nil)
		}
		client.ask(5, "/b", uuid(2)) // all of it in the table
		client.send()
		server.answers(1, 5)
		w.settle()
		w.end([]string{"1-2 /a 200", "1-2 ? 200"}, "parse/frames-missing 1", "parse/unknown-field 3")
	}
	client, _ := newWorld(t).conn(1, 2).talks(true)
	client.ask(1, "/a", uuid(1))
	f, b := client.tells()
	w := newWorld(t)
	w.j.Flight(&f, b)
	w.end(nil, "leg/plaintext-late 1")
}

// No more than maxTexts wait.
func TestHTTP2TextsBounded(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	client, _ := c.talks(true)
	for n := range maxTexts + 10 {
		client.ask(uint32(2*n+1), "/a", uuid(n))
		f, b := client.tells()
		w.j.Flight(&f, b)
	}
	if n := len(w.j.halves[c.socks[0]].leg.dirs[0].texts); n != maxTexts {
		t.Errorf("%d wait, want %d", n, maxTexts)
	}
	w.settle()
	if n := len(w.j.holding); n != 0 {
		t.Errorf("%d legs still hold something", n)
	}
	if n := len(w.j.halves[c.socks[0]].leg.multi.calls); n != maxTexts {
		t.Errorf("%d requests were read, want %d", n, maxTexts)
	}
}
