package main

import (
	"fmt"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// oddJudge knows requests by their targets.
type oddJudge struct {
	requests map[string]*oddRequest
}

// oddRequest is the truth about one request, and what journeys said of it.
type oddRequest struct {
	of       *talker
	status   int
	journeys int
	wrong    bool
	flaw     string
}

func newOddJudge(all []*talker) *oddJudge {
	j := &oddJudge{requests: map[string]*oddRequest{}}
	for _, t := range all {
		for target, status := range t.asked {
			j.requests[target] = &oddRequest{of: t, status: status}
		}
	}
	return j
}

// line takes a journey. What it returns says what is wrong with it.
func (j *oddJudge) line(l *report.Line) string {
	first := j.requests[l.Exchanges[0].Target]
	var flaw string
	for _, e := range l.Exchanges {
		r := j.requests[e.Target]
		if r != first {
			return j.mixed(&l.Journey)
		}
		if r == nil {
			continue
		}
		if why := oddFault(e, r); why != "" && flaw == "" {
			flaw = why
		}
		r.wrong = r.wrong || e.Status != 0 && e.Status != r.status || wrongPairs(&l.Journey) > 0
	}
	if first == nil {
		return ""
	}
	if n := len(l.Exchanges); n != first.of.legs && flaw == "" {
		flaw = fmt.Sprintf("%d of %d legs", n, first.of.legs)
		if l.Unjoined != "" {
			flaw += ", unjoined: " + l.Unjoined
		}
	}
	first.journeys++
	if first.flaw == "" {
		first.flaw = flaw
	}
	return flaw
}

// mixed is what a journey of several requests does to each of them.
func (j *oddJudge) mixed(of *journey.Journey) string {
	for _, e := range of.Exchanges {
		if r := j.requests[e.Target]; r != nil {
			r.wrong = true
		}
	}
	return wrongJoin
}

// oddFault is why an exchange is not as it was, "" if it is.
func oddFault(e *journey.Exchange, r *oddRequest) string {
	switch {
	case e.Response == nil:
		return "no response: " + e.Error
	case e.Status != r.status:
		return fmt.Sprintf("status %d, not %d", e.Status, r.status)
	case e.Request.Recv == 0 || e.Response.Recv == 0:
		return "not read"
	}
	return ""
}

// finish sums up, for each talker.
func (j *oddJudge) finish(all []*talker) (out []*oddResult) {
	results := map[*talker]*oddResult{}
	for _, t := range all {
		if len(t.asked) == 0 && t.note == "" {
			continue
		}
		results[t] = &oddResult{Name: t.name, Causes: map[string]int{}, Note: t.note, ignored: t.oddity.ignored}
		out = append(out, results[t])
	}
	for _, r := range j.requests {
		o := results[r.of]
		o.Requests++
		switch {
		case r.wrong:
			o.Wrong++
		case r.journeys == 0:
			o.Causes[noJourney]++
		case r.flaw != "":
			o.Causes[r.flaw]++
		case r.journeys > 1:
			o.Causes[duplicateJourney]++
		default:
			o.Right++
		}
	}
	return out
}
