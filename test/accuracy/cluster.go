package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/cluster"
	"github.com/meshwatch/meshwatch/test/result"
)

// inCluster is the scenario that has no lab: a Kubernetes with Istio on one node.
const inCluster = "cluster"

// meshResult is what came of it.
type meshResult struct {
	Scenario   string                          `json:"scenario"`
	Sent       meshLoad                        `json:"load"`
	Scored     int                             `json:"scored"`         // requests that the proxies' logs tell all of
	NotScored  int                             `json:"not_scored"`     // not answered by 200 at the first attempt
	Complete   int                             `json:"complete"`       // in one journey with all legs
	Right      map[string]int                  `json:"right_requests"` // by aspect: on all legs
	Wrong      map[string]int                  `json:"wrong_requests"` // by aspect: on any
	WrongJoins int                             `json:"wrong_joins"`
	Legs       map[string]map[string]meshCount `json:"legs"` // by leg and aspect
	Why        map[string]int                  `json:"why"`  // of what is not right
	Lost       []loss.Row                      `json:"losses"`
}

// clusterWithin bounds what waits for the cluster's parts or the agent.
const clusterWithin = time.Minute

// measureCluster brings a cluster up, sends the load, and compares what the agent says of it with what the proxies logged and with
// the rules that were applied.
func (r *runner) measureCluster(ctx context.Context, res *result.Result) (rows []any, err error) {
	if c, err := cluster.Open(); err == nil {
		return nil, fmt.Errorf("a cluster is up (%+v); the scenario has its own, take that down first: make cluster-down", c.Options)
	}
	c, err := cluster.Up(ctx, cluster.Options{Nodes: 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Down(context.WithoutCancel(ctx))) }()
	m, err := r.inCluster(ctx, c)
	if err != nil {
		return nil, err
	}
	m.bars(res)
	return []any{m}, m.print(os.Stdout)
}

func (r *runner) inCluster(ctx context.Context, c *cluster.Cluster) (*meshResult, error) {
	if err := c.Apply(ctx, clusterRules); err != nil {
		return nil, err
	}
	pods, err := c.MeshPods(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.StartAgent(ctx, r.bin, r.dir, truthHeader)
	if err != nil {
		return nil, err
	}
	if err := warm(ctx, c, a, pods); err != nil {
		return nil, err
	}
	m := &meshResult{Scenario: inCluster}
	before, err := a.Status(ctx)
	if err != nil {
		return nil, err
	}
	if m.Sent, err = sendMesh(ctx, c); err != nil {
		return nil, err
	}
	after, err := settle(ctx, a.Client)
	if err != nil {
		return nil, err
	}
	m.Lost = since(before.Losses, after.Losses)
	if err := a.Stop(ctx); err != nil {
		return nil, err
	}
	t, err := m.truth(ctx, pods)
	if err != nil {
		return nil, err
	}
	j := newMeshJudge(t)
	d := dumper{dir: r.dump, name: inCluster}
	for l, err := range a.Journeys() {
		if err != nil {
			return nil, err
		}
		why := j.line(l)
		text, err := json.Marshal(l)
		if err := errors.Join(err, d.write(why, text, &l.Journey)); err != nil {
			return nil, err
		}
	}
	m.score(j)
	return m, m.sound()
}

// warm waits until rules, agent and proxies know of each other.
func warm(ctx context.Context, c *cluster.Cluster, a *cluster.Agent, pods []cluster.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, clusterWithin)
	defer cancel()
	if err := a.WaitReady(ctx); err != nil {
		return err
	}
	if _, err := c.SendLoad(ctx, cluster.Load{Requests: 100, Connections: 2, Path: "/warm"}); err != nil {
		return err
	}
	return a.WaitFollowed(ctx, pods)
}

// truth reads what the proxies logged, when they have.
func (m *meshResult) truth(ctx context.Context, pods []cluster.Pod) (t *meshTruth, err error) {
	ctx, cancel := context.WithTimeout(ctx, clusterWithin)
	defer cancel()
	e := await.Until(ctx, func() bool {
		var logged map[cluster.Received]cluster.Logged
		logged, err = cluster.ReceivedBy(pods, func(a cluster.Access) string { return m.Sent.ours(a.TruthID) })
		if err != nil || len(logged) < linesOfRequest*m.Sent.Answered {
			return err != nil
		}
		t = readMeshTruth(logged)
		return true
	})
	if err := errors.Join(e, err); err != nil {
		return nil, fmt.Errorf("read the proxies' access logs: %w", err)
	}
	return t, nil
}

// score sums up.
func (m *meshResult) score(j *meshJudge) {
	m.Scored, m.NotScored, m.WrongJoins, m.Why = len(j.requests), j.parts, j.wrongJoins, j.why
	m.Right, m.Wrong = map[string]int{}, map[string]int{}
	for _, r := range j.requests {
		if r.joined == allLegs && r.journeys == 1 {
			m.Complete++
		} else {
			m.Why[r.lacks()]++
		}
		for a, name := range aspectNames {
			if r.wrong[a] {
				m.Wrong[name]++
			} else if r.right[a] == allLegs {
				m.Right[name]++
			}
		}
	}
	m.Legs = map[string]map[string]meshCount{}
	for k, leg := range legNames {
		m.Legs[leg] = map[string]meshCount{}
		for a, name := range aspectNames {
			m.Legs[leg][name] = j.counts[k][a]
		}
	}
}

// lacks says why a request is not in one whole journey.
func (r *meshRequest) lacks() string {
	if r.journeys == 0 {
		return noJourney
	}
	for k := range r.legs {
		switch {
		case r.found&(1<<k) == 0:
			return missingLeg + ": " + legNames[k]
		case r.joined&(1<<k) == 0:
			return unjoined + ": " + legNames[k]
		}
	}
	return duplicateLeg
}

// sound says what makes the figures worthless.
func (m *meshResult) sound() error {
	if least := m.Sent.Requests * 999 / 1000; m.Scored < least {
		return fmt.Errorf("of %d requests %d were answered, and the access logs tell all of %d: want %d", m.Sent.Requests, m.Sent.Answered, m.Scored, least)
	}
	return nil
}

func (m *meshResult) bars(res *result.Result) {
	percent := func(n int) float64 { return 100 * float64(n) / float64(m.Scored) }
	res.Bar("complete_"+inCluster, percent(m.Complete), "%", result.Higher, barComplete)
	res.Bar("wrong_joins_"+inCluster, float64(m.WrongJoins), "", result.Lower, barWrong)
	for _, name := range aspectNames {
		res.Bar("right_"+name+"_"+inCluster, percent(m.Right[name]), "%", result.Higher, barComplete)
		res.Bar("wrong_"+name+"_"+inCluster, float64(m.Wrong[name]), "", result.Lower, barWrong)
	}
}

func (m *meshResult) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p := printer{w: tw}
	p.line("LEG\tWORKLOAD\tSERVICE\tROUTE\tRESOURCE\t(right/unknown/wrong)")
	for _, leg := range legNames {
		row := leg
		for _, name := range aspectNames {
			c := m.Legs[leg][name]
			row += fmt.Sprintf("\t%d/%d/%d", c.Right, c.Unknown, c.Wrong)
		}
		p.line("%s\t", row)
	}
	if err := errors.Join(p.err, tw.Flush()); err != nil {
		return err
	}
	p.w = w
	p.line("\n%d requests in %s (%.0f/s), %d scored, %d in one journey with all legs, %d wrong joins", m.Sent.Requests, m.Sent.Took.Round(time.Millisecond),
		float64(m.Sent.Requests)/m.Sent.Took.Seconds(), m.Scored, m.Complete, m.WrongJoins)
	for _, name := range byCount(m.Why) {
		p.line("  %8d  %s", m.Why[name], name)
	}
	for _, row := range m.Lost {
		p.line("  %8d  lost, says the agent: %s %s", row.Count, row.Stage, row.Reason)
	}
	p.line("")
	return p.err
}
