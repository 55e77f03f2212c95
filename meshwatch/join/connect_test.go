package join

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
)

// openWorld is a world with connections that nobody is seen to open: a SYN has no process.
func openWorld(t *testing.T) *world {
	w := newWorld(t)
	w.j.cfg.SelfID = 999
	return w
}

// syn is the connection's first packet, so many ms after the flight before, answered at once; as a record it is final.
func (c *conn) syn(after uint64) *bpf.Flight {
	c.w.now += after * ms
	f, _ := c.flight(0, "")
	f.Flags, f.Ack, f.Seq, f.End = bpf.Flags(bpf.FlagSYN), 0, f.Seq-1, f.Seq-1
	f.RecvSk, f.RecvPid, f.SendPid, f.RecvPort, f.RecvPeer = 0, 0, 0, 0, 0
	f.RecvEndNs, f.SendNs = f.RecvNs, f.RecvNs
	f.Nstamps = 2
	f.Stamps[0].Place, f.Stamps[1].Place, f.Stamps[1].Delta = 1<<28, 7<<28, uint32(ms/2)
	return &f
}

func (c *conn) opens(after uint64) { c.w.j.Flight(c.syn(after), nil) }

// lost makes a record one that was given out before its packet came anywhere.
func lost(f *bpf.Flight) *bpf.Flight {
	f.Nstamps, f.SendNs, f.RecvNs, f.RecvEndNs = 1, 0, 0, 0
	return f
}

func TestConnect(t *testing.T) {
	for name, tt := range map[string]struct {
		requests func(in, out *conn)
		want     []string
	}{
		"opened for a request": {func(in, out *conn) {
			in.ask("/in", id1)
			out.opens(0)
			out.ask("/out", id1)
		}, []string{"/in", "/out connect 0.5 ms, 2 stamps"}},
		"opened before the request came": {func(in, out *conn) {
			out.opens(0)
			in.ask("/in", id1)
			out.ask("/out", id1)
		}, []string{"/in", "/out"}},
		"with TLS": {func(in, out *conn) {
			in.ask("/in", id1)
			out.opens(0)
			out.handshake()
			out.encrypt(0, get("/out", id1))
		}, []string{"/in", "/out connect 0.5 ms, 2 stamps"}},
		"a second request on it": {func(in, out *conn) {
			in.ask("/in", id1)
			out.opens(0)
			out.ask("/out", id1)
			out.answer(200)
			out.ask("/again", id1)
		}, []string{"/in", "/out connect 0.5 ms, 2 stamps", "/again"}},
		"the first request on it was not seen": {func(in, out *conn) {
			in.ask("/in", id1)
			out.opens(0)
			out.flight(0, get("/lost", id1))
			out.prev[0] = 0
			out.ask("/out", id1)
		}, []string{"/in", "/out"}},
		"other bytes come first": {func(in, out *conn) {
			in.ask("/in", id1)
			out.opens(0)
			out.say(0, "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n")
			out.ask("/out", id1)
		}, []string{"/in", "/out"}},
		"by who was not asked": {func(in, out *conn) {
			in.opens(0)
			in.ask("/in", id1)
			out.ask("/out", id1)
		}, []string{"/in", "/out"}},
		"another connection of the same socket": {func(in, out *conn) {
			in.ask("/in", id1)
			out.opens(0)
			out.seq[0] += 1000
			out.opens(200)
			out.ask("/out", id1)
		}, []string{"/in", "/out connect 0.5 ms, 2 stamps"}},
		"opened again for the next": {func(in, out *conn) {
			in.ask("/in", id1)
			out.opens(0)
			next := in.w.conn(100, 3)
			next.opens(0)
			next.ask("/next", id1)
			next.answer(200)
			out.ask("/out", id1)
		}, []string{"/in", "/next connect 0.5 ms, 2 stamps", "/out connect 0.5 ms, 2 stamps"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := openWorld(t)
			var got []string
			w.j.emit = func(tree *Tree) {
				for _, x := range tree.Exchanges {
					got = append(got, connectText(tree, x))
				}
			}
			in, out := w.conn(1, 100), w.conn(100, 2)
			tt.requests(in, out)
			out.answer(200)
			in.answer(200)
			w.end(nil, map[string][]string{ // it may be that one's answer
				"the first request on it was not seen": {"pair/behind-a-gap 1", "pair/response-not-seen 1"},
			}[name]...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func connectText(tree *Tree, x *Exchange) string {
	out := string(tree.Head(x.Req).Target)
	if f := x.Connect; f != nil {
		out += fmt.Sprintf(" connect %v ms, %d stamps", float64(f.RecvNs-f.StartNs)/float64(ms), f.Nstamps)
		for i := 1; i < int(f.Nstamps); i++ {
			if f.Stamps[i].Delta < f.Stamps[i-1].Delta || f.StartNs+uint64(f.Stamps[i].Delta) > f.RecvNs {
				out += fmt.Sprintf(" stamp %d at %d ns", i, f.Stamps[i].Delta)
			}
		}
	}
	return out
}

// A connection that no request ever comes on, or that is not HTTP, is no loss and is forgotten.
func TestConnectWithoutRequest(t *testing.T) {
	w := openWorld(t)
	idle, raw := w.conn(1, 2), w.conn(1, 3)
	idle.opens(0)
	raw.opens(0)
	l := w.j.halves[raw.socks[0]].leg
	if l.syn == nil {
		t.Fatal("the SYN is not kept")
	}
	raw.say(0, strings.Repeat("\x16\x03\x01", 20))
	if l.syn != nil {
		t.Error("the SYN of a connection that is not HTTP is kept")
	}
	w.end(nil)
}

// A SYN that is not answered yet is followed, while what comes after it on its connection does not wait.
func TestConnectIsFollowed(t *testing.T) {
	w := openWorld(t)
	in, out := w.conn(1, 100), w.conn(100, 2)
	in.ask("/in", id1)
	f := out.syn(0)
	delivered := *f
	if w.j.Flight(lost(f), nil) != Follow || w.j.Update(f) != Follow {
		t.Error("nothing more is wanted of a SYN on its way")
	}
	if w.j.Update(&delivered) != Done {
		t.Error("more is wanted of a SYN that was answered")
	}
	out.ask("/out", id1)
	var got *bpf.Flight
	w.j.emit = func(tree *Tree) { got = tree.Exchanges[1].Connect }
	out.answer(200)
	in.answer(200)
	w.end(nil)
	if diff := cmp.Diff(&delivered, got); diff != "" {
		t.Errorf("connect (-want +got):\n%s", diff)
	}
}
