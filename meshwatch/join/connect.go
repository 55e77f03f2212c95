package join

import "github.com/meshwatch/meshwatch/bpf"

// opens keeps the SYN of a leg's connection, as it is now, for the first request on it. One that never comes is no loss:
// connections are also opened for later, and for what is not HTTP. It is followed until the socket is connected, or gives up.
func (l *Leg) opens(f *bpf.Flight) Want {
	if l.syn == nil || l.syn.Id != f.Id {
		l.syn = &bpf.Flight{}
	}
	*l.syn, l.connected = *f, f.RecvNs
	if f.RecvNs == 0 {
		return Follow
	}
	return Done
}

// opened gives the SYN to the request that begins with the connection's first byte, or behind its TLS handshake or HTTP/2 preface; nil for every other
// one.
func (l *Leg) opened(m *Message) *bpf.Flight {
	f := l.syn
	l.syn = nil
	if f == nil || f.SendSk != m.Flight.SendSk || m.Seq != f.Seq+1 && (!m.plain && l.multi == nil || m.Seq-f.Seq > handshakeBytes) {
		return nil
	}
	return f
}

// settleConnect drops a handshake that was not made for the exchange: only one that began while the process had what made
// it ask is. Of a root nobody knows what its process did before.
func (x *Exchange) settleConnect() {
	if x.Connect != nil && (x.parent == nil || !x.parent.holds(x.Connect.StartNs)) {
		x.Connect = nil
	}
}
