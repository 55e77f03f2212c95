package main

import (
	"fmt"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/cluster"
)

// aspect is something that is said of a leg.
type aspect int

const (
	aspectWorkload aspect = iota // at both ends
	aspectService                // at both ends, and which the proxy was asked for
	aspectRoute                  // and cluster
	aspectResource               // of both, and the route's policy
	aspectCount
)

var aspectNames = [aspectCount]string{"workload", "service", "route", "resource"}

// meshCount is what was said of a leg, over all requests.
type meshCount struct {
	Right   int `json:"right"`
	Unknown int `json:"unknown"`
	Wrong   int `json:"wrong"`
}

// meshJudge compares the journeys of a cluster's agent with the truth.
type meshJudge struct {
	*meshTruth
	counts     [legCount][aspectCount]meshCount
	wrongJoins int
	foreign    int // journeys of other requests
	why        map[string]int
	routes     map[string]applied
	rules      map[string]journey.Resource
}

func newMeshJudge(t *meshTruth) *meshJudge {
	return &meshJudge{meshTruth: t, why: map[string]int{}, routes: appliedRoutes(), rules: appliedDestinations()}
}

// line takes a journey. What it returns says what is wrong with it.
func (j *meshJudge) line(l *report.Line) string {
	var r *meshRequest
	id := ""
	for _, e := range l.Exchanges {
		switch of := e.Headers[truthHeader]; {
		case of == "" || of == id:
		case id == "":
			id = of
		default:
			j.wrongJoins++
			return wrongJoin
		}
	}
	if r = j.requests[id]; r == nil {
		j.foreign++
		return ""
	}
	var legs uint8
	flaw := ""
	for _, e := range l.Exchanges {
		k := r.leg(e)
		if k < 0 {
			j.wrongJoins++
			return wrongJoin
		}
		legs |= 1 << k
		if why := j.exchange(r, k, e); why != "" && flaw == "" {
			flaw = why
		}
	}
	r.journeys++
	r.found |= legs
	if bits(legs) > bits(r.joined) {
		r.joined = legs
	}
	return flaw
}

// exchange scores what is said of one, and returns what is wrong or not known.
func (j *meshJudge) exchange(r *meshRequest, k int, e *journey.Exchange) (flaw string) {
	for a, pairs := range j.pairs(&r.legs[k], e) {
		count := &j.counts[k][a]
		unknown, wrong := false, ""
		for _, p := range pairs {
			switch {
			case p.said == p.is:
			case p.said == "":
				unknown = true
			default:
				wrong = fmt.Sprintf("%q, not %q", p.said, p.is)
			}
		}
		name := aspectNames[a] + " of " + legNames[k]
		switch {
		case wrong != "":
			count.Wrong++
			r.wrong[a] = true
			flaw = "wrong " + name
			j.why[flaw+": "+wrong]++
		case unknown:
			count.Unknown++
			flaw = "unknown " + name
			if g := e.Governance; g != nil && g.Unknown != "" {
				name += ": " + g.Unknown
			}
			j.why["unknown "+name]++
		default:
			count.Right++
			r.right[a] |= 1 << k
		}
	}
	return flaw
}

// pair is what is said of something, and what it is. Empty: nothing.
type pair struct{ said, is string }

// pairs are all of a leg's, by aspect.
func (j *meshJudge) pairs(l *meshLeg, e *journey.Exchange) [aspectCount][]pair {
	client, server := &e.Leg.Client.Workload, &e.Leg.Server.Workload
	var out [aspectCount][]pair
	out[aspectWorkload] = []pair{{workload(client), podName(l.client)}, {workload(server), podName(l.server)}}
	out[aspectService] = []pair{{client.Service, serviceName(l.client)}, {server.Service, serviceName(l.server)}}
	g := e.Governance
	if g == nil {
		g = &journey.Governance{}
	}
	is := journey.Governance{}
	rule := applied{}
	policy := ""
	if at := l.governed; at != nil {
		rule = j.routes[at.Route]
		is = journey.Governance{Route: at.Route, Cluster: at.Cluster, Service: hostOf(l), Defined: rule.resource}
		if is.Destination = j.rules[is.Service]; at.Inbound() {
			is.Destination = appliedAtServer()[is.Service]
		}
		if rule.resource != (journey.Resource{}) {
			policy = rule.policy()
		}
	}
	if is.Service != "" {
		out[aspectService] = append(out[aspectService], pair{g.Service, is.Service})
	}
	out[aspectRoute] = []pair{{g.Route, is.Route}, {g.Cluster, is.Cluster}}
	out[aspectResource] = []pair{{resource(g.Defined), resource(is.Defined)}, {resource(g.Destination), resource(is.Destination)}}
	if policy != "" {
		out[aspectResource] = append(out[aspectResource], pair{policyOf(g.Policy), policy})
	}
	return out
}

func workload(w *journey.Workload) string {
	if w.Name == "" {
		return ""
	}
	return w.Kind + " " + w.Namespace + "/" + w.Name + " on " + w.Node
}

func podName(p *cluster.Pod) string {
	if p == nil {
		return ""
	}
	return journey.KindPod + " " + p.Namespace + "/" + p.Name + " on " + p.Node
}

// serviceName is Istio's canonical name.
func serviceName(p *cluster.Pod) string {
	if p == nil {
		return ""
	}
	return p.Labels["app"]
}

func resource(r journey.Resource) string {
	if r == (journey.Resource{}) {
		return ""
	}
	return r.Kind + " " + r.String()
}

func bits(legs uint8) (n int) {
	for ; legs != 0; legs &= legs - 1 {
		n++
	}
	return n
}
