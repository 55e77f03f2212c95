package join

import (
	"net/netip"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// What proxies say of their own requests, where that may make joins (Config.Hear): on which connection one came and on which it went on. It
// counts behind ids, and ahead of everything else. A process is heard about its own exchanges alone, so one that lies can only tell of itself,
// and nothing that it says makes a join sure.

const (
	// maxWordsLooked is how many words about one connection are looked at for one exchange, and maxWordsMeant how many that may be about it:
	// a process that says more of it than that has said nothing.
	maxWordsLooked = 512
	maxWordsMeant  = 32
	// hearings is how often it is looked, while an exchange waits, whether its proxy spoke of it.
	hearings = 6
)

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
	var y *Exchange
	var of *word
	n, meant := 0, 0
	for w := range j.words.out[at].about(x.Req.StartNs) {
		if w.used || !w.sent(x) {
			continue
		}
		if meant++; meant > maxWordsMeant {
			n = meant
			break
		}
		if cause := j.causeBy(p, w, x); cause != nil && cause != y { // it may be said twice
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
	meant := 0
	for w := range j.words.in[wordPlace{y.servedBy, journey.Connection{Remote: caller}}].about(y.answeredAt) {
		if w.used || w.Latest(0) < y.Req.RecvNs || w.LatestWrite(w.Duration) < y.answeredAt {
			continue
		}
		if meant++; meant > maxWordsMeant {
			return true
		}
		if p.meant(w) == y {
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
	list := p.out.list[p.out.from(w.Start):]
	for _, e := range list[:min(len(list), maxLooked)] {
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
