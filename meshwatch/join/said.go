package join

import (
	"net/netip"
	"slices"
	"sort"
	"time"

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
	j.relate(g) // what heads say comes first
	waits := false
	for i := 0; i < len(g.xs); i++ { // it grows
		x := g.xs[i]
		if x.Resp == nil {
			continue
		}
		if _, speaks := j.words.speakers[x.ClientPid()]; speaks && x.parent == nil {
			waits = !j.wordOfCaller(x) || waits
		}
		if _, speaks := j.words.speakers[x.ServerPid()]; speaks && !x.asked {
			waits = !j.wordOfServer(x) || waits
		}
	}
	return waits && j.now-g.last < uint64(j.cfg.Hear)
}

// wordOfCaller looks what x's client said of why it asked, and says whether it spoke of it.
func (j *Joiner) wordOfCaller(x *Exchange) bool {
	var y *Exchange
	var of *word
	n, meant := 0, 0
	for w := range j.words.out[wordPlace{x.ClientPid(), x.asking()}].about(x.Req.StartNs) {
		if w.used || !w.sent(x) {
			continue
		}
		if meant++; meant > maxWordsMeant {
			n = meant
			break
		}
		if cause := j.causeBy(w, x); cause != nil && cause != y { // it may be said twice
			n++
			y, of = cause, w
		}
	}
	switch {
	case n == 1:
		of.used = j.claimSaid(x, y)
	case n > 1 && !x.contradicted:
		x.contradicted = true
		j.lost.contradicted.Add(1)
	}
	return n > 0
}

// claimSaid joins x to its cause, and says whether it could.
func (j *Joiner) claimSaid(x, y *Exchange) bool {
	return j.claim(x, y, journey.Relay{Method: journey.MethodProxyLog, Confidence: sureOfLog, Candidates: 1})
}

// wordOfServer looks what y's server said of what it asked for it, and says whether no more is to come: what it asked may not be over for us.
func (j *Joiner) wordOfServer(y *Exchange) bool {
	_, caller := y.askedOn()
	meant := 0
	for w := range j.words.in[wordPlace{y.ServerPid(), journey.Connection{Remote: caller}}].about(y.Resp.StartNs) {
		if w.used || w.Latest(0) < y.Req.RecvNs || y.Stream.ID != 0 && w.LatestWrite(w.Duration) < y.Resp.StartNs {
			continue
		}
		if meant++; meant > maxWordsMeant {
			return true
		}
		if j.meant(w) == y {
			if w.Upstream.IsValid() {
				j.consequenceOf(w)
			}
			return w.used || !w.Upstream.IsValid()
		}
	}
	return false
}

// sureOfLog is the share of such joins that are right, see docs/audit.md.
const sureOfLog = 0.9995

// consequenceOf makes the join of a word, if it tells which exchange the proxy made.
func (j *Joiner) consequenceOf(w *word) {
	list := j.words.asks[w.outPlace()].all()
	from := sort.Search(len(list), func(i int) bool { return list[i].Req.StartNs >= w.Earliest(w.Upto) })
	for _, x := range list[from:] {
		if x.Req.StartNs > w.LatestWrite(w.Duration) {
			return
		}
		if x.parent != nil || !w.sent(x) {
			continue
		}
		j.relate(x.group)
		if x.parent != nil {
			continue
		}
		if j.wordOfCaller(x); w.used { // it looks for others who speak of x, too
			return
		}
	}
}

// causeBy is the exchange that caused x, if that is what a word says.
func (j *Joiner) causeBy(w *word, x *Exchange) *Exchange {
	y := j.meant(w)
	switch {
	case y == nil || y == x, y.Req.RecvNs > x.Req.StartNs, x.Req.StartNs > y.Resp.StartNs:
		return nil
	case headsContradict(x, y), leavesPod(x, y):
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
	return x.Req.StartNs >= w.Earliest(w.Upto) && x.Req.StartNs <= read && x.Resp.RecvNs <= read
}

// meant is the exchange that a word is about: the one on its connection that the proxy had when it began. On a connection of HTTP/1 that is
// the first that was not answered by then. Nil: none, or it is not sure which.
func (j *Joiner) meant(w *word) (found *Exchange) {
	list := j.words.asked[w.inPlace()].all()
	next := j.words.beganNext(w)
	for i := sort.Search(len(list), func(i int) bool { return list[i].Req.RecvNs > w.Latest(0) }) - 1; i >= 0; i-- {
		y := list[i]
		many := y.Stream.ID != 0
		if many && y.Req.RecvNs+uint64(beginsWithin) < w.Earliest(0) || !many && y.Resp.StartNs < w.Earliest(0) {
			break
		}
		if y.Resp.StartNs < w.Earliest(0) || !j.answeredInTime(w, y, next) || w.hasID && y.hasID && w.id != y.id || !y.cameOn(w.Downstream) {
			continue
		}
		if found != nil && (many || !w.Sure()) {
			return nil
		}
		found = y
	}
	return found
}

// answeredInTime says whether what was seen as y's answer can be that of the request that a word is about. A proxy that has no CPU writes
// late; but on a connection of HTTP/1 before it begins with the next request, or nothing is said of one that was over by then.
func (j *Joiner) answeredInTime(w *word, y *Exchange, next uint64) bool {
	at := y.Resp.StartNs
	switch {
	case y.Stream.ID != 0 || !w.Sure() || next == 0 && at <= w.LatestWrite(w.Duration):
		return at <= w.LatestWrite(w.Duration)
	case next == 0:
		return j.now >= at+uint64(j.cfg.Hear-j.cfg.Hear/hearings)
	}
	return at <= next
}

// beginsWithin is how long after it read a request of HTTP/2 a proxy begins with it: many may have been in one read.
const beginsWithin = 5 * time.Millisecond

// beganNext is when, at the latest, the proxy began with what followed on the connection that a word is about; 0: it has not said that yet.
func (ws *words) beganNext(w *word) uint64 {
	list := ws.in[w.inPlace()].list
	if i := sort.Search(len(list), func(i int) bool { return list[i].Start > w.Start }); i < len(list) {
		return list[i].Latest(0)
	}
	return 0
}

// heed notes an exchange that is over where what is said of it is looked for.
func (j *Joiner) heed(x *Exchange) {
	if j.cfg.Hear == 0 || x.Resp == nil {
		return
	}
	if pid := x.ServerPid(); pid != 0 && x.Req.RecvNs != 0 {
		_, caller := x.askedOn()
		x.heeded[0] = insertHeeded(j.words.asked, wordPlace{pid, journey.Connection{Remote: caller}}, x, func(x *Exchange) uint64 { return x.Req.RecvNs })
	}
	if pid := x.ClientPid(); pid != 0 && x.Resp.RecvNs != 0 {
		x.heeded[1] = insertHeeded(j.words.asks, wordPlace{pid, x.asking()}, x, func(x *Exchange) uint64 { return x.Req.StartNs })
	}
}

func insertHeeded(m map[wordPlace]*heeded, at wordPlace, x *Exchange, when func(*Exchange) uint64) *heeded {
	h := m[at]
	if h == nil {
		h = &heeded{of: m, at: at}
		m[at] = h
	}
	i := len(h.list)
	for i > 0 && when(h.list[i-1]) > when(x) { // they come nearly in order
		i--
	}
	h.list = slices.Insert(h.list, i, x)
	return h
}

// unheed forgets an exchange that is given out.
func unheed(x *Exchange) {
	for _, h := range x.heeded {
		if h == nil {
			continue
		}
		if i := slices.Index(h.list, x); i >= 0 {
			h.list = slices.Delete(h.list, i, i+1)
		}
		if len(h.list) == 0 {
			delete(h.of, h.at)
		}
	}
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
