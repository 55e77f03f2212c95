package join

import (
	"bytes"
	"hash/maphash"
	"slices"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// Joiner makes trees of flights. One goroutine owns it.
type Joiner struct {
	cfg  Config
	emit func(*Tree)
	now  uint64
	lost losses

	halves    map[uint64]half
	holding   map[*Leg]struct{}
	groups    map[head.ID]*group
	traces    map[[16]byte]*group
	quiet     []*group // groups that are over, by when they became so
	due       []*group // scratch of flush
	servers   map[uint32]uint64
	shelves   shelves
	workers   map[workerKey]*worker
	processes map[uint32]*process
	words     words // what proxies said
	apps      map[uint32]*app
	heldOf    map[uint32]uint64 // ns: since when flights of a process are held
	serial    uint64            // of the latest exchange
	swept     uint64
	begun     uint64 // when recording did
	latest    uint32 // highest flight id so far
	horizon   uint32 // what it was at the last sweep but one: all before has come or never will
	recent    uint32

	freeMessages  []*Message
	freeExchanges []*Exchange
	freeGroups    []*group
	pages         pages
	tree          Tree
	parsed        head.Head // of parsedOf; aliases its page
	parsedOf      *Message
	joined        []byte // scratch of append
	seed          maphash.Seed
	found         []*Exchange // scratch of relate
	dueEvents     []dueEvent  // scratch of work

	Stats Stats
}

// Stats count what passed, since the start.
type Stats struct {
	Flights, Requests, Responses, Trees, Relays, Raw uint64
}

// New makes a joiner that gives its trees to emit. A tree and all in it are valid only until emit returns.
func New(cfg Config, set *loss.Set, emit func(*Tree)) *Joiner {
	return &Joiner{
		cfg: cfg, emit: emit,
		halves: map[uint64]half{}, holding: map[*Leg]struct{}{}, groups: map[head.ID]*group{}, traces: map[[16]byte]*group{},
		servers: map[uint32]uint64{}, shelves: shelves{all: map[shelfKey]*shelf{}}, workers: map[workerKey]*worker{},
		processes: map[uint32]*process{}, apps: map[uint32]*app{}, words: newWords(), heldOf: map[uint32]uint64{}, seed: maphash.MakeSeed(),
		lost: newLosses(set),
	}
}

// Flight takes one record whose first byte was read, with the bytes captured of it. Both are copied. It wants to follow a message
// that goes on, and to see one again that waits for another one before it.
func (j *Joiner) Flight(f *bpf.Flight, b []byte) (want Want) {
	j.Stats.Flights++
	if id := uint32(f.Id); j.Stats.Flights == 1 { //nolint:gosec // low half, as Flight.Prev
		j.latest, j.recent, j.horizon = id, id, id
	} else if before(j.latest, id) {
		j.latest = id
	}
	flags := uint32(f.Flags)
	if flags&bpf.FlagClose != 0 {
		j.closed(f)
		return Done
	}
	if f.SendPid == j.cfg.SelfID || f.RecvPid == j.cfg.SelfID {
		return Done
	}
	if flags&bpf.FlagText != 0 {
		if f.End != f.Seq {
			j.written(f, b)
		} else {
			j.text(f, b)
		}
		return Done
	}
	l, d := j.leg(f)
	if l == nil {
		j.lost.stale.Add(1)
		return Done
	}
	l.used = j.now
	if flags&bpf.FlagSYN != 0 {
		s := &l.dirs[d]
		s.last, s.end, s.seen = uint32(f.Id), f.Seq+1, true //nolint:gosec // low half, as Flight.Prev
		s.upto, s.counted = s.end, true
		l.opener = d + 1
		j.begins(l, f)
		if j.cfg.Began != nil {
			j.cfg.Began(f, BytesUnknown, OpenedBySender)
		}
		return l.opens(f)
	}
	if !j.ready(l, d, f) {
		j.hold(l, d, f, b)
		return Again
	}
	j.consume(l, d, f, b)
	s := &l.dirs[d]
	if s.last == uint32(f.Id) { //nolint:gosec // low half, as Flight.Prev
		want = s.wants()
	}
	if len(l.held) > 0 {
		j.release(l)
	}
	return want
}

// Update takes a record again of which Flight or Update wanted more.
func (j *Joiner) Update(f *bpf.Flight) Want {
	h, ok := j.halves[f.SendSk]
	if !ok || h.leg.after(f) {
		return Done
	}
	l, s := h.leg, &h.leg.dirs[h.side]
	if uint32(f.Flags)&bpf.FlagSYN != 0 {
		return l.opens(f)
	}
	if s.last != uint32(f.Id) { //nolint:gosec // low half, as Flight.Prev
		return l.refresh(f)
	}
	if before(s.end, f.End) {
		s.end = f.End
		l.used = j.now
	}
	if m := s.cur; m != nil {
		m.update(f, j.now)
		j.settle(s)
	}
	return s.wants()
}

func (j *Joiner) isProxy(pid uint32) bool { return j.cfg.Proxy != nil && j.cfg.Proxy(pid) }

// wants is Follow as long as more of a stream's latest message is expected.
func (s *stream) wants() Want {
	if s.cur != nil && !s.cur.over() || s.cur == nil && s.rest && before(s.end, s.restEnd) {
		return Follow
	}
	return Done
}

// closed ends a socket's side of its leg.
func (j *Joiner) closed(f *bpf.Flight) {
	h, ok := j.halves[f.SendSk]
	if !ok || h.leg.after(f) {
		return
	}
	l := h.leg
	if !j.ready(l, h.side, f) {
		j.hold(l, h.side, f, nil)
		return
	}
	j.close(l, h.side, f)
}

func (j *Joiner) close(l *Leg, side uint8, f *bpf.Flight) {
	why := "closed"
	if uint32(f.Flags)&bpf.FlagReset != 0 {
		why = "reset"
		l.resetBy = 1 - side // who gets a reset has an error on its socket, who sends one has not
	}
	j.flushTexts(l)
	if h, ok := j.halves[f.SendSk]; ok && h.leg == l { // else it is another connection's by now
		delete(j.halves, f.SendSk)
	}
	l.endsAt(f.StartNs)
	if l.closed |= 1 << side; !l.ends[1-side].known {
		l.closed = bothClosed // nobody finds the leg any more
	}
	// what the other end wrote may still be on its way to us, unless this end can no longer read it
	if why == "reset" || l.closed == bothClosed {
		j.fail(l, why)
	}
}

// consume takes the next flight of a leg, in order.
func (j *Joiner) consume(l *Leg, d uint8, f *bpf.Flight, b []byte) {
	if uint32(f.Flags)&bpf.FlagClose != 0 {
		j.close(l, d, f)
		return
	}
	if l.closed == bothClosed {
		j.lost.strayBody.Add(1)
		return
	}
	s := &l.dirs[d]
	if !l.begun {
		l.begun = true
		if j.cfg.Began != nil {
			j.cfg.Began(f, bytesOf(f, b, s.seen && f.Seq == s.end), l.openerOf(d))
		}
	}
	s.consumed(f)
	if l.upgraded {
		j.Stats.Raw++
		return
	}
	if len(s.texts) > 0 || isTold(f) {
		j.withTexts(l, d, f, b)
		return
	}
	j.read(l, d, f, b)
}

// read takes what a flight has.
func (j *Joiner) read(l *Leg, d uint8, f *bpf.Flight, b []byte) {
	s := &l.dirs[d]
	if isOpaque(f) {
		j.opaque(l, d, f)
		return
	}
	s.plain = isPlain(f)
	if l.multi != nil {
		l.multi.frames(d, f, b)
		return
	}
	if m := s.cur; m != nil && m.covers(f, b) {
		j.goOn(m, f, b)
		j.settle(s)
		return
	}
	if s.cur == nil && s.rest && before(f.Seq, s.restEnd) || uint32(f.Flags)&bpf.FlagCont != 0 && !startsMessage(b) {
		j.lost.strayBody.Add(1)
		return
	}
	j.supersede(s)
	if l.speaksHTTP2(b) {
		j.multiplexed(l).frames(d, f, b)
		return
	}
	j.messages(l, d, f, b)
}

// answering is the response that is under way on a stream; nil: none.
func (s *stream) answering() *Message {
	if m := s.cur; m != nil && m.exchange != nil && m.exchange.Resp == m && !m.exchange.done {
		return m
	}
	return nil
}

// settle finishes the exchange of a response that is over now.
func (j *Joiner) settle(s *stream) {
	if m := s.answering(); m != nil && m.over() {
		j.finish(m.exchange)
	}
}

// supersede takes a stream's latest message for whole: another one begins, or nothing more can come.
func (j *Joiner) supersede(s *stream) {
	if m := s.answering(); m != nil {
		j.finish(m.exchange)
	}
	if m := s.cur; m != nil {
		m.current = false
		s.count(m)
		if m.exchange == nil && !slices.Contains(m.leg.early, m) { // it never said what it is, or answers nothing
			j.freeMessage(m)
		}
	}
	s.cur, s.rest = nil, false
}

// goOn adds a flight to the message it continues.
func (j *Joiner) goOn(m *Message, f *bpf.Flight, b []byte) {
	m.extend(f, j.now)
	if m.result == head.Complete && bytes.HasSuffix(b, lastChunk[2:]) && uint64(len(b)) == carries(f) && j.head(m).Chunked {
		m.ends = endsWithChunk
	}
	if m.result != head.NeedMore || len(b) == 0 {
		return
	}
	was := m.kind
	j.append(m, b)
	switch x := m.exchange; {
	case was == head.KindNone:
		j.begin(m)
	case x == nil: // no exchange yet, or given up
	case x.Req == m:
		j.fixBody(m, methodUnknown)
		j.unshelve(x)
		j.describe(x, j.head(m))
		j.identify(x)
		j.shelve(x)
	default:
		j.fixBody(m, x.method)
		j.identify(x)
	}
}

// begin takes a message whose head says what it is; one that does not say yet waits for more. False: it is none.
func (j *Joiner) begin(m *Message) bool {
	switch {
	case !m.isHTTP():
		j.notHTTP(m)
		return false
	case m.kind == head.Request:
		j.fixBody(m, methodUnknown)
		j.request(m)
	case m.kind == head.Response:
		j.fixBody(m, methodFor(m.leg, m))
		j.response(m)
	}
	return true
}

// messages reads the messages that begin in a flight: one, or several when they were pipelined in one write.
func (j *Joiner) messages(l *Leg, d uint8, f *bpf.Flight, b []byte) {
	for n := 0; n < maxPipelined; n++ {
		m := j.newMessage(l, d, f, b)
		l.dirs[d].cur, m.current = m, true
		if !j.begin(m) || m.leg == nil || !m.fixed {
			return
		}
		at := m.length
		if at == 0 || at >= uint64(len(b)) || m.result != head.Complete {
			return
		}
		m.cut(at)
		j.supersede(&l.dirs[d])
		part := behind(f, uint32(at)) //nolint:gosec // below len(b)
		f, b = &part, b[at:]
	}
}

const maxPipelined = 32 // heads in one captured kilobyte: fewer fit

func (j *Joiner) notHTTP(m *Message) {
	m.leg.syn = nil // no request is the first of this connection
	if m.result == head.Malformed {
		j.lost.malformed.Add(1)
	} else {
		j.Stats.Raw++
	}
	j.freeMessage(m)
}
