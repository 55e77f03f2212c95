package join

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/h2"
	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// multiplex is a leg that speaks HTTP/2. Streams are paired by their id: nothing that is missing can make a wrong pair.
type multiplex struct {
	j     *Joiner
	l     *Leg
	sides [2]side
	calls map[uint32]*call // by stream, until its response has ended

	// of the flight that is read
	f   *bpf.Flight
	dir uint8
}

// side is one direction.
type side struct {
	dec     *h2.Decoder
	fed     bool
	next    uint32 // in clear text: sequence after what was fed
	records        // with TLS
	latest  bpf.Flight
	lost    h2.Stats
}

// call is a stream.
type call struct {
	x      *Exchange // nil: its request has not come yet
	early  *Message  // its response, until then
	ended  bool      // early is all of it
	moved  uint64    // when something of it was last seen
	unsure bool      // its end may have been missed
	enough bool      // its client wants no more of it: the end may still be on its way to us
}

// Stream is what HTTP/2 has of an exchange. The zero value is that of HTTP/1.
type Stream struct {
	ID             uint32 // 0: HTTP/1
	GRPC           bool
	Status         int32  // grpc-status, h2.NoStatus: none seen
	Sent, Received uint32 // gRPC messages of the request and of the response
	Exact          bool   // that is all of them
	counted        bool   // Sent is
}

// multiplexed makes a leg one of HTTP/2.
func (j *Joiner) multiplexed(l *Leg) *multiplex {
	x := &multiplex{j: j, l: l, calls: map[uint32]*call{}}
	for i := range x.sides {
		x.sides[i].dec = h2.New(x)
	}
	l.multi = x
	return x
}

// speaksHTTP2 says whether a flight begins HTTP/2 on a leg that has spoken nothing else.
func (l *Leg) speaksHTTP2(b []byte) bool {
	return len(l.queue) == 0 && len(l.early) == 0 && !l.hasAnswered && h2.Begins(b)
}

// opaque takes a TLS record of which no plaintext was seen.
func (x *multiplex) opaque(d uint8, f *bpf.Flight) {
	x.sides[d].opaque(f)
	x.sides[d].latest = *f
}

// frames reads a flight of a leg that speaks HTTP/2.
func (x *multiplex) frames(d uint8, f *bpf.Flight, b []byte) {
	s := &x.sides[d]
	x.f, x.dir = f, d
	if isPlain(f) && f.End != f.Seq { // what a reader took in parts has its record counted with the first
		s.follows(f)
		s.latest = *f
	}
	defer x.lose(s)
	if st := &x.l.dirs[d]; st.gapped || s.missing {
		st.gapped, s.missing = false, false
		s.dec.Gap()
	}
	x.feed(s, f, b)
}

// feed gives a flight's bytes to its side's decoder.
func (x *multiplex) feed(s *side, f *bpf.Flight, b []byte) {
	if isPlain(f) {
		s.dec.Feed(b, int(f.PlainLen))
		s.text(f)
		return
	}
	end := f.Seq + uint32(len(b)) //nolint:gosec // what was captured and not overwritten meanwhile
	if s.fed {
		switch skip := int32(f.Seq - s.next); { //nolint:gosec // a signed distance
		case skip > 0:
			s.dec.Skip(int(skip))
		case int(-skip) >= len(b):
			return
		default:
			b = b[-skip:]
		}
	}
	s.dec.Feed(b, len(b))
	s.fed, s.next = true, end
}

// lose counts what the decoder could not read of the latest flight. Ends of streams may be among it.
func (x *multiplex) lose(s *side) {
	now, was := s.dec.Stats, s.lost
	s.lost = now
	if now == was {
		return
	}
	lost := &x.j.lost
	lost.frames.Add(now.Gaps - was.Gaps)
	lost.blocks.Add(now.Blocks - was.Blocks)
	lost.unknown.Add(now.Unknown - was.Unknown)
	for _, c := range x.calls {
		c.unsure = true
	}
}

// Head implements h2.Sink.
func (x *multiplex) Head(h h2.Head) {
	m := x.j.newMessage(x.l, x.dir, x.f, h.Text)
	switch {
	case !m.isHTTP() || m.kind == head.KindNone:
		x.j.lost.malformed.Add(1)
		x.j.freeMessage(m)
	case m.kind == head.Request:
		x.request(m, h)
	default:
		x.response(m, h)
	}
}

// request opens an exchange.
func (x *multiplex) request(m *Message, h h2.Head) {
	j := x.j
	c := x.calls[h.Stream]
	if c != nil && c.x != nil { // ids are used once: another connection's end was not seen
		x.give(h.Stream, c, "no-response")
		c = nil
	}
	if c == nil {
		c = &call{}
		x.calls[h.Stream] = c
	}
	c.moved = j.now
	e := j.newExchange(m)
	e.Stream = Stream{ID: h.Stream, GRPC: h.GRPC, Status: h2.NoStatus}
	if string(j.head(m).Target) == "?" { // unknown: like no other
		var id [4]byte
		binary.LittleEndian.PutUint32(id[:], h.Stream)
		e.target ^= maphash.Bytes(j.seed, id[:])
		e.vague = true
	}
	if host := j.head(m).Host; len(host) == 0 || string(host) == "?" {
		e.vague = true
	}
	c.x = e
	j.Stats.Requests++
	if pid := m.RecvPid; pid != 0 {
		j.servers[pid] = j.now
	}
	e.Connect = x.l.opened(m)
	j.measure(m)
	x.recognise(e, h.Unnamed)
	j.identify(e)
	j.shelve(e)
	if r := c.early; r != nil {
		c.early = nil
		x.answer(c, r)
		if c.ended {
			x.give(h.Stream, c, "")
		}
	}
}

// recognise looks for the request's id among fields whose name is unknown, on a connection that is older than the agent: a value that is
// the id of another exchange is none but that. Later heads of the connection then have the name.
func (x *multiplex) recognise(e *Exchange, unnamed []h2.Unnamed) {
	if e.Req.id != idAbsent {
		return
	}
	for _, u := range unnamed {
		id, ok := head.ParseID(u.Value)
		if !ok || len(u.Value) != uuidLen {
			continue
		}
		if g := x.j.groups[id]; g != nil && len(g.xs) < maxGroup {
			e.id, e.hasID = id, true
			x.sides[x.dir].dec.Learn(u, x.j.cfg.Parser.RequestIDHeader())
			return
		}
	}
}

const uuidLen = 36

// response answers an exchange, or is kept for one whose request is late.
func (x *multiplex) response(m *Message, h h2.Head) {
	j := x.j
	j.Stats.Responses++
	if j.head(m).Interim {
		j.freeMessage(m)
		return
	}
	c := x.calls[h.Stream]
	switch {
	case c == nil:
		x.calls[h.Stream] = &call{early: m, moved: j.now}
		return
	case c.x == nil || c.x.Client == m.dir || c.x.Resp != nil:
		j.unpaired(m)
		j.freeMessage(m)
		return
	}
	c.moved = j.now
	if h.GRPCStatus != h2.NoStatus {
		c.x.Stream.Status = int32(h.GRPCStatus) //nolint:gosec // below 2^16
	}
	x.answer(c, m)
	if e := c.x; e.method == methodConnect && m.Status/100 == 2 {
		x.give(h.Stream, c, "") // what follows is the tunnel's
	}
}

func (x *multiplex) answer(c *call, m *Message) {
	c.x.Resp = m
	m.exchange = c.x
	x.j.measure(m)
	x.j.identify(c.x)
	x.j.consider(c.x)
}

// Trailers implements h2.Sink.
func (x *multiplex) Trailers(stream uint32, status int) {
	if c := x.calls[stream]; c != nil && c.x != nil && c.x.Client != x.dir && status != h2.NoStatus {
		c.x.Stream.Status = int32(status) //nolint:gosec // below 2^16
	}
}

// Data implements h2.Sink.
func (x *multiplex) Data(stream uint32) {
	if c := x.calls[stream]; c != nil {
		c.moved = x.j.now
	}
}

// End implements h2.Sink.
func (x *multiplex) End(stream uint32) {
	c := x.calls[stream]
	switch {
	case c == nil:
		x.sides[x.dir].dec.Messages(stream) // of a call that nobody knows
	case c.x == nil:
		c.ended = true
	case c.x.Client == x.dir:
		c.x.Req.ends = endsWithHead // or behind it: nothing more follows
		c.x.Req.readUntil(x.f)
		x.count(stream, c.x)
	default:
		if c.x.Resp == nil {
			x.j.lost.unpairedRequest.Add(1)
			x.give(stream, c, "response-not-seen")
			return
		}
		c.x.Resp.readUntil(x.f)
		x.give(stream, c, "")
	}
}

// readUntil moves the end of a message's reading to that of the flight that it ends in.
func (m *Message) readUntil(f *bpf.Flight) {
	m.RecvEndNs = max(m.RecvEndNs, f.RecvEndNs)
	m.Flight.RecvEndNs, m.Flight.SendNs = m.RecvEndNs, max(m.Flight.SendNs, f.SendNs)
}

// count takes the number of messages of a request, whose end has come or never will.
func (x *multiplex) count(stream uint32, e *Exchange) {
	s := &e.Stream
	if !s.counted {
		s.Sent, s.Exact = x.sides[e.Client].dec.Messages(stream)
		s.counted = true
	}
}

// Reset implements h2.Sink.
func (x *multiplex) Reset(stream, code uint32) {
	c := x.calls[stream]
	if c == nil || c.x == nil {
		return
	}
	const noError = 0
	switch {
	case code == noError && c.x.Client == x.dir && c.x.Resp != nil:
		c.enough, c.moved = true, x.j.now
		return
	case code == noError && c.x.Resp != nil: // it has answered, and wants no more of the request
		x.give(stream, c, "")
		return
	}
	x.give(stream, c, "stream-reset")
}

// GoAway implements h2.Sink.
func (x *multiplex) GoAway(last uint32) {
	for stream, c := range x.calls {
		if stream > last && c.x != nil && c.x.Client != x.dir {
			x.give(stream, c, "refused")
		}
	}
}

// give ends a stream's exchange.
func (x *multiplex) give(stream uint32, c *call, why string) {
	delete(x.calls, stream)
	e := c.x
	if e == nil {
		if c.early != nil {
			x.j.unpaired(c.early)
			x.j.freeMessage(c.early)
		}
		return
	}
	e.Error = why
	if e.Stream.GRPC {
		x.count(stream, e)
		n, all := x.sides[1-e.Client].dec.Messages(stream)
		e.Stream.Received, e.Stream.Exact = n, e.Stream.Exact && all
	}
	x.j.finish(e)
}

// earlyBy is how much longer than a flight is held a response waits for its request, which may have been held itself, in ns.
const earlyBy = uint64(time.Second)

// expire gives up what has not moved for too long: a request without a response, and a stream whose end may have been missed. One that
// streams may be quiet for as long as it likes.
func (x *multiplex) expire() {
	for stream, c := range x.calls {
		quiet := x.j.now - c.moved
		switch {
		case c.x == nil:
			if quiet > uint64(x.j.cfg.Hold)+earlyBy {
				x.give(stream, c, "")
			}
		case c.enough && quiet > uint64(x.j.cfg.Hold)+earlyBy:
			x.give(stream, c, "")
		case quiet <= uint64(x.j.cfg.Expire):
		case c.x.Resp == nil:
			x.j.lost.noResponse.Add(1)
			x.give(stream, c, "no-response")
		case c.unsure:
			x.give(stream, c, "response-cut")
		}
	}
}

// fail ends all streams: the connection has.
func (x *multiplex) fail(why string) {
	for stream, c := range x.calls {
		x.give(stream, c, why)
	}
}

// upgrades says whether a response makes the connection one of HTTP/2: 101 to h2c (RFC 7540 §3.2).
func upgrades(m *Message) bool {
	return m.Status == 101 && bytes.Contains(bytes.ToLower(m.captured()), []byte("\nupgrade: h2c\r"))
}

// upgrade makes the leg one of HTTP/2, on which the response to the request that asked for it comes as stream 1.
func (j *Joiner) upgrade(l *Leg, e *Exchange) {
	j.multiplexed(l)
	e.Stream = Stream{ID: 1, Status: h2.NoStatus}
	l.multi.calls[1] = &call{x: e, moved: j.now}
}
