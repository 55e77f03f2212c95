package join

import (
	"bytes"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Want is what the Joiner wants of a flight that it was given.
type Want uint8

// What may be wanted.
const (
	Done   Want = iota // nothing more
	Again              // to see it again, if it is still there
	Follow             // to see it until it is over: its record must stay
)

// Message is one HTTP message on a leg: its first flight, extended by those that go on with it.
type Message struct {
	Flight bpf.Flight
	Head   head.Head // aliases buf

	buf      []byte
	exchange *Exchange
	result   head.Result
	leg      *Leg
	dir      uint8
	fixed    bool   // the head says how long the message is:
	length   uint64 // bytes
	sent     uint64 // bytes so far: Flight has them modulo 2^32
	grew     uint64 // when it last did
}

// Exchange is a request and its response on one leg, and what links it to others. It is valid until the function that
// was given its Tree returns.
type Exchange struct {
	Leg        *Leg
	Client     uint8 // which end of the leg sent the request
	Req        *Message
	Resp       *Message    // nil: none seen
	Connect    *bpf.Flight // the SYN of its connection, where that was opened for it; else nil
	Parent     int         // index in the tree, -1: a root
	Error      string
	Relay      journey.Relay // how Parent was found, if there is one
	id         head.ID
	hasID      bool
	byResp     bool // the id came with the response only
	target     uint64
	unsure     bool // behind a gap on a pipelined connection: its response cannot be told
	done       bool
	group      *group
	parent     *Exchange
	asked      bool // it is the parent of another one
	candidates int
	at         int // index in the tree
	since      uint64
}

// ServerPid is the process that read the request, 0 when it was not seen.
func (x *Exchange) ServerPid() uint32 {
	if p := x.Req.Flight.RecvPid; p != 0 || x.Resp == nil {
		return p
	}
	return x.Resp.Flight.SendPid
}

// ClientPid is the process that wrote the request, 0 when it was not seen.
func (x *Exchange) ClientPid() uint32 {
	if p := x.Req.Flight.SendPid; p != 0 || x.Resp == nil {
		return p
	}
	return x.Resp.Flight.RecvPid
}

// Tree is the exchanges of one request, a parent before its children.
type Tree struct {
	ID        head.ID // of the request id, else zero
	Exchanges []*Exchange
	Unjoined  string // why the root has no parent although its process serves requests; empty otherwise
}

func (j *Joiner) newMessage(l *Leg, dir uint8, f *bpf.Flight, b []byte) *Message {
	var m *Message
	if n := len(j.freeMessages); n > 0 {
		m, j.freeMessages = j.freeMessages[n-1], j.freeMessages[:n-1]
	} else {
		m = &Message{}
	}
	m.Flight, m.leg, m.dir = *f, l, dir
	m.buf = append(m.buf[:0], b...)
	m.fixed, m.length, m.exchange = false, 0, nil
	m.sent, m.grew = uint64(f.End-f.Seq), j.now
	m.result = j.cfg.Parser.Parse(m.buf, &m.Head)
	return m
}

func (j *Joiner) freeMessage(m *Message) {
	if m == nil {
		return
	}
	if s := &m.leg.dirs[m.dir]; s.cur == m {
		s.cur = nil
		s.rest = m.lacks()
		s.restEnd = m.Flight.End + uint32(m.length-m.sent) //nolint:gosec // modulo 2^32, as sequence numbers
	}
	m.leg, m.exchange = nil, nil
	j.freeMessages = append(j.freeMessages, m)
}

func (j *Joiner) newExchange(m *Message) *Exchange {
	var x *Exchange
	if n := len(j.freeExchanges); n > 0 {
		x, j.freeExchanges = j.freeExchanges[n-1], j.freeExchanges[:n-1]
	} else {
		x = &Exchange{}
	}
	*x = Exchange{Leg: m.leg, Client: m.dir, Req: m, Parent: -1}
	m.exchange = x
	return x
}

func (j *Joiner) freeExchange(x *Exchange) {
	for _, m := range []*Message{x.Req, x.Resp} {
		if m == nil {
			continue
		}
		if m.result == head.NeedMore {
			j.lost.cutHead.Add(1)
		}
		j.freeMessage(m)
	}
	*x = Exchange{}
	j.freeExchanges = append(j.freeExchanges, x)
}

// isHTTP says whether the message's head can be used.
func (m *Message) isHTTP() bool { return m.result == head.Complete || m.result == head.NeedMore }

// extend adds a flight that goes on with the message.
func (m *Message) extend(f *bpf.Flight, now uint64) {
	g := &m.Flight
	m.grow(f, now)
	g.Retransmits += f.Retransmits
	g.SendNs = max(g.SendNs, f.SendNs)
	g.Flags |= f.Flags & resetFlag
	if f.DropReason != 0 {
		g.DropReason = f.DropReason
	}
}

// update takes its latest flight as it is now.
func (m *Message) update(f *bpf.Flight, now uint64) {
	g := &m.Flight
	m.grow(f, now)
	g.SendNs = max(g.SendNs, f.SendNs)
	if g.SendPid == 0 {
		g.SendPid, g.SendTid = f.SendPid, f.SendTid
	}
	g.Retransmits = max(g.Retransmits, f.Retransmits)
	g.Flags |= f.Flags & resetFlag
}

// grow moves the message's ends to a flight's.
func (m *Message) grow(f *bpf.Flight, now uint64) {
	g := &m.Flight
	if by := m.growth(f); by > 0 {
		m.sent += uint64(by)
		g.End, m.grew = g.End+by, now
		if m.Head.Kind == head.Response && m.leg.hasAnswered && before(m.leg.answered, g.End) {
			m.leg.answered = g.End
		}
	}
	if g.RecvNs == 0 {
		g.RecvNs = f.RecvNs
	}
	g.RecvUpto = f.RecvUpto
	if g.RecvEndNs < f.RecvEndNs {
		g.RecvEndNs, m.grew = f.RecvEndNs, now
	}
}

// growth is by how many bytes a flight makes the message longer. The recorder takes a message whose start it missed for more of the
// one before: bytes beyond a known length are none of it.
func (m *Message) growth(f *bpf.Flight) uint32 {
	if !before(m.Flight.End, f.End) {
		return 0
	}
	by := f.End - m.Flight.End
	if m.fixed {
		by = uint32(min(uint64(by), m.length-min(m.sent, m.length))) //nolint:gosec // at most by
	}
	return by
}

// over says whether nothing more of the message is expected, sent and read. Of a body that says its length nowhere only
// its last chunk tells, if that was captured.
func (m *Message) over() bool {
	if m.Flight.RecvNs != 0 && m.unread() {
		return false
	}
	if m.fixed {
		return m.sent >= m.length
	}
	return m.Head.NoBody && m.result == head.Complete ||
		m.Head.Chunked && m.sent == uint64(len(m.buf)) && bytes.HasSuffix(m.buf, lastChunk)
}

// unread says whether not all that was sent has been read.
func (m *Message) unread() bool { return before(m.Flight.RecvUpto, m.Flight.End) }

// lacks says whether the head promised more than has been sent.
func (m *Message) lacks() bool { return m.fixed && m.sent < m.length }

// lastChunk ends a chunked body without trailer fields (RFC 9112 §7.1).
var lastChunk = []byte("\r\n0\r\n\r\n")

// fixBody notes how long the message is, if its head says.
func (m *Message) fixBody(requestMethod []byte) {
	if n, known := m.Head.MessageLen(requestMethod); known {
		m.length, m.fixed = uint64(n), true //nolint:gosec // not negative
	}
}

// covers says whether a flight that starts with b is still of this message.
func (m *Message) covers(f *bpf.Flight, b []byte) bool {
	switch {
	case m.fixed:
		return int64(m.sent)+int64(int32(f.Seq-m.Flight.End)) < int64(m.length) //nolint:gosec // far below 2^63; a signed distance
	case m.Head.NoBody && m.result == head.Complete:
		return false
	}
	if m.result == head.NeedMore && uint32(f.Flags)&bpf.FlagCont != 0 {
		return true
	}
	// a head that is not finished, or a body without a length: chunked, or until the connection closes. A chunk begins with
	// its size, never like a start line.
	return !startsMessage(b)
}

// startsMessage says whether bytes begin like an HTTP/1 message: what the recorder takes for one (looks_like_http in
// bpf/c/start.h). Narrower than head.LooksLikeHTTP, for which any word may be a method.
func startsMessage(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	switch string(b[:4]) {
	case "GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PATC", "CONN", "TRAC", "HTTP":
		return true
	}
	return false
}

const resetFlag = 64 // bpf.FlagReset, as Flight.Flags' own type takes an untyped constant

// before says whether sequence number a comes before b, right across the wrap.
func before(a, b uint32) bool { return int32(a-b) < 0 } //nolint:gosec // that is the point
