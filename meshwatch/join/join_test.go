package join

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// world is a recorder that only exists in a test: connections that number their flights as the kernel does.
type world struct {
	t    testing.TB
	j    *Joiner
	lost loss.Set
	now  uint64
	id   uint64
	sock uint64
	out  []string // trees, as text
}

const ms = uint64(time.Millisecond)

func newWorld(t testing.TB) *world {
	w := &world{t: t, now: uint64(time.Hour)}
	cfg := DefaultConfig(head.New(head.Config{}))
	cfg.SelfID = 1 << 22
	cfg.Proxy = func(pid uint32) bool { return pid >= 100 }
	w.j = New(cfg, &w.lost, func(tree *Tree) { w.out = append(w.out, text(tree)) })
	w.j.Tick(w.now)
	return w
}

// text shows a tree: an exchange a word, indented by its depth, with method of the join, target, status or error.
func text(t *Tree) string {
	var b strings.Builder
	for _, x := range t.Exchanges {
		for p := x.Parent; p >= 0; p = t.Exchanges[p].Parent {
			b.WriteByte('>')
		}
		fmt.Fprintf(&b, "%d-%d %s", x.ClientPid(), x.ServerPid(), t.Head(x.Req).Target)
		if x.Resp != nil {
			fmt.Fprintf(&b, " %d", x.Resp.Status)
		}
		if x.Error != "" {
			b.WriteString(" " + x.Error)
		}
		if x.Relay.Method != "" {
			fmt.Fprintf(&b, " (%s %v)", x.Relay.Method, x.Relay.Confidence)
		}
		b.WriteString("; ")
	}
	if t.Unjoined != "" {
		b.WriteString(t.Unjoined)
	}
	return strings.TrimSuffix(strings.TrimSpace(b.String()), ";")
}

// conn is one connection between two processes. Side 0 is the client.
type conn struct {
	w      *world
	pids   [2]uint32
	socks  [2]uint64
	ports  [2]uint16
	seq    [2]uint32
	prev   [2]uint32
	reader uint32 // thread that reads, see by
}

func (w *world) conn(client, server uint32) *conn {
	w.sock += 2
	return &conn{
		w: w, pids: [2]uint32{client, server}, socks: [2]uint64{w.sock, w.sock + 1},
		ports: [2]uint16{uint16(30000 + w.sock), 8080}, seq: [2]uint32{0xffffff00, 0x7fffff80}, // both wrap or turn negative
	}
}

// flight is a message from a side of the connection, complete: sent and read 1 ms later.
func (c *conn) flight(side int, msg string) (bpf.Flight, []byte) {
	w := c.w
	w.id++
	w.now += ms
	f := bpf.Flight{
		Id: w.id, StartNs: w.now, SendNs: w.now + ms/10, RecvNs: w.now + ms/2, RecvEndNs: w.now + ms/2,
		Seq: c.seq[side], End: c.seq[side] + uint32(len(msg)), Ack: c.seq[1-side], Prev: c.prev[side],
		SendSk: c.socks[side], RecvSk: c.socks[1-side], SendPid: c.pids[side], RecvPid: c.pids[1-side],
		SendPort: c.ports[side], SendPeer: c.ports[1-side], RecvPort: c.ports[1-side], RecvPeer: c.ports[side],
	}
	f.RecvUpto, f.HeadLen = f.End, uint16(len(msg))
	c.seq[side], c.prev[side] = f.End, uint32(w.id)
	return f, []byte(msg[:min(len(msg), bpf.HeadBytes)])
}

func (c *conn) say(side int, msg string) {
	f, b := c.flight(side, msg)
	c.w.j.Flight(&f, b)
}

func get(target, id string) string {
	if id == "" {
		return "GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n"
	}
	return "GET " + target + " HTTP/1.1\r\nHost: x\r\nX-Request-ID: " + id + "\r\n\r\n"
}

func (c *conn) ask(target, id string) { c.say(0, get(target, id)) }
func (c *conn) answer(status int)     { c.say(1, ok(status, "")) }
func ok(status int, headers string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\n%sContent-Length: 0\r\n\r\n", status, headers)
}

// end lets everything settle and compares the trees, and the losses as "stage/reason count".
func (w *world) end(want []string, losses ...string) {
	w.t.Helper()
	w.now += uint64(5 * time.Second)
	w.j.Tick(w.now)
	w.now += uint64(time.Minute)
	w.j.Tick(w.now)
	w.j.Tick(w.now + uint64(2*time.Second))
	w.j.Close()
	if diff := cmp.Diff(want, w.out); diff != "" {
		w.t.Errorf("trees (-want +got):\n%s", diff)
	}
	var got []string
	for _, r := range w.lost.Rows() {
		if r.Count > 0 {
			got = append(got, fmt.Sprintf("%s/%s %d", r.Stage, r.Reason, r.Count))
		}
	}
	if diff := cmp.Diff(losses, got); diff != "" {
		w.t.Errorf("losses (-want +got):\n%s", diff)
	}
	if n := len(w.j.groups) + len(w.j.traces) + len(w.j.halves) + len(w.j.holding) + len(w.j.quiet) + w.j.shelves.n; n != 0 {
		w.t.Errorf("%d things left in memory: groups %d, traces %d, sockets %d", n, len(w.j.groups), len(w.j.traces), len(w.j.halves))
	}
}

const id1, id2 = "5a0c8b1e-33a4-4c0e-9d6e-000000000001", "5a0c8b1e-33a4-4c0e-9d6e-000000000002"

// A request through gateway, sidecar, app and the same sidecar again: Envoy's own digit of the id differs on the way.
func TestJourneyThroughSidecars(t *testing.T) {
	w := newWorld(t)
	edge, in, app, out, far := w.conn(1, 100), w.conn(100, 101), w.conn(101, 2), w.conn(2, 101), w.conn(101, 102)
	envoys := strings.Replace(id1, "-4c0e", "-9c0e", 1)
	for range 2 { // twice: keep-alive
		edge.ask("/", "")
		in.ask("/", id1)
		app.ask("/", envoys)
		out.ask("/", envoys) // same target and host as its ancestor: told apart by what is already answered for
		far.ask("/", envoys)
		for _, c := range []*conn{far, out, app, in} {
			c.answer(200)
		}
		edge.say(1, ok(200, "X-Request-ID: "+id1+"\r\n"))
		w.now += 2 * uint64(time.Second)
		w.j.Tick(w.now)
	}
	tree := "1-100 / 200; >100-101 / 200 (response-id 1); >>101-2 / 200 (request-id 1); >>>2-101 / 200 (request-id 1); >>>>101-102 / 200 (request-id 0.99)"
	w.end([]string{tree, tree})
}

// What an app calls by another name is told apart without resting on the proxy's habit.
func TestTargetTellsLegsApart(t *testing.T) {
	w := newWorld(t)
	in, app, out, far := w.conn(1, 101), w.conn(101, 2), w.conn(2, 101), w.conn(101, 102)
	in.ask("/", id1)
	app.ask("/", id1)
	out.ask("/stock", id1)
	far.ask("/stock", id1)
	for _, c := range []*conn{far, out, app, in} {
		c.answer(200)
	}
	w.end([]string{"1-101 / 200; >101-2 / 200 (request-id 1); >>2-101 /stock 200 (request-id 1); >>>101-102 /stock 200 (request-id 1)"})
}

// The leg between app and sidecar is lost: what the sidecar did for it is not taken for a second thing done for the other one.
func TestLostLegIsNotSkipped(t *testing.T) {
	w := newWorld(t)
	in, app, far := w.conn(1, 101), w.conn(101, 2), w.conn(101, 102)
	in.ask("/", id1)
	app.ask("/", id1)
	far.ask("/stock", id1)
	for _, c := range []*conn{far, app, in} {
		c.answer(200)
	}
	w.end([]string{"1-101 / 200; >101-2 / 200 (request-id 1)", "101-102 /stock 200; no-parent"}, "relay/no-parent 1")
}

// A proxy that sends one request to two places at once.
func TestMirror(t *testing.T) {
	w := newWorld(t)
	in, out, mirror := w.conn(1, 101), w.conn(101, 2), w.conn(101, 3)
	in.ask("/", id1)
	out.ask("/", id1)
	mirror.say(0, "GET / HTTP/1.1\r\nHost: x-shadow\r\nX-Request-ID: "+id1+"\r\n\r\n")
	for _, c := range []*conn{mirror, out, in} {
		c.answer(200)
	}
	w.end([]string{"1-101 / 200; >101-2 / 200 (request-id 1); >101-3 / 200 (request-id 0.99)"})
}

func TestFanOut(t *testing.T) {
	w := newWorld(t)
	in, a, b, c := w.conn(1, 2), w.conn(2, 3), w.conn(2, 3), w.conn(2, 4)
	in.ask("/", id1)
	a.ask("/a", id1)
	b.ask("/a", id1) // twice the same at once
	a.answer(200)
	b.answer(503)
	c.ask("/c", id1)
	c.answer(200)
	in.answer(200)
	w.end([]string{"1-2 / 200; >2-3 /a 200 (request-id 1); >2-3 /a 503 (request-id 1); >2-4 /c 200 (request-id 1)"})
}

// One id used by two requests at the same time, from the same place to the same place: nothing tells them apart.
func TestSameIDAtOnceIsNotGuessed(t *testing.T) {
	w := newWorld(t)
	in1, in2, out1, out2 := w.conn(1, 2), w.conn(1, 2), w.conn(2, 3), w.conn(2, 3)
	in1.ask("/", id1)
	in2.ask("/", id1)
	out1.ask("/x", id1)
	out2.ask("/x", id1)
	out1.answer(200)
	out2.answer(200)
	in1.answer(200)
	in2.answer(200)
	w.end([]string{"1-2 / 200", "1-2 / 200", "2-3 /x 200; ambiguous", "2-3 /x 200; ambiguous"}, "relay/ambiguous 2")
}

// One id used again and again, one after the other.
func TestSameIDInTurn(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 2), w.conn(2, 3)
	for range 3 {
		in.ask("/", id1)
		out.ask("/x", id1)
		out.answer(200)
		in.answer(200)
	}
	tree := "1-2 / 200; >2-3 /x 200 (request-id 1)"
	w.end([]string{tree, tree, tree})
}

func TestPipelined(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	c.opens(0)
	c.say(0, get("/1", id1)+get("/2", id2)) // in one write
	a, ab := c.flight(1, ok(201, ""))
	b, bb := c.flight(1, ok(202, ""))
	w.j.Flight(&b, bb) // read out of order
	w.j.Flight(&a, ab)
	w.end([]string{"1-2 /1 201", "1-2 /2 202"})
}

// The third request is written after the first response came in, while the second one is still unanswered.
func TestPipelinedWhileAnswered(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	c.opens(0)
	c.ask("/1", "")
	c.ask("/2", "")
	c.answer(201)
	c.ask("/3", "")
	c.answer(202)
	c.answer(203)
	w.end([]string{"1-2 /1 201", "1-2 /2 202", "1-2 /3 203"})
}

func TestSplitHead(t *testing.T) {
	w := newWorld(t)
	c, out := w.conn(1, 2), w.conn(2, 3)
	whole := get("/split", id1)
	for i, part := range []string{"G", whole[1:7], whole[7:30], whole[30:]} { // the third looks like a method and a space
		f, b := c.flight(0, part)
		if i > 0 {
			f.Flags |= 4 // FLIGHT_CONT
		}
		f.Ack = 0x7fffff80
		w.j.Flight(&f, b)
	}
	out.ask("/2", id1)
	out.answer(200)
	c.answer(200)
	w.end([]string{"1-2 /split 200; >2-3 /2 200 (request-id 1)"})
}

// What is captured of a head may end before it does: what is there counts.
func TestCutHead(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 2), w.conn(2, 3)
	in.say(0, "GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: "+id1+"\r\nCookie: "+strings.Repeat("c", 2000)+"\r\n\r\n")
	out.ask("/x", id1)
	out.answer(200)
	in.answer(200)
	w.end([]string{"1-2 / 200; >2-3 /x 200 (request-id 1)"}, "parse/cut-head 1")
}

// A body is not a message, whatever it begins with; 100 Continue is not the response.
func TestBodies(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	body := "GET /not HTTP/1.1\r\nHost: y\r\n\r\n"
	c.say(0, fmt.Sprintf("POST /up HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)))
	c.say(1, "HTTP/1.1 100 Continue\r\n\r\n")
	c.say(0, body)
	c.answer(200)
	c.ask("/next", "")
	c.say(1, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	c.say(1, "5\r\nHTTP/\r\n0\r\n\r\n")
	c.ask("/head", "")
	c.answer(204)
	w.end([]string{"1-2 /up 200", "1-2 /next 200", "1-2 /head 204"})
}

// A flight that never comes costs its own request, never the pairing of others.
func TestMissingFlights(t *testing.T) {
	t.Run("response", func(t *testing.T) {
		w := newWorld(t)
		c := w.conn(1, 2)
		c.ask("/1", "")
		c.flight(1, ok(201, "")) // lost
		c.ask("/2", "")
		c.answer(202)
		c.ask("/3", "")
		c.answer(203)
		w.now += 500 * ms
		w.j.Tick(w.now)
		w.end([]string{"1-2 /1 response-not-seen", "1-2 /2 202", "1-2 /3 203"}, "leg/missing-flight 1", "pair/response-not-seen 1")
	})
	t.Run("request", func(t *testing.T) {
		w := newWorld(t)
		c := w.conn(1, 2)
		c.ask("/1", "")
		c.answer(201)
		c.flight(0, get("/2", "")) // lost
		c.answer(202)
		c.ask("/3", "")
		c.answer(203)
		w.now += 500 * ms
		w.j.Tick(w.now)
		w.end([]string{"1-2 /1 201", "1-2 /3 203"}, "leg/missing-flight 1", "pair/response-without-request 1")
	})
	t.Run("a response and the next request", func(t *testing.T) { // what follows answers neither of those that were seen
		w := newWorld(t)
		c := w.conn(1, 2)
		c.ask("/1", "")
		c.flight(1, ok(201, ""))   // lost
		c.flight(0, get("/2", "")) // lost
		c.answer(202)
		c.ask("/3", "")
		c.answer(203)
		w.now += 500 * ms
		w.j.Tick(w.now)
		w.end([]string{"1-2 /1 behind-a-gap", "1-2 /3 203"}, "leg/missing-flight 2", "pair/response-not-seen 1", "pair/response-without-request 1")
	})
	t.Run("part of a body", func(t *testing.T) {
		w := newWorld(t)
		c := w.conn(1, 2)
		c.say(0, "POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
		c.flight(0, "67890") // lost
		c.answer(201)
		c.ask("/next", "")
		c.answer(202)
		w.now += 500 * ms
		w.j.Tick(w.now)
		w.end([]string{"1-2 /up 201", "1-2 /next 202"}, "leg/missing-flight 1")
	})
	t.Run("request among pipelined ones", func(t *testing.T) {
		w := newWorld(t)
		c := w.conn(1, 2)
		c.opens(0)
		a, ab := c.flight(0, get("/1", ""))
		c.flight(0, get("/2", "")) // lost
		b, bb := c.flight(0, get("/3", ""))
		w.j.Flight(&a, ab)
		w.j.Flight(&b, bb)
		w.now += 500 * ms
		w.j.Tick(w.now)
		for _, status := range []int{201, 202, 203} {
			c.answer(status)
		}
		w.end([]string{"1-2 /1 201", "1-2 /3 behind-a-gap"},
			"leg/missing-flight 1", "pair/behind-a-gap 1", "pair/response-not-seen 1", "pair/response-without-request 1")
	})
}

// The agent starts in the middle of a connection: a response to what it never saw is no one's.
func TestStartedInTheMiddle(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	c.flight(0, get("/before", ""))
	c.answer(201)
	c.ask("/1", "")
	c.answer(202)
	w.end([]string{"1-2 /1 202"}, "pair/response-without-request 1")
}

func TestClosedAndReset(t *testing.T) {
	for flag, want := range map[uint32]string{bpf.FlagClose: "1-2 /1 closed", bpf.FlagClose | bpf.FlagReset: "1-2 /1 reset"} {
		w := newWorld(t)
		c := w.conn(1, 2)
		c.ask("/1", "")
		for side := range 2 {
			f, _ := c.flight(side, "")
			f.Flags, f.Prev, f.Ack, f.RecvSk = f.Flags|bpf.Flags(flag), 0, 0, 0
			w.j.Flight(&f, nil)
		}
		w.end([]string{want})
	}
}

// A socket's identity is used again by another connection.
func TestSocketReuse(t *testing.T) {
	w := newWorld(t)
	a := w.conn(1, 2)
	a.ask("/1", "")
	b := w.conn(1, 2)
	b.socks = a.socks
	b.ask("/2", "")
	b.answer(200)
	w.end([]string{"1-2 /1 socket-reused", "1-2 /2 200"})
}

// An app may do anything: that it asks for the same is no evidence.
func TestNoIDIsNotJoined(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 2), w.conn(2, 3)
	in.ask("/", "")
	out.ask("/", "")
	out.answer(200)
	in.answer(200)
	w.end([]string{"2-3 / 200; no-id", "1-2 / 200"}, "relay/no-id 1")
}

func TestJoinedByTrace(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 2), w.conn(2, 3)
	trace := func(target, span string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: x\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-" + span + "-01\r\n\r\n"
	}
	in.say(0, trace("/", "00f067aa0ba902b7"))
	out.say(0, trace("/x", "00f067aa0ba902b8"))
	out.answer(200)
	in.answer(200)
	w.end([]string{"1-2 / 200; >2-3 /x 200 (trace 1)"})
}

// Whatever comes, nothing panics, memory is given back and no exchange is given out twice.
func FuzzJoiner(f *testing.F) {
	f.Add([]byte("\x01\x02\x03\x04\x05\x06\x07\x08"))
	f.Fuzz(func(t *testing.T, in []byte) {
		w := newWorld(t)
		conns := []*conn{w.conn(1, 100), w.conn(100, 2), w.conn(2, 3)}
		messages := []string{
			get("/", id1), get("/", id2), get("/a", ""), ok(200, ""), ok(503, "X-Request-ID: "+id1+"\r\n"), "HTTP/1.1 100 Continue\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n", "junk", get("/1", id1) + get("/2", id1), "GET / HT", "TP/1.1\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n",
		}
		var again []bpf.Flight
		for i := 0; i+2 < len(in); i += 3 {
			c := conns[int(in[i])%len(conns)]
			f, b := c.flight(int(in[i]>>4)&1, messages[int(in[i+1])%len(messages)])
			switch in[i+2] % 16 {
			case 0:
				continue // lost
			case 1:
				f.Flags |= 4
			case 2:
				f.Flags |= bpf.Flags(bpf.FlagClose)
			case 3:
				f.Seq, f.Ack = f.Seq+uint32(in[i]), f.Ack-uint32(in[i+1])
			case 4:
				f.RecvSk, f.RecvPid, f.RecvNs = 0, 0, 0
			case 5:
				f.SendPid, f.SendPort = 0, 1
			case 6:
				w.now += uint64(in[i]) * 10 * ms
				w.j.Tick(w.now)
			case 7:
				f.Flags |= bpf.Flags(bpf.FlagSYN)
			case 8, 9: // those that were to be seen again go on, and are read
				for k := range again {
					again[k].End += uint32(in[i+1]) << 4
					again[k].RecvUpto += uint32(in[i]) << 4
					again[k].RecvNs = w.now
				}
				again = slices.DeleteFunc(again, func(f bpf.Flight) bool { return w.j.Update(&f) == Done })
			}
			if w.j.Flight(&f, b) != Done {
				again = append(again, f)
			}
		}
		w.now += uint64(10 * time.Minute)
		w.j.Tick(w.now)
		w.j.Close()
		for _, p := range w.j.pages.all {
			if p.live != 0 {
				t.Errorf("%d flights are left on a page", p.live)
			}
		}
		if n := len(w.j.groups) + len(w.j.traces) + len(w.j.halves) + len(w.j.holding) + len(w.j.quiet) + w.j.shelves.n; n != 0 {
			for _, g := range w.j.groups {
				t.Logf("group open %d queued %v exchanges %d", g.open, g.queued, len(g.xs))
				for _, x := range g.xs {
					t.Logf("  %s done %v", w.j.head(x.Req).Target, x.done)
				}
			}
			t.Errorf("%d things left: %d groups, %d traces, %d halves, %d holding", n, len(w.j.groups), len(w.j.traces), len(w.j.halves), len(w.j.holding))
		}
	})
}

// BenchmarkJoin is the cost of one request over six legs, parsing and joining: 12 flights.
func BenchmarkJoin(b *testing.B) {
	w := &world{now: uint64(time.Hour)}
	cfg := DefaultConfig(head.New(head.Config{}))
	cfg.SelfID = 1 << 22
	cfg.Proxy = func(pid uint32) bool { return pid >= 100 }
	trees := 0
	w.j = New(cfg, &w.lost, func(t *Tree) { trees += len(t.Exchanges) })
	var legs []*conn
	for _, p := range [][2]uint32{{1, 100}, {100, 101}, {101, 2}, {2, 101}, {101, 102}, {102, 3}} {
		legs = append(legs, w.conn(p[0], p[1]))
	}
	b.ReportAllocs()
	for i := range b.N {
		b.StopTimer()
		id := fmt.Sprintf("5a0c8b1e-33a4-4c0e-9d6e-%012d", i)
		var flights []bpf.Flight
		var heads [][]byte
		for k, c := range legs {
			f, h := c.flight(0, get([]string{"/", "/", "/", "/b", "/b", "/b"}[k], id))
			flights, heads = append(flights, f), append(heads, h)
		}
		for k := len(legs) - 1; k >= 0; k-- {
			f, h := legs[k].flight(1, ok(200, ""))
			flights, heads = append(flights, f), append(heads, h)
		}
		b.StartTimer()
		for k := range flights {
			w.j.Flight(&flights[k], heads[k])
		}
		w.j.Tick(w.now)
	}
	if trees < 6*(b.N-60) {
		b.Fatalf("%d exchanges given out for %d requests", trees, b.N)
	}
}

// A response is read when its sender's socket is closed already, and another connection's: it still answers.
func TestResponseReadLate(t *testing.T) {
	for _, closes := range []bool{false, true} {
		w := newWorld(t)
		old, c := w.conn(1, 2), w.conn(3, 2)
		c.socks[1] = old.socks[1]
		old.ask("/1", "")
		late, lateHead := old.flight(1, ok(200, ""))
		if closes {
			gone, _ := old.flight(1, "")
			gone.Flags, gone.RecvSk = bpf.Flags(bpf.FlagClose), 0
			w.j.Flight(&gone, nil)
		}
		c.ask("/2", "")
		w.j.Flight(&late, lateHead)
		w.now += 300 * ms
		w.j.Tick(w.now)
		c.answer(200)
		w.end([]string{"1-2 /1 200", "3-2 /2 200"})
	}
}

// A flight that nobody read is given out when its connection is long closed, and its socket another connection's.
func TestUnreadFlightOfOldConnection(t *testing.T) {
	w := newWorld(t)
	old, c := w.conn(1, 2), w.conn(1, 2)
	c.socks = old.socks
	late, lateHead := old.flight(1, ok(200, ""))
	late.RecvSk, late.RecvNs, late.RecvEndNs, late.RecvUpto, late.RecvPort, late.RecvPeer = 0, 0, 0, late.Seq, 0, 0
	c.ask("/1", "")
	w.j.Flight(&late, lateHead)
	gone := late
	gone.Flags = 256 // bpf.FlagClose
	w.j.Flight(&gone, nil)
	c.answer(200)
	w.end([]string{"1-2 /1 200"}, "leg/stale-flight 1")
}
