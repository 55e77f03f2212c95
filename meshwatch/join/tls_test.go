package join

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshwatch/meshwatch/bpf"
)

const (
	opaqueFlag = bpf.Flags(bpf.FlagOpaque)
	textFlag   = bpf.Flags(bpf.FlagText)
	overhead   = 22 // of a TLS 1.3 record
)

// record is a write of a TLS library: on the wire it is longer. plain "" stands for what is no plaintext, such as a handshake.
func (c *conn) record(side int, plain string) (bpf.Flight, []byte) {
	f, _ := c.flight(side, strings.Repeat("x", len(plain)+overhead))
	f.Flags |= opaqueFlag
	if plain == "" {
		return f, []byte{22, 3, 3}
	}
	f.Flags |= plainFlag
	f.PlainLen = uint32(len(plain))
	return f, []byte(plain[:min(len(plain), bpf.HeadBytes)])
}

func (c *conn) encrypt(side int, plain string) {
	f, b := c.record(side, plain)
	c.w.j.Flight(&f, b)
}

// handshake is what a connection with TLS begins with.
func (c *conn) handshake() {
	for _, side := range []int{0, 1, 0, 1} {
		c.encrypt(side, "")
	}
}

const tlsID = "11111111-1111-4111-8111-111111111111"

// Two legs, the second one with TLS.
func TestTLSLeg(t *testing.T) {
	w := newWorld(t)
	in, out := w.conn(1, 100), w.conn(100, 101)
	in.ask("/a", tlsID)
	out.handshake()
	out.encrypt(0, get("/a", tlsID))
	out.encrypt(1, "HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n12345")
	in.answer(200)
	w.end([]string{"1-100 /a 200; >100-101 /a 200 (request-id 1)"})
}

// Lengths are counted in plaintext: bodies over several writes, several records of one write, pipelined heads in one record.
func TestTLSBodies(t *testing.T) {
	for name, answers := range map[string][]string{
		"in one write":         {ok(200, "") + ok(200, "")},
		"a body in two writes": {"HTTP/1.1 200 X\r\nContent-Length: 40\r\n\r\n", strings.Repeat("HTTP/1.1 500 no\r\n", 3)[:40], ok(200, "")},
		"many records":         {"HTTP/1.1 200 X\r\nContent-Length: 40000\r\n\r\n" + strings.Repeat("b", 40000), "", "", ok(200, "")},
		"chunked": {"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "2\r\nab\r\n", "0\r\n\r\n",
			ok(200, "")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.conn(1, 2)
			c.opens(0)
			c.handshake()
			c.encrypt(0, get("/a", "")+get("/b", ""))
			for _, a := range answers {
				c.encrypt(1, a)
			}
			c.encrypt(1, "")  // an alert
			w.now += 500 * ms // less than quietBody
			w.j.Tick(w.now)
			if got := fmt.Sprint(w.out); got != "[1-2 /a 200 1-2 /b 200]" {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Plaintext that was not seen makes a body look shorter: what begins like a response after the client went on is one.
func TestTLSBodyWithALoss(t *testing.T) {
	w := newWorld(t)
	c := w.conn(1, 2)
	c.encrypt(0, get("/a", ""))
	c.encrypt(1, "HTTP/1.1 201 X\r\nContent-Length: 100\r\n\r\n"+strings.Repeat("b", 50))
	c.encrypt(1, "") // should have been 50 bytes more
	c.encrypt(0, get("/b", ""))
	c.encrypt(1, ok(202, ""))
	c.encrypt(0, get("/c", ""))
	c.encrypt(1, ok(203, ""))
	w.end([]string{"1-2 /a 201", "1-2 /b 202", "1-2 /c 203"})
}

// reads gives plaintext of a flight as a record of its own.
func (c *conn) reads(of *bpf.Flight, plain string) {
	w := c.w
	w.id++
	f := bpf.Flight{
		Id: w.id, Prev: uint32(of.Id), SendSk: of.SendSk, Seq: of.Seq, End: of.Seq, PlainLen: uint32(len(plain)),
		StartNs: w.now, SendNs: w.now, RecvNs: w.now, Flags: textFlag | opaqueFlag | plainFlag,
	}
	w.j.Flight(&f, []byte(plain))
}

// awaited is a flight of which the plaintext comes later.
func (c *conn) awaited(side, size int) *bpf.Flight {
	f, _ := c.flight(side, strings.Repeat("x", size+overhead))
	f.Flags |= opaqueFlag | awaitsFlag
	c.w.j.Flight(&f, []byte{23, 3, 3})
	return &f
}

// Plaintext that only the reader's probes see.
func TestTLSReads(t *testing.T) {
	w := openWorld(t)
	c := w.conn(1, 2)
	c.handshake()
	for _, target := range []string{"/a", "/b"} {
		ask := get(target, "")
		ticket := c.awaited(1, 200) // of which no plaintext ever comes
		f := c.awaited(0, len(ask))
		c.reads(f, ask)
		a := c.awaited(1, 100)
		c.reads(a, "HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\n"+strings.Repeat("b", 20))
		c.reads(a, strings.Repeat("HTTP/1.1 ", 4)[:30])
		_ = ticket
	}
	w.end([]string{"1-2 /a 200", "1-2 /b 200"})
}

// Without it the flight is opaque after a while, and nothing that follows waits for longer.
func TestTLSReadsThatNeverCome(t *testing.T) {
	w := openWorld(t)
	c := w.conn(1, 2)
	f := c.awaited(0, 100)
	w.now += 300 * ms
	w.j.Tick(w.now)
	c.reads(f, get("/late", ""))
	a := c.awaited(0, 100)
	c.reads(a, get("/b", ""))
	c.encrypt(1, ok(200, ""))
	w.end([]string{"1-2 /b 200"}, "leg/plaintext-late 1")
}

// A process that answers in plaintext, to a program of which none is seen, is named once for each connection.
func TestTLSOneWay(t *testing.T) {
	w := openWorld(t)
	var named []uint32
	w.j.cfg.Unprobed = func(pid uint32) { named = append(named, pid) }
	for _, c := range []*conn{w.conn(1, 2), w.conn(3, 4)} {
		c.handshake()
		for range 8 {
			c.encrypt(0, "")
			if c.pids[1] == 2 {
				c.encrypt(1, ok(200, ""))
			} else {
				c.encrypt(1, "")
			}
		}
	}
	if fmt.Sprint(named) != "[2]" {
		t.Errorf("named %v, want 2 alone", named)
	}
}
