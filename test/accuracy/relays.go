package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/result"
)

// kinds of processes, by the leg that one asked for.
var kinds = [legCount]string{
	legFrontendIn: "gateway", legFrontend: "sidecar in", legFrontendOut: "app", legBackendIn: "sidecar out", legBackend: "sidecar in",
}

// The bars of relays without an id on both sides: percent of what a sidecar asked for its app, and of what was claimed.
const (
	barClaimedVaried = 99.0
	barClaimedFew    = 99.0 // of requests that look alike, up to 4 under way per worker
	barClaimedSome   = 90.0 // and up to 16; beyond, what can be proven
	barClaimedSaid   = 99.9 // where the sidecar says it, of those that were recorded whole
	barWrongShare    = 0.1
)

// relayScore is how many relays were right, as far as the truth says: by the process's kind and the agent's method.
type relayScore struct {
	Claimed   map[string]map[string]*claimed `json:"claimed"`   // kind → method
	Unjoined  map[string]map[int]int         `json:"unjoined"`  // kind → candidates, as the agent has them → exchanges that stayed apart
	Apart     map[string]int                 `json:"apart"`     // kind → those of them that were recorded whole, and their causes too
	Exchanges int                            `json:"exchanges"` // of requests that are scored
	Paired    int                            `json:"paired"`    // of them: with the response that is theirs
	Traces    int                            `json:"traces"`    // requests that are scored
	Whole     int                            `json:"whole"`     // of them: all legs in one journey, and nothing else
	Disagree  int                            `json:"disagree"`  // exchanges on a connection that the access logs do not name for the request whose truth id they carry
}

// claimed are the relays of one kind and method.
type claimed struct {
	Right      int     `json:"right"`
	Wrong      int     `json:"wrong"`
	Confidence float64 `json:"confidence"` // the sum of what the agent said
}

func newRelayScore() *relayScore {
	return &relayScore{Claimed: map[string]map[string]*claimed{}, Unjoined: map[string]map[int]int{}, Apart: map[string]int{}}
}

// relays scores a journey's. members has the truth: the id in its head says whose an exchange is, the access logs which of its legs.
func (s *scorer) relays(j *journey.Journey, members []member) {
	of := map[int]*journey.Relay{}
	for i := range j.Relays {
		of[j.Relays[i].To] = &j.Relays[i]
	}
	sc := s.score.Relays
	for i, e := range j.Exchanges {
		m := members[i]
		r := s.requests[m.n]
		if !m.has || r == nil || r.state != scored {
			continue
		}
		sc.Exchanges++
		if e.Response != nil && e.Response.Start >= e.Request.Recv {
			sc.Paired++
			if m.leg >= 0 {
				r.whole |= 1 << m.leg
			}
		}
		if m.bad {
			sc.Disagree++
		}
		if m.leg <= legEdge {
			continue
		}
		kind := kinds[m.leg]
		if e.Parent < 0 {
			if sc.Unjoined[kind] == nil {
				sc.Unjoined[kind] = map[int]int{}
			}
			sc.Unjoined[kind][j.Candidates]++
			r.lone |= 1 << m.leg
			continue
		}
		sc.claim(kind, of[i], members[e.Parent], m)
	}
}

// claim scores one relay.
func (sc *relayScore) claim(kind string, r *journey.Relay, parent, m member) {
	if r == nil {
		r = &journey.Relay{Method: "none said"}
	}
	if sc.Claimed[kind] == nil {
		sc.Claimed[kind] = map[string]*claimed{}
	}
	c := sc.Claimed[kind][string(r.Method)]
	if c == nil {
		c = &claimed{}
		sc.Claimed[kind][string(r.Method)] = c
	}
	c.Confidence += r.Confidence
	if parent.has && parent.n != m.n || parent.leg >= 0 && parent.leg != m.leg-1 {
		c.Wrong++
		return
	}
	c.Right++
}

// trace scores a request as a whole.
func (sc *relayScore) trace(r *request) {
	sc.Traces++
	for leg := legEdge + 1; leg < legCount; leg++ {
		if both := uint8(3) << (leg - 1); r.lone&(1<<leg) != 0 && r.whole&both == both {
			sc.Apart[kinds[leg]]++
		}
	}
	if !r.wrong && r.roots == 1 && r.main == allLegs {
		sc.Whole++
	}
}

// of sums up a kind: relays that are right, wrong, and those that are not claimed.
func (sc *relayScore) of(kind string) (right, wrong, apart int) {
	for _, c := range sc.Claimed[kind] {
		right, wrong = right+c.Right, wrong+c.Wrong
	}
	for _, n := range sc.Unjoined[kind] {
		apart += n
	}
	return right, wrong, apart
}

// methods sums up all kinds by method.
func (sc *relayScore) methods() map[string]claimed {
	sums := map[string]claimed{}
	for _, of := range sc.Claimed {
		for method, c := range of {
			s := sums[method]
			sums[method] = claimed{s.Right + c.Right, s.Wrong + c.Wrong, s.Confidence + c.Confidence}
		}
	}
	return sums
}

func percent(n, of int) float64 {
	if of == 0 {
		return 100
	}
	return 100 * float64(n) / float64(of)
}

// workers is how many each of the lab's proxies has.
func (out *level) workers() int { return max(out.Workers, 1) }

// relayBars adds the bars of a level's relays.
func (out *level) relayBars(res *result.Result, name string) {
	sc := out.Score.Relays
	var right, wrong int
	for _, c := range sc.methods() {
		right, wrong = right+c.Right, wrong+c.Wrong
	}
	res.Bar("wrong_relays_"+name, percent(wrong, right+wrong), "%", result.Lower, barWrongShare)
	for method, c := range sc.methods() {
		off := 100 * math.Abs(c.Confidence-float64(c.Right)) / float64(max(c.Right+c.Wrong, 1))
		res.Bar("confidence_"+method+"_"+name, off, "points off", result.Lower, 1)
	}
	if !anonymous(out.Scenario) {
		return
	}
	r, w, apart := sc.of("sidecar out")
	share := percent(r+w, r+w+apart)
	perWorker := float64(out.Connections) / float64(out.workers())
	switch {
	case said(out.Scenario):
		res.Bar("claimed_"+name, percent(r+w, r+w+sc.Apart["sidecar out"]), "%", result.Higher, barClaimedSaid)
		res.Bar("wrong_said_"+name, float64(sc.methods()[string(journey.MethodProxyLog)].Wrong), "", result.Lower, barWrong)
	case varied(out.Scenario):
		res.Bar("claimed_"+name, share, "%", result.Higher, barClaimedVaried)
	case perWorker <= 4:
		res.Bar("claimed_"+name, share, "%", result.Higher, barClaimedFew)
	case perWorker <= 16:
		res.Bar("claimed_"+name, share, "%", result.Higher, barClaimedSome)
	}
}

// relays prints a level's.
func (p *printer) relays(l *level) {
	sc := l.Score.Relays
	p.line("  pairs %.3f %% right, traces %.3f %% whole; witnesses disagree about %d of %d exchanges", percent(sc.Paired, sc.Exchanges),
		percent(sc.Whole, sc.Traces), sc.Disagree, sc.Exchanges)
	for _, kind := range slices.Compact(slices.Sorted(slices.Values(kinds[1:]))) {
		right, wrong, apart := sc.of(kind)
		p.line("  %-12s %8d right %5d wrong %8d apart: hops %.3f %%, precision %.3f %%", kind, right, wrong, apart,
			percent(right, right+wrong+apart), percent(right, right+wrong))
		for _, method := range slices.Sorted(maps.Keys(sc.Claimed[kind])) {
			c := sc.Claimed[kind][method]
			p.line("    %-12s %8d right %5d wrong; said to be sure %.2f %%, were right %.2f %%", method, c.Right, c.Wrong,
				100*c.Confidence/float64(c.Right+c.Wrong), percent(c.Right, c.Right+c.Wrong))
		}
		p.line("    apart, by candidates: %s; recorded whole, with their causes: %d", byCandidates(sc.Unjoined[kind]), sc.Apart[kind])
	}
}

// byCandidates lists how many stayed apart with how many candidates, few at a time.
func byCandidates(counts map[int]int) string {
	const last = 8
	sums := map[int]int{}
	for n, count := range counts {
		sums[min(n, last)] += count
	}
	text := "none"
	for i, n := range slices.SortedFunc(maps.Keys(sums), cmp.Compare[int]) {
		if i == 0 {
			text = ""
		} else {
			text += ", "
		}
		more := ""
		if n == last {
			more = " or more"
		}
		text += fmt.Sprintf("%d%s: %d", n, more, sums[n])
	}
	return text
}
