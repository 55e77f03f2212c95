package join

import "time"

// request puts a request in the leg's queue and in its group.
func (j *Joiner) request(m *Message) {
	l, x := m.leg, j.newExchange(m)
	j.Stats.Requests++
	x.unsure = j.doubtful(m)
	if pid := m.RecvPid; pid != 0 {
		j.servers[pid] = j.now
	}
	x.Connect = l.opened(m)
	l.queue = append(l.queue, x)
	j.askedBy(x)
	if o := &l.dirs[1-m.dir]; o.cur != nil && !o.cur.lacks() && !before(m.Ack, o.cur.End) {
		j.supersede(o) // the connection is used again by one who has had all of the response
	}
	j.measure(m)
	j.identify(x)
	j.shelve(x)
	for len(l.early) > 0 {
		r := l.early[0]
		if !j.pair(r, l.skipped) {
			break
		}
		l.early = l.early[1:]
	}
}

// How many requests in a row must have been sent after the answer to the one before, until it is believed that none is under way of which
// nobody knows: one that is answered first, so that each response is another's.
const (
	proofs    = 4
	proofsAll = 32 // on a connection whose client is known to pipeline
)

// doubts notes that requests may be under way that were not seen: the responses to those that follow cannot be told.
func (l *Leg) doubts() {
	if l.doubt = proofs; l.pipelines {
		l.doubt = proofsAll
	}
}

// doubtsAll notes that it may have been so before, or that some were answered unseen.
func (l *Leg) doubtsAll() {
	l.doubts()
	for _, x := range l.queue {
		x.unsure = true
	}
}

// doubtful says whether the response to a request that is new cannot be told from those to others. What is missing before it may be another
// request; of a client that asks one after the other that is answered if it has had more than the answers that were seen.
func (j *Joiner) doubtful(m *Message) bool {
	l := m.leg
	s := &l.dirs[m.dir]
	missed, together := s.skips(m), l.hasAsked && !before(l.asked, m.Ack)
	if o := &l.dirs[1-m.dir]; !o.seen && !o.counted && !m.plain { // what it sends begins here
		o.upto, o.counted = m.Ack, true
	}
	l.asked, l.hasAsked = m.Ack, true
	l.pipelines = l.pipelines || together
	switch {
	case together && l.opener == 0 && !l.hasAnswered:
		l.doubtsAll()
	case together && (missed || l.doubt > 0), missed && (l.pipelines || !l.waited(m)):
		l.doubts()
	case l.doubt > 0:
		if l.doubt--; l.doubt == 0 {
			for len(l.queue) > 0 {
				j.unanswered(l, "behind-a-gap")
			}
		}
	}
	return l.doubt > 0
}

// waited says whether a request was sent after an answer that belongs to none of those that were seen.
func (l *Leg) waited(m *Message) bool {
	if l.hasAnswered {
		return before(l.answered, m.Ack)
	}
	return len(l.early) > 0 && before(l.early[0].Seq, m.Ack)
}

// measure gives away the times of a message that is of an exchange, unless nobody has read it yet.
func (j *Joiner) measure(m *Message) {
	if j.cfg.Measure != nil && m.RecvNs != 0 {
		m.Measured = true
		j.cfg.Measure(m)
	}
}

// methodFor is the method of the request that a response will be paired with: it decides whether there is a body.
func methodFor(l *Leg, m *Message) method {
	for _, x := range l.queue {
		if x.Client != m.dir {
			return x.method
		}
	}
	return methodUnknown
}

// response pairs a response with its request, or keeps it for one that is late.
func (j *Joiner) response(m *Message) {
	j.Stats.Responses++
	l := m.leg
	s := &l.dirs[m.dir]
	skipped := s.skips(m)
	switch {
	case !l.pipelines:
	case skipped:
		l.doubtsAll() // which of them was answered by what is missing?
	case !s.counted && l.hasAnswered && before(l.answered, m.Seq):
		l.answered = m.Seq // all of it was of the one before, also what was sent since that was looked at
	}
	if j.head(m).Interim {
		l.answered, l.hasAnswered = m.End, true
		return // the real one follows; cur stays, its flights are not of the response
	}
	if skipped = skipped && s.counted; j.pair(m, skipped) {
		return
	}
	l.skipped = skipped || l.skipped && len(l.early) > 0
	l.early = append(l.early, m)
	if len(l.early) > maxPipelined {
		j.unpaired(l.early[0])
		j.freeMessage(l.early[0])
		l.early = l.early[1:]
	}
}

// pair finds the request that a response answers by order and by what both ends had acknowledged. skipped: bytes before it were not seen. It
// returns false when no request is there yet.
func (j *Joiner) pair(m *Message, skipped bool) bool {
	l := m.leg
	// A request that was sent after data beyond the response before it had come in proves that the one before it was
	// answered: by a response that we missed.
	for len(l.queue) > 1 {
		next := l.queue[1].Req.Ack
		if !before(l.answeredUpto(), next) || before(m.Seq, next) {
			break
		}
		if l.pipelines {
			l.doubtsAll()
			break
		}
		j.unanswered(l, "response-not-seen")
		l.answered, l.hasAnswered = next, true
	}
	if len(l.queue) == 0 {
		return false
	}
	x := l.queue[0]
	if x.Client == m.dir {
		// a request and a "response" in one direction: not what we took it for
		j.lost.strayBody.Add(1)
		j.freeMessage(m)
		return true
	}
	if late := !before(x.Req.Seq, m.Ack) || x.Req.RecvPid != 0 && m.StartNs < x.Req.RecvNs; late || before(m.Seq, x.Req.Ack) {
		if late && !before(m.Seq, x.Req.Ack) { // which did not wait for it
			l.pipelines = true
			l.doubtsAll()
		}
		l.answered, l.hasAnswered = m.End, true
		j.unpaired(m) // sent before this request was, or was read: its own was never seen
		j.freeMessage(m)
		return true
	}
	if x.unsure || skipped && before(x.Req.Ack, m.Seq) && before(l.answeredUpto(), m.Seq) { // the latter: what is missing answers it
		j.lost.unsure.Add(1)
		l.answered, l.hasAnswered = m.End, true
		j.unanswered(l, "behind-a-gap")
		j.freeMessage(m)
		return true
	}
	l.queue = append(l.queue[:0], l.queue[1:]...)
	x.Resp = m
	j.fixBody(m, x.method) // not known before if it came first
	if upgrades(m) {
		x.Resp = nil
		j.freeMessage(m)
		j.upgrade(l, x)
		return true
	}
	if m.Status == 101 || x.method == methodConnect && m.Status/100 == 2 {
		l.upgraded = true
	}
	m.exchange = x
	j.measure(m)
	l.answered, l.hasAnswered = m.End, true
	j.identify(x)
	j.consider(x)
	j.byGoroutine(x)
	if m.over() || l.upgraded || l.dirs[m.dir].cur != m {
		j.finish(x)
	}
	return true
}

// answeredUpto is the end of the latest response, or of what had come in before the oldest request when there was none yet.
func (l *Leg) answeredUpto() uint32 {
	if l.hasAnswered {
		return l.answered
	}
	return l.queue[0].Req.Ack
}

// unanswered finishes the oldest request of a leg without its response.
func (j *Joiner) unanswered(l *Leg, why string) {
	x := l.queue[0]
	l.queue = append(l.queue[:0], l.queue[1:]...)
	x.Error = why
	j.lost.unpairedRequest.Add(1)
	j.finish(x)
}

// quietBody is how long a body without a length may be quiet before it is taken for whole, in ns. It is more than a second between
// two parts where events are streamed: those journeys end early, which the README's limits say.
const quietBody = uint64(time.Second)

// expire gives up the requests of a leg that have waited too long for a response, or for the rest of one.
func (j *Joiner) expire(l *Leg) {
	if l.multi != nil {
		l.multi.expire()
	}
	for i := range l.dirs {
		s := &l.dirs[i]
		m := s.answering()
		if m == nil {
			continue
		}
		switch quiet := j.now - m.grew; {
		case m.lacks() && quiet > uint64(j.cfg.Expire):
			m.exchange.Error = "response-cut"
			j.supersede(s)
		case !m.lacks() && quiet > quietBody:
			j.supersede(s)
		}
	}
	for len(l.queue) > 0 && j.now-l.queue[0].since > uint64(j.cfg.Expire) {
		x := l.queue[0]
		l.queue = append(l.queue[:0], l.queue[1:]...)
		x.Error = "no-response"
		j.lost.noResponse.Add(1)
		j.finish(x)
	}
}
