package join

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/meshwatch/meshwatch/bpf"
)

// talk is one end of an HTTP/2 connection: an independent encoder, whose frames become flights when they are sent.
type talk struct {
	c    *conn
	side int
	tls  bool
	bytes.Buffer
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func (c *conn) talks(tls bool) (client, server *talk) {
	var out [2]*talk
	for i := range out {
		t := &talk{c: c, side: i, tls: tls}
		t.Framer, t.enc = http2.NewFramer(&t.Buffer, nil), hpack.NewEncoder(&t.block)
		out[i] = t
	}
	out[0].WriteString(http2.ClientPreface)
	out[0].settings()
	out[1].settings()
	return out[0], out[1]
}

func (t *talk) settings() {
	_ = t.WriteSettings() //nolint:errcheck // to memory
	t.send()
}

func (t *talk) head(stream uint32, end bool, fields ...string) {
	t.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = t.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) //nolint:errcheck // to memory
	}
	_ = t.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: t.block.Bytes(), EndStream: end, EndHeaders: true}) //nolint:errcheck // to memory
}

func (t *talk) ask(stream uint32, target, id string) {
	t.head(stream, true, ":method", "GET", ":scheme", "http", ":path", target, ":authority", "x", "x-request-id", id)
}

func (t *talk) answer(stream uint32, status int) {
	t.head(stream, true, ":status", fmt.Sprint(status), "date", "today")
}

// answers is a flight with an answer to each.
func (t *talk) answers(streams ...uint32) {
	for _, stream := range streams {
		t.answer(stream, 200)
	}
	t.send()
}

// message is a gRPC message of n bytes.
func (t *talk) message(stream uint32, n int) {
	_ = t.WriteData(stream, false, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)), make([]byte, n)...)) //nolint:errcheck,gosec // small, to memory
}

// send makes a flight of what was written.
func (t *talk) send() {
	f, b := t.flight()
	t.c.w.j.Flight(&f, b)
}

func (t *talk) flight() (bpf.Flight, []byte) {
	msg := t.Buffer.String()
	t.Buffer.Reset()
	var f bpf.Flight
	if t.tls {
		f, _ = t.c.flight(t.side, msg+strings.Repeat("x", overhead))
		f.Flags, f.PlainLen = opaqueFlag|plainFlag, uint32(len(msg))
	} else {
		f, _ = t.c.flight(t.side, msg)
	}
	b := []byte(msg[:min(len(msg), bpf.FramesBytes)])
	f.HeadLen = uint16(len(b))
	return f, b
}

func uuid(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-000000000000", n) }

// Many streams of one connection, between an inbound and an outbound leg of HTTP/1 each: every one is joined to its own.
func TestHTTP2Streams(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %v", tls), func(t *testing.T) {
			w := newWorld(t)
			client, server := w.conn(100, 101).talks(tls)
			var ins, outs []*conn
			var want []string
			const n = 100
			for i := range n {
				ins, outs = append(ins, w.conn(1, 100)), append(outs, w.conn(101, 2))
				ins[i].ask(fmt.Sprintf("/%d", i), uuid(i))
				want = append(want, fmt.Sprintf("1-100 /%d 200; >100-101 /%d 200 (request-id 1); >>101-2 /%d 200 (request-id 1)", i, i, i))
			}
			r := rand.New(rand.NewPCG(1, 2))
			for _, i := range r.Perm(n) {
				client.ask(uint32(2*i+1), fmt.Sprintf("/%d", i), uuid(i))
				if r.IntN(3) == 0 {
					client.send()
				}
			}
			client.send()
			for _, i := range r.Perm(n) {
				outs[i].ask(fmt.Sprintf("/%d", i), uuid(i))
			}
			for _, i := range r.Perm(n) {
				outs[i].answer(200)
			}
			for _, i := range r.Perm(n) {
				server.answer(uint32(2*i+1), 200)
				if r.IntN(3) == 0 {
					server.send()
				}
			}
			server.send()
			for i := range ins {
				ins[i].answer(200)
			}
			slices.Sort(want)
			w.settle()
			slices.Sort(w.out)
			w.end(want)
		})
	}
}

// settle lets everything be given out.
func (w *world) settle() {
	w.now += 5000 * ms
	w.j.Tick(w.now)
}

// Flights that are lost make journeys fall apart, never wrong.
func TestHTTP2Losses(t *testing.T) {
	whole := 0
	for seed := range uint64(200) {
		w := newWorld(t)
		w.j.cfg.Expire = 100 * 1e6
		r := rand.New(rand.NewPCG(seed, 3))
		tls := seed%2 == 0
		client, server := w.conn(1, 2).talks(tls)
		say := func(x *talk) {
			f, b := x.flight()
			switch r.IntN(20) {
			case 0:
			case 1: // plaintext that was not seen
				if tls {
					f.Flags &^= plainFlag
					f.PlainLen, b = 0, nil
				}
				w.j.Flight(&f, b)
			case 2:
				b = b[:r.IntN(len(b))]
				f.HeadLen = uint16(len(b))
				w.j.Flight(&f, b)
			default:
				w.j.Flight(&f, b)
			}
			w.j.Tick(w.now)
		}
		const n = 60
		for i := range n {
			client.ask(uint32(2*i+1), fmt.Sprintf("/%d", i), uuid(i))
			if r.IntN(2) == 0 {
				say(client)
			}
			if i > 5 {
				k := i - 5
				server.answer(uint32(2*k+1), 200+k)
				if r.IntN(2) == 0 {
					say(server)
				}
			}
		}
		w.settle()
		w.settle()
		w.j.Close()
		for _, out := range w.out {
			var target, status int
			if n, _ := fmt.Sscanf(out, "1-2 /%d %d", &target, &status); n == 2 { //nolint:errcheck // others have no response, or no target
				whole++
				if status != 200+target {
					t.Fatalf("seed %d: %s", seed, out)
				}
			}
		}
	}
	if whole < 2000 {
		t.Errorf("only %d whole exchanges: the test loses too much", whole)
	}
}

// halfAnswered is a call of stream 1 whose response has begun.
func halfAnswered(t *testing.T) (w *world, c *conn, client, server *talk) {
	w = newWorld(t)
	c = w.conn(1, 2)
	client, server = c.talks(false)
	client.ask(1, "/a", uuid(1))
	client.send()
	server.head(1, false, ":status", "200")
	server.send()
	return w, c, client, server
}

// Bytes are skipped beyond the frame under way: the end of a stream may have been among them, so that it is not waited for without end.
func TestHTTP2EndNotSeen(t *testing.T) {
	w, c, client, server := halfAnswered(t)
	c.seq[1] += 100 // no flight has these: a frame, and the end
	client.ask(3, "/b", uuid(2))
	client.send()
	server.answer(3, 204)
	server.send()
	w.settle()
	w.now += uint64(w.j.cfg.Expire)
	w.settle()
	w.end([]string{"1-2 /b 204", "1-2 /a 200 response-cut"}, "parse/frames-missing 1")
}

// A record that a reader takes in several parts is no gap: what was in the table stays there.
func TestHTTP2ReadInParts(t *testing.T) {
	w := openWorld(t)
	c := w.conn(1, 2)
	client, server := c.talks(true)
	for i := range 3 {
		client.ask(uint32(2*i+1), "/a", uuid(1)) // from the second on all of it is in the table
		f, b := client.flight()
		f.Flags |= awaitsFlag
		f.Flags &^= plainFlag
		f.PlainLen = 0
		w.j.Flight(&f, nil)
		for _, part := range [][]byte{b[:9], b[9:10], b[10:]} {
			c.reads(&f, string(part))
		}
	}
	for i := range 3 {
		server.answer(uint32(2*i+1), 200)
	}
	server.send()
	w.end([]string{"1-2 /a 200", "1-2 /a 200", "1-2 /a 200"})
}

// What a reader took in several parts has one record on the wire. A record behind it of which no plaintext was seen is not taken for more
// of it: what it added to the table is not known, and no later head has its fields.
func TestHTTP2RecordBehindParts(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	client, _ := c.talks(true)
	client.ask(1, "/a", uuid(1))
	_ = client.WriteData(1, false, make([]byte, 3000)) //nolint:errcheck // to memory
	f, b := client.flight()
	part := f
	part.Flags |= awaitsFlag
	part.PlainLen = 500
	w.j.Flight(&part, b[:500])
	w.id++
	w.j.Flight(&bpf.Flight{Id: w.id, Prev: uint32(f.Id), Flags: textFlag | plainFlag, SendSk: f.SendSk, SendPid: 1, RecvPid: 2, PlainLen: f.PlainLen - 500, RecvNs: w.now}, b[500:])
	client.ask(3, "/b", uuid(2))
	f, _ = client.flight()
	f.Flags &^= plainFlag
	f.PlainLen = 0
	w.j.Flight(&f, nil)
	client.ask(5, "/c", uuid(3))
	client.ask(7, "/b", uuid(2)) // all of it in the table
	client.send()
	var got []string
	for _, call := range w.j.halves[f.SendSk].leg.multi.calls {
		h := w.j.head(call.x.Req)
		got = append(got, fmt.Sprintf("%d %s %s", call.x.Stream.ID, h.Target, h.RequestID))
	}
	slices.Sort(got)
	if want := fmt.Sprintf("[1 /a %s 5 /c  7 ? ]", uuid(1)); fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// What a record is longer than its plaintext is told from what is missing: a second record with the last bytes of a write, several writes
// in one flight whose plaintext is known, and one whose plaintext is not.
func TestHTTP2RecordsOfAFlight(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(f *bpf.Flight) []bpf.Flight // what the write becomes
		lost  []string
	}{
		"one record": {func(f *bpf.Flight) []bpf.Flight { return []bpf.Flight{*f} }, nil},
		"a second one with a few bytes": {func(f *bpf.Flight) []bpf.Flight {
			rest := *f
			rest.Id, rest.Prev, rest.Flags, rest.PlainLen, rest.HeadLen = f.Id+1, uint32(f.Id), opaqueFlag, 0, 0
			f.End -= 9 // of plaintext
			rest.Seq, rest.End = f.End, f.End+9+overhead
			return []bpf.Flight{*f, rest}
		}, nil},
		"three writes": {func(f *bpf.Flight) []bpf.Flight {
			f.Flags |= bpf.Flags(bpf.FlagJoined)
			f.HeadTotal, f.End = 3, f.End+2*overhead
			return []bpf.Flight{*f}
		}, nil},
		"another write, unknown": {func(f *bpf.Flight) []bpf.Flight {
			f.End += overhead + 9
			return []bpf.Flight{*f}
		}, []string{"parse/frames-missing 1", "parse/unknown-field 2"}},
		"three writes and one unknown": {func(f *bpf.Flight) []bpf.Flight {
			f.Flags |= bpf.Flags(bpf.FlagJoined)
			f.HeadTotal, f.End = 3, f.End+3*overhead+9
			return []bpf.Flight{*f}
		}, []string{"parse/frames-missing 1", "parse/unknown-field 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.conn(1, 2)
			client, server := c.talks(true)
			client.ask(1, "/a", uuid(1))
			client.send()
			client.ask(3, "/b", uuid(2))
			_ = client.WriteData(3, false, make([]byte, 16000)) //nolint:errcheck // to memory
			f, b := client.flight()
			for _, part := range tt.spoil(&f) {
				w.j.Flight(&part, b)
				b = nil
				c.seq[0], w.id, c.prev[0] = part.End, max(w.id, part.Id), uint32(part.Id)
			}
			client.ask(5, "/c", uuid(3))
			client.send()
			server.answers(1, 3, 5)
			w.end([]string{"1-2 /a 200", "1-2 /b 200", "1-2 /c 200"}, tt.lost...)
		})
	}
}

// A record that no flight has, though none is missing: two writes that went out as one.
func TestHTTP2RecordWithoutFlight(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	client, server := c.talks(true)
	client.ask(1, "/a", uuid(1))
	client.send()
	client.ask(3, "/b", uuid(2))
	c.seq[0] += uint32(client.Len() + overhead)
	client.Reset()
	client.ask(5, "/b", uuid(2)) // all of it in a table that nobody saw being filled
	client.send()
	server.answers(1, 5)
	w.settle()
	w.end([]string{"1-2 /a 200", "1-2 ? 200"}, "parse/frames-missing 1", "parse/unknown-field 3")
}

// A gRPC call is one exchange however many messages it has, with the status of its trailers.
func TestGRPC(t *testing.T) {
	w := newWorld(t)
	client, server := w.conn(1, 2).talks(false)
	var got []string
	w.j.emit = func(tree *Tree) {
		for _, x := range tree.Exchanges {
			s := x.Stream
			got = append(got, fmt.Sprintf("%s %d grpc=%v %d: %d, %d, exact %v %s", tree.Head(x.Req).Target, x.Resp.Status, s.GRPC, s.Status, s.Sent, s.Received, s.Exact, x.Error))
		}
	}
	client.head(1, false, ":method", "POST", ":path", "/s/chat", "content-type", "application/grpc", "x-request-id", uuid(1))
	client.send()
	server.head(1, false, ":status", "200", "content-type", "application/grpc")
	for i := range 10 {
		client.message(1, 100*i)
		client.send()
		server.message(1, 10)
		server.message(1, 3000)
		server.send()
		w.now += 20_000 * ms // longer than Expire in all
		w.j.Tick(w.now)
	}
	_ = client.WriteData(1, true, nil) //nolint:errcheck // to memory
	client.send()
	server.head(1, true, "grpc-status", "0")
	server.send()
	client.head(3, true, ":method", "POST", ":path", "/s/no", "content-type", "application/grpc", "x-request-id", uuid(2))
	client.send()
	server.head(3, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "12") // trailers only
	server.send()
	w.settle()
	want := "[/s/chat 200 grpc=true 0: 10, 20, exact true  /s/no 200 grpc=true 12: 0, 0, exact true ]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

// A client that wants no more of a call may be seen before the end that it has read: the call waits for that, but not for ever.
func TestHTTP2Enough(t *testing.T) {
	for _, ends := range []bool{true, false} {
		w, c, client, server := halfAnswered(t)
		_ = client.WriteRSTStream(1, http2.ErrCodeNo) //nolint:errcheck // to memory
		client.send()
		if calls := w.j.halves[c.socks[0]].leg.multi.calls; len(calls) != 1 {
			t.Fatalf("%d calls under way, want the one whose end has not come", len(calls))
		}
		if ends {
			server.head(1, true, "grpc-status", "0")
			server.send()
		} else {
			w.now += uint64(w.j.cfg.Hold) + earlyBy + uint64(time.Second)
			w.j.Tick(w.now)
		}
		w.settle()
		w.end([]string{"1-2 /a 200"})
	}
}

// What ends streams early, and what ends HTTP/2.
func TestHTTP2Ends(t *testing.T) {
	w := newWorld(t)
	client, server := w.conn(1, 2).talks(false)
	for i := range 5 {
		client.ask(uint32(2*i+1), fmt.Sprintf("/%d", i), uuid(i))
	}
	client.send()
	_ = client.WriteRSTStream(1, http2.ErrCodeCancel) //nolint:errcheck // to memory
	client.send()
	server.head(3, false, ":status", "200")
	_ = server.WriteRSTStream(3, http2.ErrCodeNo)   //nolint:errcheck // to memory
	_ = server.WriteGoAway(7, http2.ErrCodeNo, nil) //nolint:errcheck // to memory
	server.head(5, false, ":status", "103", "link", "x")
	server.send()
	server.answer(5, 204)
	server.send()
	client.head(11, false, ":method", "CONNECT", ":authority", "10.0.0.1:80") // HBONE
	client.send()
	server.head(11, false, ":status", "200")
	server.send()
	w.settle()
	slices.Sort(w.out)
	w.end([]string{"1-2 /0 stream-reset", "1-2 /1 200", "1-2 /2 204", "1-2 /4 refused", "1-2 10.0.0.1:80 200", "1-2 /3 no-response"}, "pair/no-response 1")
}

// h2c by Upgrade: the response is stream 1's.
func TestH2C(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	c.say(0, "GET /up HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	c.say(1, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	client, server := c.talks(false)
	server.answer(1, 201)
	server.send()
	client.ask(3, "/next", uuid(1))
	client.send()
	server.answer(3, 202)
	server.send()
	w.settle()
	w.end([]string{"1-2 /up 201", "1-2 /next 202"})
}

// A connection that is older than the agent: the id's name is in a table that nobody saw being filled, until its value turns out to be
// the id of another leg.
func TestHTTP2OldConnection(t *testing.T) {
	w := newWorld(t)
	client, server := w.conn(100, 101).talks(true)
	client.ask(1, "/", uuid(99))
	client.flight() // before the agent began
	server.answer(1, 200)
	server.flight()
	w.j = New(w.j.cfg, &w.lost, w.j.emit)
	w.j.Tick(w.now)
	in := w.conn(1, 100)
	for i := range 3 {
		in.ask("/", uuid(i))
		client.ask(uint32(2*i+3), "/", uuid(i))
		client.send()
		server.answer(uint32(2*i+3), 200)
		server.send()
		in.answer(200)
		w.settle()
	}
	tree := "1-100 / 200; >100-101 / 200 (request-id 1)"
	if fmt.Sprint(w.out) != fmt.Sprint([]string{tree, tree, tree}) {
		t.Errorf("%q", w.out)
	}
}

func BenchmarkHTTP2(b *testing.B) {
	w := newWorld(&testing.T{})
	w.j.emit = func(*Tree) {}
	client, server := w.conn(1, 2).talks(true)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		client.ask(uint32(2*i+1), "/", uuid(i))
		client.send()
		server.answer(uint32(2*i+1), 200)
		server.send()
		if i++; i%100 == 0 {
			w.j.Tick(w.now)
		}
	}
}
