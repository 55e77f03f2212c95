package join

import (
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// What proxies say of their own requests, where that may make joins (Config.Hear): on which connection one came and on which it went on. It
// counts behind ids, and ahead of everything else. A process is heard about its own exchanges alone, so one that lies can only tell of itself,
// and nothing that it says makes a join sure.

const (
	// maxWords bounds what was said and is remembered, at about 400 B each.
	maxWords = 1 << 15
	// wordAge is for how long: a group may wait for the rest of a longer request.
	wordAge = 30 * time.Second
	// maxSpeakers bounds the processes that are waited for, and silence is when one is waited for no more.
	maxSpeakers = 1 << 10
	silence     = time.Minute
	// maxWordsLooked is how many words about one connection are looked at for one exchange.
	maxWordsLooked = 512
)

// words are what was said lately.
type words struct {
	in       map[wordPlace][]*word // by the process and where its caller is, in the order of their starts
	out      map[wordPlace][]*word // by the process and the connection on which it asked
	all      []*word               // as they came
	speakers map[uint32]uint64     // process → when it last said something
}

// wordPlace is a connection of a process; of one on which it was asked, remote alone: its own end may be said as what its caller meant.
type wordPlace struct {
	pid uint32
	journey.Connection
}

// word is one thing that was said.
type word struct {
	journey.Said
	id    head.ID
	hasID bool
	came  uint64
	used  bool // a join was made of it
}

func newWords() words {
	return words{in: map[wordPlace][]*word{}, out: map[wordPlace][]*word{}, speakers: map[uint32]uint64{}}
}

func (w *word) inPlace() wordPlace {
	return wordPlace{uint32(w.By.Pid), journey.Connection{Remote: w.Downstream.Remote}} //nolint:gosec // a process id
}

func (w *word) outPlace() wordPlace {
	return wordPlace{uint32(w.By.Pid), w.Upstream} //nolint:gosec // a process id
}

// Say takes what a proxy said. Who it is must be known by its process; else it is counted and left out. It is copied.
func (j *Joiner) Say(s *journey.Said) {
	pid := uint32(s.By.Pid) //nolint:gosec // a process id
	_, known := j.words.speakers[pid]
	switch {
	case j.cfg.Hear == 0:
		return
	case s.By.Pid <= 0 || !known && len(j.words.speakers) >= maxSpeakers:
		j.lost.speaker.Add(1)
		return
	}
	j.words.speakers[pid] = j.now
	w := &word{Said: *s, came: j.now}
	w.id, w.hasID = head.ParseID([]byte(s.RequestID))
	if len(j.words.all) >= maxWords {
		j.words.forget(j.words.all[0])
		j.words.all = j.words.all[1:]
	}
	j.words.all = append(j.words.all, w)
	insertWord(j.words.in, w.inPlace(), w)
	if w.Upstream.IsValid() {
		insertWord(j.words.out, w.outPlace(), w)
	}
}

func insertWord(m map[wordPlace][]*word, at wordPlace, w *word) {
	list := m[at]
	i := len(list)
	for i > 0 && list[i-1].Start > w.Start {
		i--
	}
	m[at] = slices.Insert(list, i, w)
}

func (ws *words) forget(w *word) {
	for m, at := range map[*map[wordPlace][]*word]wordPlace{&ws.in: w.inPlace(), &ws.out: w.outPlace()} {
		list := (*m)[at]
		i := slices.Index(list, w)
		switch {
		case i == 0:
			list[0] = nil
			list = list[1:]
		case i > 0:
			list = slices.Delete(list, i, i+1)
		}
		if (*m)[at] = list; len(list) == 0 {
			delete(*m, at)
		}
	}
}

// forgetWords forgets what is too old.
func (j *Joiner) forgetWords() {
	n := 0
	for ; n < len(j.words.all) && j.now-j.words.all[n].came > uint64(wordAge); n++ {
		j.words.forget(j.words.all[n])
	}
	clear(j.words.all[:n])
	j.words.all = j.words.all[n:]
	for pid, at := range j.words.speakers {
		if j.now-at > uint64(silence) {
			delete(j.words.speakers, pid)
		}
	}
}

// awaitsWord makes the joins of a group of which proxies spoke, and says whether it should wait: a proxy that logs has not logged one of them yet.
func (j *Joiner) awaitsWord(g *group) bool {
	if len(j.words.speakers) == 0 {
		return false
	}
	j.flushing = g
	defer func() { j.flushing = nil }()
	sortByStart(g.xs)
	j.relate(g)
	waits := false
	for i := 0; i < len(g.xs); i++ { // it grows
		x := g.xs[i]
		if !x.listed {
			continue
		}
		if _, speaks := j.words.speakers[x.askedBy]; speaks && x.parent == nil {
			waits = !j.wordOfCaller(x) || waits
		}
		if _, speaks := j.words.speakers[x.servedBy]; speaks && !x.asked {
			waits = !j.wordOfServer(x) || waits
		}
	}
	return waits && j.now-g.last < uint64(j.cfg.Hear)
}

// wordOfCaller looks what x's client said of why it asked, and says whether it spoke of it.
func (j *Joiner) wordOfCaller(x *Exchange) bool {
	p := j.processes[x.askedBy]
	at := wordPlace{x.askedBy, x.asking()}
	if p == nil {
		return true
	}
	list := j.words.out[at]
	from := sort.Search(len(list), func(i int) bool { return list[i].Start > x.Req.StartNs+uint64(journey.SureStart) })
	var y *Exchange
	var of *word
	n := 0
	for _, w := range slices.Backward(list[max(0, from-maxWordsLooked):from]) {
		if cause := j.causeBy(p, w, x); cause != nil {
			n++
			y, of = cause, w
		}
	}
	switch {
	case n == 1:
		of.used = true
		j.claim(x, y, journey.MethodProxyLog, n)
	case n > 1:
		j.lost.contradicted.Add(1)
		x.candidates = max(x.candidates, int32(n)) //nolint:gosec // at most maxWordsLooked
	}
	return n > 0
}

// wordOfServer looks what y's server said of what it asked for it, and says whether it spoke of it.
func (j *Joiner) wordOfServer(y *Exchange) bool {
	p := j.processes[y.servedBy]
	_, caller := y.askedOn()
	if p == nil {
		return true
	}
	list := j.words.in[wordPlace{y.servedBy, journey.Connection{Remote: caller}}]
	from := sort.Search(len(list), func(i int) bool { return list[i].Start > y.answeredAt+uint64(journey.SureStart) })
	for _, w := range slices.Backward(list[max(0, from-maxWordsLooked):from]) {
		if !w.used && p.meant(w) == y {
			if w.Upstream.IsValid() {
				j.consequenceOf(p, w)
			}
			return true
		}
	}
	return false
}

// consequenceOf makes the join of a word, if it tells which exchange the proxy made.
func (j *Joiner) consequenceOf(p *process, w *word) {
	for _, e := range p.out.list[p.out.from(w.Start):] {
		if e.at > w.LatestWrite(w.Duration) {
			return
		}
		if x := e.x; x != nil && x.parent == nil && w.sent(x) && x.asking() == w.Upstream && !x.related(x.askedBy) {
			if j.wordOfCaller(x); w.used { // it looks for others who speak of x, too
				return
			}
		}
	}
}

// causeBy is the exchange that caused x, if that is what a word says.
func (j *Joiner) causeBy(p *process, w *word, x *Exchange) *Exchange {
	if w.used || !w.sent(x) {
		return nil
	}
	y := p.meant(w)
	switch {
	case y == nil || y == x, y.Req.RecvNs > x.Req.StartNs, x.Req.StartNs > y.answeredAt:
		return nil
	case x.hasID && y.hasID && x.id != y.id, x.TraceID != y.TraceID && x.TraceID != [16]byte{} && y.TraceID != [16]byte{}:
		return nil
	case leavesPod(x, y):
		return nil
	}
	return y
}

// sent says whether x may be what the proxy sent on.
func (w *word) sent(x *Exchange) bool {
	if w.hasID && x.hasID && w.id != x.id {
		return false
	}
	read := w.LatestWrite(w.Duration)
	if w.Answer > 0 { // it says this after it read, so that what was asked next on the connection is out
		read = w.Latest(w.Answer)
	}
	return x.Req.StartNs >= w.Earliest(w.Upto) && x.Req.StartNs <= read && x.askedAt <= read
}

// meant is the exchange of its process that a word is about: the one on its connection that the proxy had when it began. On a connection of
// HTTP/1 that is the first that was not answered by then. Nil: none, or it is not sure which.
func (p *process) meant(w *word) (found *Exchange) {
	list := p.in.list[p.in.from(w.Earliest(0)):]
	for _, e := range list[:min(len(list), maxLooked)] {
		if e.at > w.LatestWrite(w.Duration) {
			break
		}
		y := e.x
		if y == nil || y.Req.RecvNs > w.Latest(0) || w.hasID && y.hasID && w.id != y.id || !y.cameOn(w.Downstream) {
			continue
		}
		many := y.Stream.ID != 0
		switch {
		case many && y.Req.RecvNs+uint64(journey.Slow) < w.Earliest(0):
		case found != nil:
			return nil
		case !many && w.Sure():
			return y
		default:
			found = y
		}
	}
	return found
}

// asking is the connection of an exchange as its client has it.
func (x *Exchange) asking() journey.Connection {
	f := x.Req.Flight
	v6 := uint32(f.Flags)&bpf.FlagIPv6 != 0
	return journey.Connection{Local: addrPort(&f.SendAddr, v6, f.SendPort), Remote: addrPort(&f.SendPaddr, v6, f.SendPeer)}
}

// askedOn is the connection of an exchange as its server has it.
func (x *Exchange) askedOn() (local, caller netip.AddrPort) {
	f := x.Req.Flight
	v6 := uint32(f.Flags)&bpf.FlagRecvIPv6 != 0
	return addrPort(&f.RecvAddr, v6, f.RecvPort), addrPort(&f.RecvPaddr, v6, f.RecvPeer)
}

// cameOn says whether an exchange came on a connection as its server says it: its own end may be what the client meant.
func (x *Exchange) cameOn(c journey.Connection) bool {
	f := x.Req.Flight
	if f.RecvPeer != c.Remote.Port() {
		return false
	}
	local, caller := x.askedOn()
	return caller == c.Remote && (local == c.Local || x.asking().Remote == c.Local || f.SendPid == 0)
}

func addrPort(b *[16]byte, v6 bool, port uint16) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(netip.AddrFrom16(*b).Unmap(), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port)
}
