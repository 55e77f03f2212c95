package main

import (
	"fmt"
	"math"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// relays compares every relay that an agent claims, and every one that it does not, with the truth.
type relays struct {
	// By the kind of process, see relayKinds.
	Kinds map[string]*joined `json:"kinds"`
	// By method, over all kinds.
	Methods map[string]*joined `json:"methods"`
	// By method and confidence: among joins with a confidence, the share that is right should be that.
	Reliability map[string]*joined `json:"reliability"`
	Candidates  map[string]int     `json:"candidates"`          // exchanges without a parent by reason and number of candidates
	Responses   joined             `json:"pairs"`               // requests with their response
	EndToEnd    joined             `json:"end_to_end"`          // requests: all legs, each caused by the right one
	Disagree    int                `json:"witnesses_disagree"`  // exchanges whose truth id and connection are not of one request by the logs
	Witnessed   int                `json:"witnesses_compared"`  // exchanges of which both were seen
	Unseen      int                `json:"relays_without_legs"` // of requests that are scored: the exchange was never seen
}

// joined is how many were claimed, and rightly.
type joined struct {
	Right    int `json:"right"`
	Wrong    int `json:"wrong"`
	Unjoined int `json:"unjoined"`
}

func (c joined) claimed() int { return c.Right + c.Wrong }
func (c joined) all() int     { return c.Right + c.Wrong + c.Unjoined }

// share is in percent, NaN of nothing.
func share(part, all int) float64 {
	if all == 0 {
		return math.NaN()
	}
	return 100 * float64(part) / float64(all)
}

// relayKinds are whose work a relay is, by the leg that the process asks on.
var relayKinds = [legCount]string{
	legFrontendIn: "gateway", legFrontend: "sidecar in", legFrontendOut: "app", legBackendIn: "sidecar out", legBackend: "sidecar in",
}

// proxyKinds are those of proxies.
func proxyKinds() []string { return []string{"gateway", "sidecar in", "sidecar out"} }

func newRelays() relays {
	return relays{
		Kinds: map[string]*joined{}, Methods: map[string]*joined{}, Reliability: map[string]*joined{}, Candidates: map[string]int{},
	}
}

func in(m map[string]*joined, name string) *joined {
	c := m[name]
	if c == nil {
		c = &joined{}
		m[name] = c
	}
	return c
}

// proxies are the sum over proxies.
func (r *relays) proxies() (sum joined) {
	for _, kind := range proxyKinds() {
		if c := r.Kinds[kind]; c != nil {
			sum.Right += c.Right
			sum.Wrong += c.Wrong
			sum.Unjoined += c.Unjoined
		}
	}
	return sum
}

// services are the sum over all processes.
func (r *relays) services() joined {
	sum := r.proxies()
	if c := r.Kinds["app"]; c != nil {
		sum.Right += c.Right
		sum.Wrong += c.Wrong
		sum.Unjoined += c.Unjoined
	}
	return sum
}

// relays takes in a journey.
func (s *scorer) relays(j *journey.Journey, members []member) {
	r := &s.score.Relays
	how := map[int]*journey.Relay{}
	for i := range j.Relays {
		how[j.Relays[i].To] = &j.Relays[i]
	}
	for i, e := range j.Exchanges {
		m := members[i]
		q := s.requests[m.n]
		if !m.has || q == nil || q.state != scored {
			continue
		}
		r.Witnessed++
		if m.leg < 0 {
			r.Disagree++
			continue
		}
		s.pair(e)
		if m.leg == legEdge {
			continue
		}
		q.seen |= 1 << m.leg
		kind := in(r.Kinds, relayKinds[m.leg])
		if e.Parent < 0 {
			kind.Unjoined++
			r.Candidates[fmt.Sprintf("%s: %s, candidates: %s", relayKinds[m.leg], or(j.Unjoined, "no reason given"), few(j.Candidates))]++
			continue
		}
		p := members[e.Parent]
		right := p.has && p.n == m.n && p.leg == m.leg-1
		if right {
			q.caused |= 1 << m.leg
		}
		s.claim(kind, how[i], right)
	}
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// few names a number of candidates.
func few(n int) string {
	switch {
	case n < 5:
		return fmt.Sprint(n)
	case n < 17:
		return "5 to 16"
	case n < 64:
		return "17 to 63"
	}
	return "64 or more"
}

// claim takes in a relay that was claimed.
func (s *scorer) claim(kind *joined, how *journey.Relay, right bool) {
	cells := []*joined{kind}
	if how != nil {
		cells = append(cells, in(s.score.Relays.Methods, string(how.Method)),
			in(s.score.Relays.Reliability, fmt.Sprintf("%s, confidence %g", how.Method, how.Confidence)))
	}
	for _, c := range cells {
		if right {
			c.Right++
		} else {
			c.Wrong++
		}
	}
}

// pair takes in an exchange's response.
func (s *scorer) pair(e *journey.Exchange) {
	c := &s.score.Relays.Responses
	switch {
	case e.Response == nil:
		c.Unjoined++
	case e.Response.Start < e.Request.Recv:
		c.Wrong++
	default:
		c.Right++
	}
}

// endToEnd sums up the requests.
func (s *scorer) endToEnd(q *request) {
	const caused = allLegs &^ (1 << legEdge)
	r := &s.score.Relays
	for k := legEdge + 1; k < legCount; k++ {
		if q.seen&(1<<k) == 0 {
			r.Unseen++
		}
	}
	switch {
	case q.wrong:
		r.EndToEnd.Wrong++
	case q.caused == caused && q.roots == 1:
		r.EndToEnd.Right++
	default:
		r.EndToEnd.Unjoined++
	}
}
