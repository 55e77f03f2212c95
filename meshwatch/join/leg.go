package join

import (
	"github.com/meshwatch/meshwatch/bpf"
)

// Leg is one TCP connection.
type Leg struct {
	ends [2]end
	dirs [2]stream // dirs[d] goes from ends[d] to the other

	queue       []*Exchange // requests without response, in order
	early       []*Message  // responses whose request was not seen yet
	held        []held
	answered    uint32 // end of the latest response, if hasAnswered
	hasAnswered bool
	asked       uint32 // what the latest request acknowledged, if hasAsked
	hasAsked    bool
	skipped     bool       // bytes before one that is early were not seen
	pipelines   bool       // a request was sent before there was an answer to the one before
	doubt       uint8      // requests in a row that must wait for their answer until they have one for sure, see doubts
	multi       *multiplex // it speaks HTTP/2
	begun       bool       // a flight of it was consumed
	opener      uint8      // 1 + the direction of its SYN, 0: that was not seen
	upgraded    bool       // speaks something else than HTTP/1 now
	closed      uint8      // a bit for each end
	ended       uint64     // ns: when the first of them was closed, as far as is known; 0: none is
	resetBy     uint8      // end, if it was reset
	born        uint32     // id of the flight that it was made for
	used        uint64
	latest      uint64 // ns: when the latest request was sent, as far as its client is known
	up          upstream
	connected   uint64      // ns: when its handshake was over, 0: not known
	hellos      uint8       // flights of a TLS handshake by who opened it, up to 2
	shook       uint64      // ns: when the last of them was sent
	syn         *bpf.Flight // of its connection, until a request is the first on it
}

const bothClosed = 3

// end is one socket of a leg.
type end struct {
	sock       uint64
	port, peer uint16
	known      bool
}

// stream is one direction of a leg.
type stream struct {
	cur     *Message // the latest message, as long as it may go on
	last    uint32   // id of the latest flight consumed
	lastNs  uint64   // when that was sent
	end     uint32   // sequence consumed so far
	seen    bool
	gapped  bool   // a flight is missing before the next message
	counted bool   // of the latest message, the length is known:
	upto    uint32 // sequence after it
	plain   bool   // it is TLS, of which plaintext was seen
	opaque  uint8  // flights of it without, up to oneWay
	rest    bool   // the body of a message that was given up goes on:
	restEnd uint32 // sequence after it
	texts   []told // whose flight has not come, in order
	cache   Cache
}

// Cache is for the Joiner's user: what the stamps of the messages of one direction of a leg mean. It is zero at first and goes with
// the leg.
type Cache struct {
	Path   any
	Reader uint32
}

// held is a flight that came before one that precedes it.
type held struct {
	f     bpf.Flight
	head  []byte
	dir   uint8
	since uint64
}

// half finds a leg by one of its sockets.
type half struct {
	leg  *Leg
	side uint8
}

// leg finds or makes the leg of a flight and the direction it goes. Nil: the flight was given out so late, as nobody read
// it, that its socket is another connection's by now.
func (j *Joiner) leg(f *bpf.Flight) (*Leg, uint8) {
	syn := uint32(f.Flags)&bpf.FlagSYN != 0
	a, okA := j.halves[f.SendSk]
	newer := false // the sender's socket is another connection's by now: what it wrote was read late
	if okA && (syn || !a.leg.ends[a.side].is(f.SendPort, f.SendPeer)) {
		if newer = a.leg.after(f); !newer {
			j.reused(a)
		}
		okA = false
	}
	var b half
	okB := false
	if f.RecvSk != 0 {
		b, okB = j.halves[f.RecvSk]
		if okB && !b.leg.ends[b.side].is(f.RecvPort, f.RecvPeer) {
			if b.leg.after(f) {
				return nil, 0
			}
			j.reused(b)
			okB = false
		}
	}
	if newer {
		if okB && b.leg.ends[1-b.side].sock == f.SendSk {
			return b.leg, 1 - b.side
		}
		return nil, 0
	}
	switch {
	case okA:
		l, d := a.leg, a.side
		if f.RecvSk != 0 && !l.ends[1-d].known {
			if okB && b.leg != l {
				j.retire(b.leg, "socket-reused")
			}
			l.ends[1-d].learnReceiver(f)
			j.halves[f.RecvSk] = half{l, 1 - d}
		}
		return l, d
	case okB:
		l, d := b.leg, 1-b.side
		l.ends[d].learnSender(f)
		j.halves[f.SendSk] = half{l, d}
		return l, d
	}
	l := &Leg{born: uint32(f.Id)} //nolint:gosec // low half, as Flight.Prev
	l.ends[0].learnSender(f)
	j.halves[f.SendSk] = half{l, 0}
	if f.RecvSk != 0 {
		l.ends[1].learnReceiver(f)
		j.halves[f.RecvSk] = half{l, 1}
	}
	return l, 0
}

// reused takes a socket from its leg: it is another connection's. What it wrote last may still be unread: then its leg ends with the other
// socket.
func (j *Joiner) reused(h half) {
	l, other := h.leg, 1-h.side
	if peer, ok := j.halves[l.ends[other].sock]; !ok || peer.leg != l || !l.unanswered() {
		j.retire(l, "socket-reused")
		return
	}
	delete(j.halves, l.ends[h.side].sock)
	l.closed |= 1 << h.side
	l.endsAt(j.now)
}

// endsAt notes when an end was closed.
func (l *Leg) endsAt(ns uint64) {
	if l.ended == 0 || ns < l.ended {
		l.ended = ns
	}
}

// unanswered says whether some request of the leg has no response yet, or not all of it.
func (l *Leg) unanswered() bool {
	return len(l.queue) > 0 || len(l.held) > 0 || l.multi != nil && len(l.multi.calls) > 0 || l.dirs[0].answering() != nil || l.dirs[1].answering() != nil
}

// after says whether the leg began after a flight.
func (l *Leg) after(f *bpf.Flight) bool { return before(uint32(f.Id), l.born) } //nolint:gosec // low half, as Flight.Prev

func (e *end) is(port, peer uint16) bool { return e.port == port && e.peer == peer }

func (e *end) learnSender(f *bpf.Flight) {
	*e = end{f.SendSk, f.SendPort, f.SendPeer, true}
}

func (e *end) learnReceiver(f *bpf.Flight) {
	*e = end{f.RecvSk, f.RecvPort, f.RecvPeer, true}
}

// ready says whether everything that comes before f on its leg has been consumed: the flight before it on its own
// socket, and what its acknowledgement says the sender had received.
func (j *Joiner) ready(l *Leg, d uint8, f *bpf.Flight) bool {
	s, o := &l.dirs[d], &l.dirs[1-d]
	if j.awaits(s, f) || awaitsText(f) {
		return false
	}
	if l.upgraded || l.multi != nil { // not requests and responses any more, or streams, which have ids
		return true
	}
	if !o.seen {
		return !l.holds(1-d, f.Ack)
	}
	// one more than the data: a FIN is acknowledged too
	return f.Ack == 0 || !before(o.end+1, f.Ack)
}

// holds says whether a flight of a direction is held that begins before a sequence number.
func (l *Leg) holds(d uint8, seq uint32) bool {
	for i := range l.held {
		if h := &l.held[i]; h.dir == d && before(h.f.Seq, seq) {
			return true
		}
	}
	return false
}

// awaits says whether the flight before f on its socket is still to come: one that is not older than what was there when
// the agent began, or than a second.
func (j *Joiner) awaits(s *stream, f *bpf.Flight) bool {
	if f.Prev == 0 {
		return false
	}
	if s.seen {
		return before(s.last, f.Prev)
	}
	return !before(f.Prev, j.horizon)
}

// consumed moves a stream past f.
func (s *stream) consumed(f *bpf.Flight) {
	s.last, s.lastNs = uint32(f.Id), f.StartNs //nolint:gosec // low half, as Flight.Prev
	if !s.seen || before(s.end, f.End) {
		s.end = f.End
	}
	s.seen = true
}

// count notes where the message after m begins, if m says how long it is and is no TLS.
func (s *stream) count(m *Message) {
	s.upto, s.counted = m.Seq+uint32(m.length), m.fixed && !m.plain //nolint:gosec // modulo 2^32, as sequence numbers
}

// skips says whether something between m and the message before it was not seen: a flight, or bytes of one that was captured in part.
func (s *stream) skips(m *Message) bool {
	gapped := s.gapped
	s.gapped = false
	if s.counted && !m.plain {
		return before(s.upto, m.Seq)
	}
	return gapped
}

func (j *Joiner) hold(l *Leg, d uint8, f *bpf.Flight, b []byte) {
	l.held = append(l.held, held{*f, append([]byte(nil), b...), d, j.now})
	j.holding[l] = struct{}{}
}

// refresh takes a held flight as it is now.
func (l *Leg) refresh(f *bpf.Flight) Want {
	for i := range l.held {
		if h := &l.held[i]; h.f.Id == f.Id {
			text, flags := h.f.PlainLen, h.f.Flags
			h.f = *f
			if flags&plainFlag != 0 {
				h.f.Flags, h.f.PlainLen = h.f.Flags|plainFlag, text
			}
			return Again
		}
	}
	return Done
}

// release consumes the held flights that have become ready, or all that waited too long.
func (j *Joiner) release(l *Leg) {
	for again := len(l.held) > 0; again; {
		again = false
		for i := range l.held {
			h := &l.held[i]
			late := j.now-h.since > uint64(j.cfg.Hold)
			if !late && !j.ready(l, h.dir, &h.f) {
				continue
			}
			if late {
				h.noText()
			}
			if late && !j.ready(l, h.dir, &h.f) {
				j.gap(l, h.dir, &h.f)
			}
			f, b, d := h.f, h.head, h.dir
			l.held = append(l.held[:i], l.held[i+1:]...)
			j.consume(l, d, &f, b)
			again = len(l.held) > 0
			break
		}
	}
	if waits := j.releaseTexts(l); !waits && len(l.held) == 0 {
		delete(j.holding, l)
	}
}

// gap notes that a flight before f never came: with several requests under way nobody can say any more which response is whose.
func (j *Joiner) gap(l *Leg, d uint8, f *bpf.Flight) {
	s, o := &l.dirs[d], &l.dirs[1-d]
	if j.awaits(s, f) {
		s.gapped = true
		if uint32(f.Flags)&bpf.FlagClose == 0 { // TLS's last word, which nobody reads, is missed by nothing that follows
			j.lost.gap.Add(1)
			j.gapBefore(s, f)
		}
	}
	if o.seen && f.Ack != 0 && before(o.end+1, f.Ack) {
		o.end = f.Ack
		j.overtaken(l, o, s.counted && s.upto == f.Seq)
	}
}

// overtaken gives up the requests of a stream that went on unseen. Unless that was the rest of the latest one, it was a request, so
// what comes next may answer that one: the responses to those that were seen may have been missed. It has not if nothing lies between that
// and the response before: then it was asked while another one was open.
func (j *Joiner) overtaken(l *Leg, s *stream, next bool) {
	if m := s.cur; m != nil && (m.lacks() || !m.fixed && m.ends == endsUnseen) {
		return
	}
	if next && len(l.queue) > 0 && &l.dirs[l.queue[0].Client] == s {
		l.pipelines = true
	}
	for len(l.queue) > 0 && &l.dirs[l.queue[0].Client] == s {
		j.unanswered(l, "behind-a-gap")
	}
}

// retire ends a leg whose socket is gone: what still waits gets no response.
func (j *Joiner) retire(l *Leg, why string) {
	for len(l.held) > 0 {
		h := l.held[0]
		l.held = l.held[1:]
		j.gap(l, h.dir, &h.f)
		j.consume(l, h.dir, &h.f, h.head)
	}
	j.flushTexts(l)
	delete(j.holding, l)
	j.fail(l, why)
	l.closed = bothClosed
	l.endsAt(j.now)
	for i := range l.ends {
		if h, ok := j.halves[l.ends[i].sock]; ok && h.leg == l {
			delete(j.halves, l.ends[i].sock)
		}
	}
}

// fail finishes every request of the leg that has no response, or not all of it.
func (j *Joiner) fail(l *Leg, why string) {
	for i := range l.dirs {
		s := &l.dirs[i]
		if m := s.answering(); m != nil && (m.lacks() || why == "reset" && (l.resetBy == m.dir || m.unread())) {
			m.exchange.Error = why // who has read all that was sent may well reset the connection
		}
		j.supersede(s)
	}
	for _, x := range l.queue {
		x.Error = why
		j.finish(x)
	}
	l.queue = l.queue[:0]
	if l.multi != nil {
		l.multi.fail(why)
	}
	for _, m := range l.early {
		j.unpaired(m)
		j.freeMessage(m)
	}
	l.early = l.early[:0]
}
