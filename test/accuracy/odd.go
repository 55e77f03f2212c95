package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/result"
)

// oddity is a way to talk that is not one request after the other on a connection of one's own.
type oddity struct {
	name    string
	talk    func(*talker) error
	before  func(*talker) error // what it does before the agent starts, nil: nothing
	ignored bool                // no journey is as good as a right one: only a wrong one is a fault
}

// theOddities are tried straight to an app, and by gateway and sidecar.
func theOddities() []oddity {
	return []oddity{
		{name: "websocket", talk: webSockets},
		{name: "sse", talk: serverSentEvents},
		{name: "continue", talk: continues},
		{name: "pipelined", talk: pipelines},
		{name: "http10", talk: http10},
		{name: "trailers", talk: trailers},
		{name: "older", before: openConnections, talk: useConnections},
		{name: "port", talk: samePort},
		{name: "mptcp", talk: multipath, ignored: true},
	}
}

// oddResult is what came of one.
type oddResult struct {
	Name     string         `json:"name"`
	Requests int            `json:"requests"`
	Right    int            `json:"right"`  // one journey with every leg, by target and status
	Wrong    int            `json:"wrong"`  // with journeys that join different targets, or have another's status
	Causes   map[string]int `json:"causes"` // of the others
	Note     string         `json:"note,omitempty"`

	ignored bool
}

// The bars of oddities are barComplete and barWrong; besides:
const barResume = 2 // s from when an agent that was restarted records until journeys are complete

// measureOddities tries all of them in one lab, and then restarts the agent under load.
func (r *runner) measureOddities(ctx context.Context, res *result.Result) (rows []any, err error) {
	results, err := r.oddities(ctx)
	if err != nil {
		return nil, err
	}
	suffix := strings.ReplaceAll(strings.TrimPrefix(r.scenario, oddities), "-", "_")
	for _, o := range results {
		rows = append(rows, o)
		if !o.ignored && o.Requests > 0 {
			res.Bar("complete_"+o.Name+suffix, 100*float64(o.Right)/float64(o.Requests), "%", result.Higher, barComplete)
		}
		res.Bar("wrong_joins_"+o.Name+suffix, float64(o.Wrong), "", result.Lower, barWrong)
	}
	again, err := r.restart(ctx)
	if err != nil {
		return nil, fmt.Errorf("restart the agent: %w", err)
	}
	res.Bar("complete_restart"+suffix, again.Percent, "%", result.Higher, barComplete)
	res.Bar("wrong_joins_restart"+suffix, float64(again.Wrong), "", result.Lower, barWrong)
	res.Bar("resume_restart"+suffix, again.Resumed.Seconds(), "s", result.Lower, barResume)
	return append(rows, again), printOddities(os.Stdout, results, again)
}

func (r *runner) oddities(ctx context.Context) (_ []*oddResult, err error) {
	l, err := lab.Up(ctx, r.options)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	app := lab.AppPlain
	if l.Options.TLS {
		app = lab.AppTLS
	}
	if _, err := l.AddApp(ctx, "odd", app); err != nil {
		return nil, err
	}
	all := talkers(ctx, l)
	defer func() {
		for _, t := range all {
			t.close()
		}
	}()
	for _, t := range all {
		if t.oddity.before != nil {
			if err := t.oddity.before(t); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	a, err := r.startAgent(ctx, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.out.Close()) }()
	for _, t := range all {
		if err := t.oddity.talk(t); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", t.name, err), a.stop())
		}
	}
	_, err = settle(ctx, a.ask)
	if err := errors.Join(err, a.stop()); err != nil {
		return nil, err
	}
	return r.judgeOddities(ctx, l, a, all)
}

func (r *runner) judgeOddities(ctx context.Context, l *lab.Lab, a *agent, all []*talker) ([]*oddResult, error) {
	if err := agreeWithApps(ctx, l, all); err != nil {
		return nil, err
	}
	j := newOddJudge(all)
	if err := r.readJourneys(ctx, a.out, j, oddities); err != nil {
		return nil, err
	}
	return j.finish(all), nil
}

// agreeWithApps checks that the apps served exactly what the talkers say that they asked for.
func agreeWithApps(ctx context.Context, l *lab.Lab, all []*talker) error {
	ctx, cancel := context.WithTimeout(ctx, longestAnswer)
	defer cancel()
	var last error
	err := await.Until(ctx, func() bool { // an app records when it is done, which is after the answer
		last = compareWithApps(l, all)
		return last == nil
	})
	return errors.Join(err, last)
}

func compareWithApps(l *lab.Lab, all []*talker) error {
	served := map[string][]int{}
	for _, pod := range []string{"odd", "frontend"} {
		for rec, err := range l.Records(pod) {
			if err != nil {
				return err
			}
			served[rec.Target] = append(served[rec.Target], rec.Status)
		}
	}
	for _, t := range all {
		for target, status := range t.asked {
			if s := served[target]; len(s) != 1 || s[0] != status {
				return fmt.Errorf("%s: the app answered %s by %v, its client saw %d", t.name, target, s, status)
			}
		}
	}
	return nil
}

const longestAnswer = 10 * time.Second

func printOddities(w io.Writer, results []*oddResult, again *restarted) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p := printer{w: tw}
	p.line("ODDITY\tREQUESTS\tRIGHT\tWRONG\tWHY NOT")
	for _, o := range results {
		why := o.Note
		for _, name := range byCount(o.Causes) {
			why += fmt.Sprintf("%d %s  ", o.Causes[name], name)
		}
		p.line("%s\t%d\t%d\t%d\t%s", o.Name, o.Requests, o.Right, o.Wrong, why)
	}
	p.line("restart\t%d\t%.3f %%\t%d\tcomplete again after %s", again.Scored, again.Percent, again.Wrong, again.Resumed.Round(time.Millisecond))
	p.line("")
	return errors.Join(p.err, tw.Flush())
}

// okay is what most of them are answered with.
const okay = http.StatusOK
