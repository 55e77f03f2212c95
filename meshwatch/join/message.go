package join

import (
	"bytes"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// Want is what the Joiner wants of a flight that it was given.
type Want uint8

// What may be wanted.
const (
	Done   Want = iota // nothing more
	Again              // to see it again, if it is still there
	Follow             // to see it until it is over: its record must stay
)

// Message is one HTTP message on a leg: its first flight, extended by those that go on with it. What joining, measuring and choosing
// need of every message is here, in two cache lines; its flight and head are on a page, which is seldom read again. Times are
// CLOCK_MONOTONIC ns.
type Message struct {
	StartNs   uint64 // as Flight's, as what follows
	RecvNs    uint64
	RecvEndNs uint64
	StampNs   uint64 // its last stamp
	Seq       uint32
	End       uint32
	Ack       uint32
	recvUpto  uint32
	SendPid   uint32
	RecvPid   uint32
	RecvNetns uint32
	Status    uint16 // of a response
	kind      head.Kind
	result    head.Result

	Flight   *bpf.Flight // on page
	page     *page
	leg      *Leg
	exchange *Exchange
	length   uint64 // bytes the head says it has, if fixed
	sent     uint64 // bytes so far: Flight has them modulo 2^32
	grew     uint64 // when it last did
	slot     uint8  // on page
	dir      uint8
	id       idState
	fixed    bool
	ends     ending
	plain    bool // it came as TLS: length and sent count plaintext, Seq and End what was on the wire
	current  bool // the leg's stream has it
	Measured bool // its hops were, see Config.Measure
}

// idState is what a head says of the request id.
type idState uint8

const (
	idAbsent idState = iota
	idGiven
	idAmbiguous
)

// ending is what tells that a message without a length is whole.
type ending uint8

const (
	endsUnseen    ending = iota
	endsWithHead         // which says that nothing follows
	endsWithChunk        // its last one is the last that was captured
)

// LastSeen is when a message was read, or where its reader is not seen, as on another node, when it was last stamped.
func (m *Message) LastSeen() uint64 { return max(m.RecvEndNs, m.RecvNs, m.StampNs) }

// Request says whether it is one, and not a response.
func (m *Message) Request() bool { return m.kind == head.Request }

// Cache is what the Joiner's user remembers of the messages that go the same way on the same leg.
func (m *Message) Cache() *Cache { return &m.leg.dirs[m.dir].cache }

func (j *Joiner) newMessage(l *Leg, dir uint8, f *bpf.Flight, b []byte) *Message {
	var m *Message
	if n := len(j.freeMessages); n > 0 {
		m, j.freeMessages = j.freeMessages[n-1], j.freeMessages[:n-1]
	} else {
		m = &Message{}
	}
	*m = Message{
		StartNs: f.StartNs, RecvNs: f.RecvNs, RecvEndNs: f.RecvEndNs, StampNs: f.StartNs,
		Seq: f.Seq, End: f.End, Ack: f.Ack, recvUpto: f.RecvUpto,
		SendPid: f.SendPid, RecvPid: f.RecvPid, RecvNetns: f.RecvNetns,
		leg: l, dir: dir, sent: carries(f), grew: j.now, plain: isPlain(f),
	}
	if n := min(int(f.Nstamps), bpf.MaxStamps); n > 0 {
		m.StampNs += uint64(f.Stamps[n-1].Delta)
	}
	j.pages.put(m, f, b)
	j.parse(m)
	return m
}

// parse reads the head anew: the message is new, or there is more of it.
func (j *Joiner) parse(m *Message) {
	b, h := m.captured(), &j.parsed
	m.result, j.parsedOf = j.cfg.Parser.Parse(b, h), m
	m.kind, m.Status = h.Kind, uint16(h.Status) //nolint:gosec // three digits
	switch {
	case h.RequestID == nil:
		m.id = idAbsent
	case h.RequestIDAmbiguous:
		m.id = idAmbiguous
	default:
		m.id = idGiven
	}
	switch {
	case h.NoBody && m.result == head.Complete:
		m.ends = endsWithHead
	case h.Chunked && m.sent == uint64(len(b)) && bytes.HasSuffix(b, lastChunk):
		m.ends = endsWithChunk
	default:
		m.ends = endsUnseen
	}
}

// head is what a message begins with, valid until the next call. Of the message that came last it is there; else it is parsed again.
func (j *Joiner) head(m *Message) *head.Head {
	if j.parsedOf != m {
		j.cfg.Parser.Parse(m.captured(), &j.parsed)
		j.parsedOf = m
	}
	return &j.parsed
}

// append adds bytes to those captured of a message whose head goes on.
func (j *Joiner) append(m *Message, b []byte) {
	f := *m.Flight
	j.joined = append(append(j.joined[:0], m.captured()...), b...)
	j.pages.drop(m)
	j.pages.put(m, &f, j.joined)
	j.parse(m)
}

func (j *Joiner) freeMessage(m *Message) {
	if m == nil {
		return
	}
	if m.current {
		s := &m.leg.dirs[m.dir]
		s.cur = nil
		s.count(m)
		s.rest = m.lacks()
		s.restEnd = m.End + uint32(m.length-m.sent) //nolint:gosec // modulo 2^32, as sequence numbers
	}
	j.pages.drop(m)
	m.leg, m.exchange = nil, nil
	j.freeMessages = append(j.freeMessages, m)
}

// isHTTP says whether the message's head can be used.
func (m *Message) isHTTP() bool { return m.result == head.Complete || m.result == head.NeedMore }

// extend adds a flight that goes on with the message.
func (m *Message) extend(f *bpf.Flight, now uint64) {
	g := m.Flight
	m.grow(f, now)
	if m.plain {
		m.sent += carries(f)
	}
	g.Retransmits += f.Retransmits
	g.SendNs = max(g.SendNs, f.SendNs)
	g.Flags |= f.Flags & resetFlag
	if f.DropReason != 0 {
		g.DropReason = f.DropReason
	}
}

// update takes its latest flight as it is now.
func (m *Message) update(f *bpf.Flight, now uint64) {
	g := m.Flight
	m.grow(f, now)
	g.SendNs = max(g.SendNs, f.SendNs)
	if g.SendPid == 0 {
		g.SendPid, g.SendTid = f.SendPid, f.SendTid
		m.SendPid = f.SendPid
	}
	g.Retransmits = max(g.Retransmits, f.Retransmits)
	g.Flags |= f.Flags & resetFlag
}

// grow moves the message's ends to a flight's.
func (m *Message) grow(f *bpf.Flight, now uint64) {
	if by := m.growth(f); by > 0 {
		if !m.plain {
			m.sent += uint64(by)
		}
		m.End, m.grew = m.End+by, now
		if m.ends == endsWithChunk {
			m.ends = endsUnseen
		}
		if m.kind == head.Response && m.leg.hasAnswered && before(m.leg.answered, m.End) {
			m.leg.answered = m.End
		}
	}
	if m.RecvNs == 0 && f.RecvSk != 0 { // else it is over because nobody will read it
		m.RecvNs = f.RecvNs
	}
	m.recvUpto = f.RecvUpto
	if m.RecvEndNs < f.RecvEndNs {
		m.RecvEndNs, m.grew = f.RecvEndNs, now
	}
	g := m.Flight
	g.End, g.RecvNs, g.RecvEndNs, g.RecvUpto = m.End, m.RecvNs, m.RecvEndNs, m.recvUpto
}

// growth is by how many bytes a flight makes the message longer. The recorder takes a message whose start it missed for more of the
// one before: bytes beyond a known length are none of it.
func (m *Message) growth(f *bpf.Flight) uint32 {
	if !before(m.End, f.End) {
		return 0
	}
	by := f.End - m.End
	if m.fixed && !m.plain {
		by = uint32(min(uint64(by), m.length-min(m.sent, m.length))) //nolint:gosec // at most by
	}
	return by
}

// cut ends the message after so many bytes: what follows in its flight is another one. Where in a TLS record that is on the wire
// nobody knows.
func (m *Message) cut(length uint64) {
	m.sent = length
	if !m.plain {
		m.End = m.Seq + uint32(length) //nolint:gosec // within one flight
		m.Flight.End = m.End
	}
}

// over says whether nothing more of the message is expected, sent and read. Of a body that says its length nowhere only
// its last chunk tells, if that was captured.
func (m *Message) over() bool {
	if m.RecvNs != 0 && m.unread() {
		return false
	}
	if m.fixed {
		return m.sent >= m.length
	}
	return m.ends != endsUnseen
}

// unread says whether not all that was sent has been read.
func (m *Message) unread() bool { return before(m.recvUpto, m.End) }

// lacks says whether the head promised more than has been sent.
func (m *Message) lacks() bool { return m.fixed && m.sent < m.length }

// lastChunk ends a chunked body without trailer fields (RFC 9112 §7.1).
var lastChunk = []byte("\r\n0\r\n\r\n")

// fixBody notes how long the message is, if its head says.
func (j *Joiner) fixBody(m *Message, request method) {
	if n, known := j.head(m).MessageLen(methodNames[request]); known {
		m.length, m.fixed = uint64(n), true //nolint:gosec // not negative
		if !m.plain && m.length < m.sent {  // others in its flight, also such as the recorder took for more of it
			m.cut(m.length)
		}
	}
}

// covers says whether a flight that starts with b is still of this message.
func (m *Message) covers(f *bpf.Flight, b []byte) bool {
	switch {
	case m.fixed && m.plain:
		// some of its plaintext may not have been seen: what begins like a message after the other side went on is one
		return m.lacks() && !(f.Ack != m.Ack && startsMessage(b))
	case m.fixed:
		return int64(m.sent)+int64(int32(f.Seq-m.End)) < int64(m.length) //nolint:gosec // far below 2^63; a signed distance
	case m.ends == endsWithHead:
		return false
	}
	if m.result == head.NeedMore && uint32(f.Flags)&bpf.FlagCont != 0 {
		return true
	}
	// a head that is not finished, or a body without a length: chunked, or until the connection closes. A chunk begins with
	// its size, never like a start line.
	return !startsMessage(b)
}

// startsMessage says whether bytes begin like an HTTP/1 message: what the recorder takes for one (kind_of in
// bpf/c/kind.h). Narrower than head.LooksLikeHTTP, for which any word may be a method.
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

const resetFlag = bpf.Flags(bpf.FlagReset)

// before says whether sequence number a comes before b, right across the wrap.
func before(a, b uint32) bool { return int32(a-b) < 0 } //nolint:gosec // that is the point
