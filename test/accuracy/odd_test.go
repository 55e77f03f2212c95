package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// oddLine is a right journey of a request.
func oddLine(t *talker, target string) *report.Line {
	l := &report.Line{}
	for range t.legs {
		l.Exchanges = append(l.Exchanges, &journey.Exchange{
			Target: target, Status: t.asked[target], Request: journey.Flight{Start: 1, Recv: 2}, Response: &journey.Flight{Start: 3, Recv: 4},
		})
	}
	return l
}

func TestOddJudge(t *testing.T) {
	const a, b = "/odd-0", "/odd-1"
	type lines = []*report.Line
	for name, c := range map[string]struct {
		spoil func(lines) lines
		want  oddResult
	}{
		"right":         {func(l lines) lines { return l }, oddResult{Right: 2}},
		"another's too": {func(l lines) lines { return append(l, oddLine(&talker{legs: 1}, "/other")) }, oddResult{Right: 2}},
		"no journey":    {func(l lines) lines { return l[:1] }, oddResult{Right: 1, Causes: one(noJourney)}},
		"two":           {func(l lines) lines { return append(l, l[1]) }, oddResult{Right: 1, Causes: one(duplicateJourney)}},
		"a leg less": {func(l lines) lines { l[0].Exchanges = l[0].Exchanges[:1]; l[0].Unjoined = "no-id"; return l },
			oddResult{Right: 1, Causes: one("1 of 2 legs, unjoined: no-id")}},
		"no response": {func(l lines) lines { l[0].Exchanges[1].Response, l[0].Exchanges[1].Error = nil, "closed"; return l },
			oddResult{Right: 1, Causes: one("no response: closed")}},
		"no status": {func(l lines) lines { l[0].Exchanges[0].Status = 0; return l }, oddResult{Right: 1, Causes: one("status 0, not 101")}},
		"not read":  {func(l lines) lines { l[1].Exchanges[0].Response.Recv = 0; return l }, oddResult{Right: 1, Causes: one("not read")}},
		"another's status": {func(l lines) lines { l[0].Exchanges[1].Status = http.StatusNotFound; return l },
			oddResult{Right: 1, Wrong: 1}},
		"another's response": {func(l lines) lines { l[0].Exchanges[1].Response.Start = 1; return l }, oddResult{Right: 1, Wrong: 1}},
		"another's leg": {func(l lines) lines {
			l[0].Exchanges[1], l[1].Exchanges[1] = l[1].Exchanges[1], l[0].Exchanges[1]
			return l
		}, oddResult{Wrong: 2}},
		"a stranger's leg": {func(l lines) lines { l[0].Exchanges[1].Target = "/other"; return l }, oddResult{Right: 1, Wrong: 1}},
		"a stranger's journey": {func(l lines) lines {
			other := oddLine(&talker{legs: 2}, "/other")
			other.Exchanges[1].Target = a
			return append(l, other)
		}, oddResult{Right: 1, Wrong: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			all := []*talker{{name: "odd", legs: 2, asked: map[string]int{a: http.StatusSwitchingProtocols, b: http.StatusOK}}}
			j := newOddJudge(all)
			for _, l := range c.spoil(lines{oddLine(all[0], a), oddLine(all[0], b)}) {
				j.line(l)
			}
			c.want.Name, c.want.Requests = "odd", 2
			if c.want.Causes == nil {
				c.want.Causes = map[string]int{}
			}
			got := j.finish(all)
			if diff := cmp.Diff([]*oddResult{&c.want}, got, cmp.AllowUnexported(oddResult{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRestarted: what began later is scored, whether it has a journey or not, and an agent that is not complete again is never.
func TestRestarted(t *testing.T) {
	w := newWorld()
	var list js
	for n := range requests {
		w.serve(n)
		list = append(list, w.journey(n))
	}
	recording := time.Unix(1000, 0)
	score := func(lines ...*report.Line) *restarted {
		truth, err := readTruth(w.mesh, "run", w.log, false)
		if err != nil {
			t.Fatal(err)
		}
		j := &againJudge{scorer: newScorer(truth), recording: recording, later: ^uint64(0)}
		for _, l := range lines {
			j.line(l)
		}
		return j.finish()
	}
	at := func(n int, after time.Duration) *report.Line {
		return &report.Line{Journey: *list[n], Start: recording.Add(after)}
	}
	for name, c := range map[string]struct {
		got, want *restarted
	}{
		"at once":     {score(at(0, time.Second), at(1, 3*time.Second), at(2, 4*time.Second), at(3, 5*time.Second)), &restarted{Scored: 3, Percent: 100, Resumed: time.Second}},
		"one missing": {score(at(0, time.Second), at(1, 3*time.Second), at(3, 4*time.Second)), &restarted{Scored: 3, Percent: 100 * 2.0 / 3, Resumed: time.Second}},
		"late":        {score(at(2, 5*time.Second), at(3, 6*time.Second)), &restarted{Scored: 2, Percent: 100, Resumed: 5 * time.Second}},
		"never":       {score(), &restarted{Resumed: time.Hour}},
		"in parts":    {score(&report.Line{Journey: *part(list[0], 0, 3), Start: recording}), &restarted{Resumed: time.Hour}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
