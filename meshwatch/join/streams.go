package join

// streams are those of one HTTP/2 connection, as its client opens them: a process writes several at once, and what reads them may take a
// while, so that they may be seen in another order. Requests are handed on in the order of their numbers.
type streams struct {
	last    uint32   // the highest that was seen, 0: none
	missing []uint32 // below, and not seen yet
}

// mostMissing bounds what is waited for.
const mostMissing = 256

// place is how many below a stream were not seen yet. False: that cannot be said. fresh says that the connection was seen to begin: its first
// stream is 1.
func (s *streams) place(id uint32, fresh bool) (n int, ok bool) {
	switch {
	case s.last == 0 && fresh && id/2 <= mostMissing:
		for between := uint32(1); between < id; between += 2 {
			s.missing = append(s.missing, between)
		}
		s.last = id
		return len(s.missing), true
	case s.last == 0 || id > s.last && (id-s.last)/2 > mostMissing-uint32(len(s.missing)): //nolint:gosec // at most mostMissing
		first := s.last == 0
		s.last, s.missing = id, s.missing[:0]
		return 0, first
	case id > s.last:
		for between := s.last + 2; between < id; between += 2 {
			s.missing = append(s.missing, between)
		}
		s.last = id
		return len(s.missing), true
	}
	for i, other := range s.missing {
		if other == id {
			s.missing = append(s.missing[:i], s.missing[i+1:]...)
			return i, true
		}
	}
	return 0, false
}

// lost takes out the one at a place: its request was answered, so it was opened unseen.
func (s *streams) lost(at int) {
	if s != nil && at < len(s.missing) {
		s.missing = append(s.missing[:at], s.missing[at+1:]...)
	}
}
