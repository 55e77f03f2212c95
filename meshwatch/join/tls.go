package join

import "github.com/meshwatch/meshwatch/bpf"

// isPlain says whether a flight is TLS and the bytes captured of it are plaintext.
func isPlain(f *bpf.Flight) bool { return uint32(f.Flags)&bpf.FlagPlain != 0 }

// isOpaque says whether a flight is TLS of which no plaintext was seen.
func isOpaque(f *bpf.Flight) bool {
	return uint32(f.Flags)&(bpf.FlagOpaque|bpf.FlagPlain) == bpf.FlagOpaque
}

// isRead says whether a flight's plaintext was taken where it was read: perhaps not all of it at once.
func isRead(f *bpf.Flight) bool { return uint32(f.Flags)&bpf.FlagAwaits != 0 }

// isJoined says whether a flight's plaintext is that of HeadTotal writes; of none: it is in texts.
func isJoined(f *bpf.Flight) bool { return uint32(f.Flags)&bpf.FlagJoined != 0 }

// carries is how many bytes of its message a flight has: of plaintext, where it is TLS. One call of a TLS library may make several
// records, each a flight of its own: the first has the length of all.
func carries(f *bpf.Flight) uint64 {
	switch {
	case isPlain(f):
		return uint64(f.PlainLen)
	case isOpaque(f):
		return 0
	}
	return uint64(f.End - f.Seq)
}

// behind is what is left of a flight behind its first n bytes.
func behind(f *bpf.Flight, n uint32) bpf.Flight {
	part := *f
	if isPlain(f) {
		part.PlainLen -= n
	} else {
		part.Seq += n
	}
	return part
}

// awaitsText says whether plaintext of a flight is still to come, as a record of its own: its reader has probes, its sender has none.
func awaitsText(f *bpf.Flight) bool {
	return uint32(f.Flags)&(bpf.FlagAwaits|bpf.FlagPlain) == bpf.FlagAwaits
}

// text takes plaintext that was read. It belongs to a flight that is held for it; what a reader took in several parts goes on with the
// flight's message. Reads are in order: no plaintext of flights before this one will come.
func (j *Joiner) text(f *bpf.Flight, b []byte) {
	h, ok := j.halves[f.SendSk]
	if !ok || h.leg.after(f) {
		j.lost.lateText.Add(1)
		return
	}
	l, s := h.leg, &h.leg.dirs[h.side]
	for i := range l.held {
		of := &l.held[i]
		if of.dir != h.side || !awaitsText(&of.f) || before(f.Prev, uint32(of.f.Id)) { //nolint:gosec // low half, as Flight.Prev
			continue
		}
		if uint32(of.f.Id) != f.Prev { //nolint:gosec // the same
			of.noText()
			continue
		}
		of.f.Flags |= plainFlag
		of.f.PlainLen, of.head = f.PlainLen, append(of.head[:0], b...)
		j.release(l)
		return
	}
	if s.last != f.Prev || !s.plain {
		j.lost.lateText.Add(1)
		return
	}
	more := *f
	more.Id, more.Seq, more.End = uint64(s.last), s.end, s.end
	if m := s.cur; m != nil {
		more.StartNs, more.Ack = m.StartNs, m.Ack
		more.SendPort, more.SendPeer = m.Flight.SendPort, m.Flight.SendPeer
	}
	j.consume(l, h.side, &more, b)
}

// noText gives up waiting for a flight's plaintext.
func (h *held) noText() { h.f.Flags &^= awaitsFlag }

const (
	plainFlag  = bpf.Flags(bpf.FlagPlain)
	awaitsFlag = bpf.Flags(bpf.FlagAwaits)
	joinedFlag = bpf.Flags(bpf.FlagJoined)
)

// opaque takes TLS without plaintext: a handshake's, or more of a message, of which one flight has the plaintext; or all of a connection
// whose ends no probe is on.
func (j *Joiner) opaque(l *Leg, d uint8, f *bpf.Flight) {
	s := &l.dirs[d]
	if l.multi != nil {
		l.multi.opaque(d, f)
		return
	}
	if m := s.cur; m != nil && s.plain {
		m.extend(f, j.now)
		j.settle(s)
		return
	}
	if l.syn != nil && f.Seq-l.syn.Seq > handshakeBytes && f.SendSk == l.syn.SendSk {
		l.syn = nil
	}
	if l.opener == 1+d && !s.plain {
		j.shakes(l, f)
	}
	j.Stats.Raw++
	if s.opaque < oneWay {
		s.opaque++
	} else if s.opaque == oneWay && f.RecvPid != 0 && l.dirs[1-d].plain {
		s.opaque++
		if j.cfg.Unprobed != nil {
			j.cfg.Unprobed(f.RecvPid)
		}
	}
}

// oneWay is more flights than a handshake takes: behind it they are messages.
const oneWay = 4

// handshakeBytes is more than what a client sends before its first request: certificates are some kilobytes each.
const handshakeBytes = 32 << 10
