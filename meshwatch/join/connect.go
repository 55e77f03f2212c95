package join

import (
	"math"

	"github.com/meshwatch/meshwatch/bpf"
)

// opens keeps the SYN of a leg's connection, as it is now, for the first request on it. One that never comes is no loss:
// connections are also opened for later, and for what is not HTTP. It is followed until it is delivered.
func (l *Leg) opens(f *bpf.Flight) (want Want) {
	if f.RecvNs == 0 {
		want = Follow
	}
	switch {
	case !l.sentAgain(f):
		syn := *f
		l.syn = &syn
	case l.syn.Id == f.Id:
		*l.syn = *f
	case want == Done:
		sendAgain(l.syn, f)
	}
	return want
}

// sentAgain says whether f is the SYN that opened this leg, sent again. Usually that is one flight; it is two where the
// first one was delivered and only the answer was lost.
func (l *Leg) sentAgain(f *bpf.Flight) bool {
	return l.syn != nil && l.syn.SendSk == f.SendSk && l.syn.Seq == f.Seq
}

// sendAgain makes one flight of a SYN and the same SYN later.
func sendAgain(f, later *bpf.Flight) {
	n := min(f.Nstamps, uint32(len(f.Stamps)))
	for _, s := range later.Stamps[:min(later.Nstamps, uint32(len(f.Stamps)))] {
		if int(n) == len(f.Stamps) {
			break
		}
		s.Delta = uint32(min(later.StartNs-f.StartNs+uint64(s.Delta), math.MaxUint32)) //nolint:gosec // as the recorder: saturates
		f.Stamps[n] = s
		n++
	}
	f.Nstamps += later.Nstamps
	f.SendNs, f.RecvNs, f.RecvEndNs, f.RecvNetns = later.SendNs, later.RecvNs, later.RecvEndNs, later.RecvNetns
	f.Retransmits += later.Retransmits
	if later.DropReason != 0 {
		f.DropReason = later.DropReason
	}
}

// opened gives the SYN to the request that begins with the connection's first byte; nil for every other one.
func (l *Leg) opened(m *Message) *bpf.Flight {
	f := l.syn
	l.syn = nil
	if f == nil || f.SendSk != m.Flight.SendSk || m.Flight.Seq != f.Seq+1 {
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
