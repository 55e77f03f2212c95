package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// restarted is what came of stopping the agent under load and starting another.
type restarted struct {
	Scored  int           `json:"scored"` // requests from barResume after it recorded again
	Percent float64       `json:"complete_percent"`
	Wrong   int           `json:"wrong_joins"` // of both agents
	Resumed time.Duration `json:"resumed_ns"`  // from when it recorded until the first complete journey began
}

// restart loads a mesh, stops the agent in the middle and starts another: every connection is older than that.
func (r *runner) restart(ctx context.Context) (_ *restarted, err error) {
	l, err := lab.Up(ctx, r.options)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	first, err := r.startAgent(ctx, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.out.Close()) }()
	loaded, sent := make(chan error, 1), lab.LoadResult{}
	go func() {
		var err error
		sent, err = l.Wrk(ctx, lab.Load{Connections: 16, Duration: r.duration + startTakes + barResume*time.Second, Truth: true, Drain: true})
		loaded <- err
	}()
	second, recording, err := r.replace(ctx, l, first)
	if err := errors.Join(err, <-loaded); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, second.out.Close()) }()
	_, err = settle(ctx, second.ask)
	if err := errors.Join(err, second.stop()); err != nil {
		return nil, err
	}
	before, err := r.scoreAgain(ctx, l, first, sent.Run, recording)
	if err != nil {
		return nil, err
	}
	after, err := r.scoreAgain(ctx, l, second, sent.Run, recording)
	if err != nil {
		return nil, err
	}
	out := after.finish()
	out.Wrong += before.score.WrongJoins
	const least = 500
	if len(after.requests) < least {
		return nil, fmt.Errorf("the load had only %d requests", len(after.requests))
	}
	return out, nil
}

// startTakes is longer than stopping an agent and starting another does, under load.
const startTakes = 5 * time.Second

// replace stops the first agent after a third of the load, and says from when on the second records.
func (r *runner) replace(ctx context.Context, l *lab.Lab, first *agent) (second *agent, recording time.Time, err error) {
	select {
	case <-time.After(r.duration / 3):
	case <-ctx.Done():
	}
	if err := first.stop(); err != nil {
		return nil, recording, err
	}
	second, err = r.startAgent(ctx, l)
	return second, time.Now(), err
}

// againJudge is a scorer that also looks at when journeys began.
type againJudge struct {
	*scorer
	recording time.Time
	first     time.Time // of the complete journeys; zero: there was none
	later     uint64    // number of the first request that began barResume later
}

func (r *runner) scoreAgain(ctx context.Context, l *lab.Lab, a *agent, run string, recording time.Time) (*againJudge, error) {
	t, err := readTruth(expect(l, r.depth), run, l.AccessLog, false)
	if err != nil {
		return nil, err
	}
	j := &againJudge{scorer: newScorer(t), recording: recording, later: ^uint64(0)}
	return j, r.readJourneys(ctx, a.out, j, "restart")
}

func (j *againJudge) line(l *report.Line) string {
	why := j.journey(&l.Journey)
	root := l.Exchanges[0]
	n, ours := j.number(root.Headers[truthHeader])
	if !ours || len(l.Exchanges) != legCount || why != "" {
		return why
	}
	if j.first.IsZero() || l.Start.Before(j.first) {
		j.first = l.Start
	}
	if l.Start.Sub(j.recording) > barResume*time.Second {
		j.later = min(j.later, n)
	}
	return why
}

// finish scores what began later. wrk numbers requests in the order in which it sends them, but for those that are under way together.
func (j *againJudge) finish() *restarted {
	out := &restarted{Wrong: j.score.WrongJoins, Resumed: max(0, j.first.Sub(j.recording))}
	if j.first.IsZero() {
		out.Resumed = time.Hour // never: a bar wants a number
	}
	complete := 0
	for n, r := range j.requests {
		if n < j.later || r.state != scored {
			continue
		}
		out.Scored++
		if j.outcome(r).kind == "" {
			complete++
		}
	}
	if out.Scored > 0 {
		out.Percent = 100 * float64(complete) / float64(out.Scored)
	}
	return out
}
