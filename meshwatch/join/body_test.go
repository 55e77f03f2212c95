package join

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
)

// growing is a flight of which the rest comes by and by.
type growing struct {
	c    *conn
	side int
	f    bpf.Flight
	want Want // what the joiner said last
}

// begin gives the joiner a flight of which only the first bytes, its head, have been written and read.
func (c *conn) begin(side int, msg string) *growing {
	f, b := c.flight(side, msg)
	return &growing{c: c, side: side, f: f, want: c.w.j.Flight(&f, b)}
}

// grow writes n more bytes and reads them a poll later.
func (g *growing) grow(n int) {
	w := g.c.w
	for _, read := range []bool{false, true} {
		w.now += ms
		if read {
			g.f.RecvUpto, g.f.RecvEndNs = g.f.End, w.now
		} else {
			g.f.End += uint32(n)
			g.c.seq[g.side] = g.f.End
		}
		if g.want != Done {
			g.want = w.j.Update(&g.f)
		}
		w.j.Tick(w.now)
	}
}

// close ends both sockets of a connection. by is the end that reset it, -1: none.
func (c *conn) close(by int) {
	for side := range 2 {
		c.w.id++
		f := bpf.Flight{Id: c.w.id, StartNs: c.w.now, Prev: c.prev[side], SendSk: c.socks[side], Flags: bpf.Flags(bpf.FlagClose)}
		if by == 1-side {
			f.Flags |= bpf.Flags(bpf.FlagReset)
		}
		c.w.j.Flight(&f, nil)
	}
}

const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

// When a request is over, and whether it went well, for responses that take their time. It is never given out before.
func TestLongResponses(t *testing.T) {
	for name, tt := range map[string]struct {
		head   string
		do     func(w *world, c *conn, resp *growing)
		want   string
		watch  bool // the joiner follows it in the end
		unsaid bool // that it is over is told by later things only
	}{
		"its length": {head: ok(200, ""), want: "1-2 / 200"},
		"a body of known length": {head: "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", want: "1-2 / 200", do: func(w *world, _ *conn, resp *growing) {
			for range 3 {
				if w.now += 2 * uint64(time.Second); len(w.out) > 0 {
					t.Error("given out before its end")
				}
				w.j.Tick(w.now)
				resp.grow(1000000)
			}
		}},
		"longer than sequence numbers count": {head: "HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n", want: "1-2 / 200", do: func(w *world, _ *conn, resp *growing) {
			for range 9 {
				if resp.want != Follow {
					t.Error("taken for whole before its end")
				}
				resp.grow(1000000000)
			}
		}},
		"the last chunk is in what was captured": {head: chunked + "2\r\nhi\r\n0\r\n\r\n", want: "1-2 / 200"},
		"the last chunk comes while it is read": {head: chunked, watch: true, unsaid: true, want: "1-2 / 200; 1-2 /next 204", do: func(_ *world, c *conn, resp *growing) {
			resp.grow(5000)
			c.ask("/next", "")
			c.answer(204)
		}},
		"chunks end by silence": {head: chunked, unsaid: true, watch: true, want: "1-2 / 200", do: func(w *world, _ *conn, resp *growing) {
			for range 3 {
				w.now += 900 * ms
				w.j.Tick(w.now)
				if resp.grow(50); len(w.out) > 0 {
					t.Error("given out while more came every second")
				}
			}
		}},
		"the connection's end": {head: "HTTP/1.1 200 OK\r\n\r\n", watch: true, want: "1-2 / 200", do: func(_ *world, c *conn, resp *growing) {
			resp.grow(5000)
			c.close(-1)
		}},
		"closed before its end": {head: "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", watch: true, want: "1-2 / 200 closed", do: func(_ *world, c *conn, resp *growing) {
			resp.grow(5000)
			c.close(-1)
		}},
		"reset by the server": {head: chunked, watch: true, want: "1-2 / 200 reset", do: func(_ *world, c *conn, resp *growing) {
			resp.grow(5000)
			c.close(1)
		}},
		"reset by a client that has had it all": {head: chunked, watch: true, want: "1-2 / 200", do: func(_ *world, c *conn, resp *growing) {
			resp.grow(5000)
			c.close(0)
		}},
		"reset by a client that has not": {head: chunked, watch: true, want: "1-2 / 200 reset", do: func(w *world, c *conn, resp *growing) {
			resp.f.End += 100
			w.j.Update(&resp.f)
			c.close(0)
		}},
		"never ends": {head: "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", watch: true, unsaid: true, want: "1-2 / 200 response-cut"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.conn(1, 2)
			c.ask("/", "")
			resp := c.begin(1, tt.head)
			if tt.do != nil {
				tt.do(w, c, resp)
			}
			if (resp.want == Follow) != tt.watch {
				t.Errorf("more is wanted: %v", resp.want)
			}
			w.now += 300 * ms
			w.j.Tick(w.now)
			if got := len(w.out) > 0; got == tt.unsaid && !strings.Contains(tt.want, ";") {
				t.Errorf("after 300 ms it is given out: %v", got)
			}
			w.end(strings.Split(tt.want, "; "))
		})
	}
}

// An upload while the response is on its way already, in flights of both directions by turns: one exchange, all bytes.
func TestBothWaysAtOnce(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	var got string
	emit := w.j.emit
	w.j.emit = func(tree *Tree) {
		x := tree.Exchanges[0]
		got = fmt.Sprint(x.Req.Flight.End-x.Req.Flight.Seq, x.Resp.Flight.End-x.Resp.Flight.Seq)
		emit(tree)
	}
	const reqHead, respHead = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n"
	up, down := c.begin(0, reqHead), c.begin(1, respHead)
	for range 3 {
		up.grow(5000)
		down.grow(5000)
		up, down = c.begin(0, strings.Repeat("x", 5000)), c.begin(1, strings.Repeat("x", 5000))
	}
	w.end([]string{"1-2 / 200"})
	if want := fmt.Sprint(30000+len(reqHead), 30000+len(respHead)); got != want {
		t.Errorf("%s bytes, want %s", got, want)
	}
}

// A response is answered for early: what goes on with the upload is no message, and the next request is found.
func TestAnsweredBeforeAllWasSent(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	up := c.begin(0, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n")
	c.answer(413)
	w.now += 300 * ms
	w.j.Tick(w.now)
	if diff := cmp.Diff([]string{"1-2 / 413"}, w.out); diff != "" {
		t.Errorf("given out (-want +got):\n%s", diff)
	}
	up.grow(20000)
	c.say(0, get("/not", "")+strings.Repeat("x", 10000-len(get("/not", ""))))
	if w.j.Update(&up.f) != Done {
		t.Error("more is wanted of an upload that is over")
	}
	c.ask("/next", "")
	c.answer(200)
	w.end([]string{"1-2 / 413", "1-2 /next 200"}, "leg/stray-body 1")
}

// What a flight acknowledges is on its way to us in a flight that grows: the order is kept, and nothing is missing.
func TestOrderWaitsForGrowth(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	up := c.begin(0, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
	up.f.End += 9000
	c.seq[0] = up.f.End
	c.answer(200) // before the joiner hears that there was more
	if up.want != Follow {
		t.Fatal("nothing more is wanted")
	}
	up.grow(0)
	w.end([]string{"1-2 / 200"})
}

// The recorder missed where the next response starts and took its bytes for more of the one before: the one after it is not
// taken for it.
func TestGrownOverTheNextResponse(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	c.ask("/a", "")
	a := c.begin(1, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
	c.seq[1] += 10
	c.ask("/b", "")
	c.seq[1] -= 10
	a.grow(10 + len(ok(201, "")))
	c.ask("/c", "")
	c.answer(202)
	w.end([]string{"1-2 /a 200", "1-2 /b response-not-seen", "1-2 /c 202"}, "pair/response-not-seen 1")
}
