package join

import "github.com/meshwatch/meshwatch/bpf"

// isPlain says whether a flight is TLS and the bytes captured of it are plaintext.
func isPlain(f *bpf.Flight) bool { return uint32(f.Flags)&bpf.FlagPlain != 0 }

// isOpaque says whether a flight is TLS of which no plaintext was seen.
func isOpaque(f *bpf.Flight) bool {
	return uint32(f.Flags)&(bpf.FlagOpaque|bpf.FlagPlain) == bpf.FlagOpaque
}

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

// opaque takes TLS without plaintext: a handshake's, or more of a message, of which one flight has the plaintext; or all of a connection
// whose ends no probe is on.
func (j *Joiner) opaque(l *Leg, s *stream, f *bpf.Flight) {
	if m := s.cur; m != nil && s.plain {
		m.extend(f, j.now)
		j.settle(s)
		return
	}
	if l.syn != nil && f.Seq-l.syn.Seq > handshakeBytes && f.SendSk == l.syn.SendSk {
		l.syn = nil
	}
	j.Stats.Raw++
}

// handshakeBytes is more than what a client sends before its first request: certificates are some kilobytes each.
const handshakeBytes = 32 << 10
