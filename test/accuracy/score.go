package main

import (
	"fmt"
	"net/netip"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// truthHeader carries the truth id. The agent captures it, and must not join by it.
const truthHeader = "x-truth-id"

// scorer compares journeys with the truth. Give it every journey, in any order, then ask for the score.
type scorer struct {
	*truth
	score score
}

// cause is why a request is not complete: a kind of which there are few, and what exactly.
type cause struct{ kind, detail string }

// The kinds of causes, in the order in which they are looked for.
const (
	wrongJoin        = "wrong join"
	noJourney        = "no journey"
	duplicateJourney = "duplicate journey"
	unjoined         = "unjoined"
	missingLeg       = "missing leg"
	duplicateLeg     = "duplicate leg"
	noResponse       = "no response"
	missingHop       = "missing hop"
	badStatus        = "status"
	badCall          = "call"
	noTruth          = "no truth id" // on a connection that requests share: nobody can say whose it is
)

// score is the sum over all requests of a run.
type score struct {
	Requests    map[string]int `json:"requests"` // by stateNames: those that are not scored say why
	Scored      int            `json:"scored"`
	Complete    int            `json:"complete"`
	Streams     counted        `json:"streams"`    // gRPC calls that stream; not among Scored and Complete
	Incomplete  map[string]int `json:"incomplete"` // by kind of cause
	Causes      map[string]int `json:"causes"`     // the same by kind and detail
	Journeys    int            `json:"journeys"`
	Foreign     int            `json:"foreign"` // journeys without a truth id of this run
	WrongJoins  int            `json:"wrong_joins"`
	WrongRelays int            `json:"wrong_relays"`
	WrongPairs  int            `json:"wrong_pairs"` // responses that were sent before their request was read
	Relays      *relayScore    `json:"relays"`
	Unjoined    map[string]int `json:"unjoined"` // legs that are not in the journey of their root, by the agent's reason
}

// counted is how many were scored, and how many of them are complete.
type counted struct {
	Scored   int `json:"scored"`
	Complete int `json:"complete"`
}

func newScorer(t *truth) *scorer {
	return &scorer{truth: t, score: score{
		Relays:   newRelayScore(),
		Requests: map[string]int{}, Incomplete: map[string]int{}, Causes: map[string]int{}, Unjoined: map[string]int{},
	}}
}

// member is an exchange of a journey and the request whose truth id it carries.
type member struct {
	n   uint64
	has bool
	leg int  // -1: none that the request had
	bad bool // no leg, although the logs name all of them
}

// line is for a judge.
func (s *scorer) line(l *report.Line) string { return s.journey(&l.Journey) }

// journey scores one journey. What it returns says what is wrong with it, "" if nothing is.
func (s *scorer) journey(j *journey.Journey) string {
	s.score.Journeys++
	members, r, mixed := s.members(j)
	if r == nil && !mixed {
		s.score.Foreign++
		return ""
	}
	s.relays(j, members)
	relays, pairs := wrongRelays(j, members), wrongPairs(j)
	if mixed || relays+pairs > 0 {
		s.score.WrongJoins++
		s.score.WrongRelays += relays
		s.score.WrongPairs += pairs
		for _, m := range members {
			if r := s.requests[m.n]; m.has && r != nil {
				r.wrong = true
			}
		}
		return wrongJoin
	}
	var legs uint8
	var flaw cause
	for i, m := range members {
		if m.leg < 0 {
			continue // not in the logs, so that nobody can say
		}
		if legs&(1<<m.leg) != 0 {
			flaw = flaw.or(cause{duplicateLeg, s.mesh.legs[m.leg].name})
		}
		legs |= 1 << m.leg
		flaw = flaw.or(s.exchange(j.Exchanges[i], &s.mesh.legs[m.leg], r.call))
		if !m.has && j.Exchanges[i].Stream != 0 {
			flaw = flaw.or(cause{noTruth, s.mesh.legs[m.leg].name})
		}
	}
	if legs&(1<<legEdge) == 0 {
		return s.apart(j, r, legs)
	}
	r.roots++
	r.main |= legs
	r.flaw = r.flaw.or(flaw)
	switch {
	case r.state != scored:
		return ""
	case flaw.kind == "" && legs != allLegs:
		return missingLeg
	}
	return flaw.kind
}

// apart notes legs that are not in the journey of their root.
func (s *scorer) apart(j *journey.Journey, r *request, legs uint8) string {
	r.apart |= legs
	r.why = j.Unjoined
	if r.why == "" {
		r.why = "no reason given"
	}
	if r.state != scored {
		return ""
	}
	for k := range legCount {
		if legs&(1<<k) != 0 {
			s.score.Unjoined[r.why]++
		}
	}
	return unjoined
}

// members finds for each exchange its request and its leg there. r is the request of all of them; mixed says that there
// are several, or that an exchange was on a connection that the request never used. Nil and not mixed: none is of this run.
func (s *scorer) members(j *journey.Journey) (list []member, r *request, mixed bool) {
	list = make([]member, len(j.Exchanges))
	first := -1
	for i, e := range j.Exchanges {
		m := &list[i]
		m.leg = -1
		m.n, m.has = s.number(e.Headers[truthHeader])
		switch {
		case m.has && first < 0:
			first = i
		case m.has && m.n != list[first].n:
			mixed = true
		}
	}
	if first < 0 {
		return list, nil, false
	}
	r = s.requests[list[first].n]
	for i, e := range j.Exchanges {
		m, of := &list[i], r
		if m.has {
			of = s.requests[m.n]
		}
		if of == nil {
			continue
		}
		m.leg = s.leg(of, e.Leg.Client.Local, e.Leg.Client.Peer)
		if m.leg < 0 && e.Leg.Server.Known { // the log has the server's view: NAT may have had to change the client's port
			m.leg = s.leg(of, netip.AddrPortFrom(e.Leg.Client.Local.Addr(), e.Leg.Server.Peer.Port()), e.Leg.Client.Peer)
		}
		m.bad = m.leg < 0 && of.logged == allLegs
		mixed = mixed || m.bad
	}
	return list, r, mixed
}

// wrongRelays counts relays between different requests, those that skip a leg or go back, and exchanges that were not
// inside of the one that is said to have caused them.
func wrongRelays(j *journey.Journey, members []member) (wrong int) {
	for i, e := range j.Exchanges {
		if e.Parent < 0 {
			continue
		}
		p := j.Exchanges[e.Parent]
		a, b := members[e.Parent], members[i]
		switch {
		case a.has && b.has && a.n != b.n, a.bad, b.bad, a.leg >= 0 && b.leg >= 0 && b.leg != a.leg+1, !inside(e, p):
			wrong++
		}
	}
	return wrong
}

// inside says whether an exchange lies in the time in which its parent's server had the request and had not answered.
func inside(e, parent *journey.Exchange) bool {
	if read := parent.Request.Recv; read != 0 && e.Request.Start < read {
		return false
	}
	return e.Response == nil || parent.Response == nil || e.Response.Recv <= parent.Response.Start
}

// wrongPairs counts responses that were sent before their request was read.
func wrongPairs(j *journey.Journey) (wrong int) {
	for _, e := range j.Exchanges {
		if e.Response != nil && e.Response.Start < e.Request.Recv {
			wrong++
		}
	}
	return wrong
}

// exchange looks for a fault in an exchange itself.
func (s *scorer) exchange(e *journey.Exchange, l *leg, c *call) cause {
	flights := []*journey.Flight{&e.Request, e.Response}
	if e.Response == nil {
		flights = flights[:1]
	}
	for i, f := range flights {
		if name := s.mesh.missingHop(l, f, i == 1); name != "" {
			return cause{missingHop, fmt.Sprintf("%s, %s: %s%s", l.name, [...]string{"request", "response"}[i], name, circumstances(f))}
		}
	}
	switch {
	case e.Response == nil:
		return cause{noResponse, l.name + ": " + e.Error}
	case e.Status != 200:
		return cause{badStatus, fmt.Sprintf("%s: %d", l.name, e.Status)}
	}
	if c != nil {
		if why := c.fault(e); why != "" {
			return cause{badCall, l.name + ": " + why}
		}
	}
	return cause{}
}

// circumstances are what may explain that a hop is missing.
func circumstances(f *journey.Flight) string {
	switch {
	case f.Truncated:
		return ", record full"
	case f.Retransmits > 0:
		return ", sent again"
	case f.DropReason != 0:
		return ", dropped"
	case len(f.Stamps) == 0:
		return ", no stamps"
	case f.Recv == 0:
		return ", not read"
	}
	return ""
}

func (c cause) or(other cause) cause {
	if c.kind != "" {
		return c
	}
	return other
}
