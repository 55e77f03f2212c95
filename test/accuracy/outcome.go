package main

// finish sums up once all journeys were seen.
func (s *scorer) finish() score {
	var all counted // but calls that stream
	for _, r := range s.requests {
		s.score.Requests[stateNames[r.state]]++
		if r.state != scored {
			continue
		}
		of := &all
		if r.call != nil && r.call.streams {
			of = &s.score.Streams
		}
		of.Scored++
		s.score.Relays.trace(r)
		c := s.outcome(r)
		if c.kind == "" {
			of.Complete++
			continue
		}
		s.score.Incomplete[c.kind]++
		if c.detail != "" {
			c.kind += ": " + c.detail
		}
		s.score.Causes[c.kind]++
	}
	s.score.Scored, s.score.Complete = all.Scored, all.Complete
	return s.score
}

// outcome is why a request is not complete; the zero value: it is.
func (s *scorer) outcome(r *request) cause {
	missing := allLegs &^ r.main
	switch {
	case r.wrong:
		return cause{wrongJoin, ""}
	case r.roots == 0 && r.apart == 0:
		return cause{noJourney, ""}
	case r.roots > 1:
		return cause{duplicateJourney, ""}
	case missing&r.apart != 0:
		return cause{unjoined, r.why + ", from " + s.firstLeg(missing&r.apart)}
	case missing != 0:
		return cause{missingLeg, s.firstLeg(missing)}
	case r.apart != 0:
		return cause{duplicateLeg, s.firstLeg(r.apart) + ", in a journey of its own too"}
	}
	return r.flaw
}

func (s *scorer) firstLeg(legs uint8) string {
	for k := range s.mesh.legs {
		if legs&(1<<k) != 0 {
			return s.mesh.legs[k].name
		}
	}
	return ""
}

// percent of scored requests that are complete.
func (s *score) percent() float64 { return 100 * float64(s.Complete) / float64(s.Scored) }
