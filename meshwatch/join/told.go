package join

import "github.com/meshwatch/meshwatch/bpf"

// told is plaintext of HTTP/2 with which no flight need begin: of a write that waited for the window, or left in the middle of a packet.
// Its record says which part of the stream it became. In comments: a text.
type told struct {
	f     bpf.Flight
	head  []byte
	since uint64
}

// maxTexts is how many of one direction of a leg wait for the flight that they left in, in ready memory of 100 KB.
const maxTexts = 256

// isTold says whether a flight's plaintext is in texts.
func isTold(f *bpf.Flight) bool { return isPlain(f) && isJoined(f) && f.HeadTotal == 0 }

// written takes a text. One that is lost is noticed by its place in the stream.
func (j *Joiner) written(f *bpf.Flight, b []byte) {
	h, ok := j.halves[f.SendSk]
	if !ok || h.leg.after(f) || !h.leg.ends[h.side].is(f.SendPort, f.SendPeer) || len(h.leg.dirs[h.side].texts) == maxTexts {
		j.lost.lateText.Add(1)
		return
	}
	l, s := h.leg, &h.leg.dirs[h.side]
	s.texts = append(s.texts, told{*f, append([]byte(nil), b...), j.now})

	j.holding[l] = struct{}{}
}

// withTexts reads a flight of a direction in which there are texts: those that left before it, its own plaintext or the text that it begins
// with, and what else left in it.
func (j *Joiner) withTexts(l *Leg, d uint8, f *bpf.Flight, b []byte) {
	s := &l.dirs[d]
	for len(s.texts) > 0 && before(s.texts[0].f.Seq, f.Seq) {
		j.leftAlone(l, d)
	}
	if len(s.texts) == 0 || s.texts[0].f.Seq != f.Seq || !isOpaque(f) && !isTold(f) {
		part := *f
		if isTold(f) { // its text is lost, or was taken for one that left without it
			part.Flags, b = part.Flags&^(plainFlag|joinedFlag), nil
		}
		if len(s.texts) > 0 && before(s.texts[0].f.Seq, f.End) {
			part.End = s.texts[0].f.Seq
		}
		j.read(l, d, &part, b)
	}
	for len(s.texts) > 0 && before(s.texts[0].f.Seq, f.End) {
		j.leftIn(l, d, f)
	}
}

// leftIn reads the oldest text of a direction as what left in a flight, or behind it.
func (j *Joiner) leftIn(l *Leg, d uint8, f *bpf.Flight) {
	s := &l.dirs[d]
	t := s.texts[0]
	s.texts = append(s.texts[:0], s.texts[1:]...)
	part := *f
	part.Flags = part.Flags&^(joinedFlag|awaitsFlag) | plainFlag
	part.Seq, part.End, part.PlainLen = t.f.Seq, t.f.End, t.f.PlainLen
	part.SendPid, part.SendTid = t.f.SendPid, t.f.SendTid
	if part.Seq != f.Seq && t.f.StartNs > f.StartNs { // in a later packet than the flight's first: of that, nothing more is known
		j.lost.hops.Add(1)
		part.StartNs, part.SendNs, part.Nstamps = t.f.StartNs, t.f.StartNs, 0
		part.RecvNs = max(f.RecvEndNs, t.f.StartNs)
		part.RecvEndNs = part.RecvNs
	}
	j.read(l, d, &part, t.head)
}

// leftAlone reads the oldest text of a direction, although the flight that it left in was not seen: as more of the one before.
func (j *Joiner) leftAlone(l *Leg, d uint8) {
	if m := l.multi; m != nil && m.sides[d].latest.Id != 0 {
		j.leftIn(l, d, &m.sides[d].latest)
		return
	}
	s := &l.dirs[d]
	s.texts = append(s.texts[:0], s.texts[1:]...)
	j.lost.lateText.Add(1)
}

// textLate is how long a text waits for its flight, which its receiver may not have read for long, in ns.
const textLate = 2 * earlyBy

// releaseTexts reads the texts that no flight will be seen of, and those of flights that were read before they came.
func (j *Joiner) releaseTexts(l *Leg) (waits bool) {
	for d := range l.dirs {
		s := &l.dirs[d]
		for len(s.texts) > 0 {
			t := &s.texts[0]
			left := s.seen && !before(s.last, t.f.Prev) && before(t.f.Seq, s.end)
			if !left && j.now-t.since < textLate {
				break
			}
			j.leftAlone(l, uint8(d)) //nolint:gosec // 0 or 1
		}
		waits = waits || len(s.texts) > 0
	}
	return waits
}

// flushTexts reads all texts of a leg that is over.
func (j *Joiner) flushTexts(l *Leg) {
	for d := range l.dirs {
		for len(l.dirs[d].texts) > 0 {
			j.leftAlone(l, uint8(d)) //nolint:gosec // 0 or 1
		}
	}
}
