package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/result"
)

// Row is what a request costs at one size of a node.
type Row struct {
	Pods        int      `json:"pod_namespaces"` // beside the lab's own
	Namespaces  int      `json:"namespaces"`     // that the agent attached to
	Connections int      `json:"connections"`
	Start       float64  `json:"start_seconds"`
	Stop        float64  `json:"stop_seconds"`
	Off         float64  `json:"off_us"`
	Kernel      Compared `json:"kernel_us"`
	Agent       Estimate `json:"agent_us"`
	Runs        float64  `json:"runs_per_request"` // without those of IdleRuns
	IdleRuns    float64  `json:"runs_per_second_without_load"`
	BPF         float64  `json:"bpf_us_per_request"` // by bpf_stats, recording less switched off
	Covered     float64  `json:"recorded_share"`     // of the messages in the slices of kernel_us
	RSS         float64  `json:"rss_mb"`
	Programs    Programs `json:"bpf_recording"`
	Unsound     []string `json:"unsound"`
}

// The sizes. Namespaces are tried with few connections, connections with the lab's own namespaces.
var (
	scalePods        = []int{1, 10, 100, 250}
	scaleConnections = []int{10, 100, 1000, 10000}
)

const (
	calmWithin   = time.Minute
	calmRuns     = 500  // a second: a hundredth of those of the load
	scaleRate    = 2000 // requests a second: less than any machine can do without a proxy
	scaleWorkers = 10   // requests at a time: connections take turns
)

// scale measures how cost grows with the node.
func scale(ctx context.Context, b binaries, o options) error {
	pods, connections := scalePods, scaleConnections
	if o.quick {
		pods, connections = []int{1, 3}, []int{10, 50}
	}
	out, err := o.result("bench-scale", " --scale")
	if err != nil {
		return err
	}
	var byPods, byConnections []Row
	for _, n := range pods {
		row, err := size(ctx, b, o, n, scaleWorkers)
		if err != nil {
			return fmt.Errorf("measure %d namespaces: %w", n, err)
		}
		byPods = append(byPods, row)
	}
	for _, n := range connections {
		row, err := size(ctx, b, o, 0, n)
		if err != nil {
			return fmt.Errorf("measure %d connections: %w", n, err)
		}
		byConnections = append(byConnections, row)
	}
	grown(out, "runs_per_request_namespaces", byPods)
	grown(out, "runs_per_request_connections", byConnections)
	for _, r := range byPods {
		if r.Pods == nodePods {
			out.Bar("start_100_namespaces", r.Start, "s", result.Lower, startBar)
		}
	}
	out.Details = map[string][]Row{"namespaces": byPods, "connections": byConnections}
	err = errors.Join(markdown(os.Stdout, byPods, byConnections), out.Save(os.Stdout))
	for _, r := range append(byPods, byConnections...) {
		for _, why := range r.Unsound {
			err = errors.Join(err, fmt.Errorf("not sound, %d pods, %d connections: %s", r.Pods, r.Connections, why))
		}
	}
	return o.finish(err)
}

// grown adds the bar of what is to be constant: program runs, which are counted and so are the same in every run, of the largest size
// against the smallest. What a run takes is in the table, with its uncertainty.
func grown(out *result.Result, name string, rows []Row) {
	const constant = 1.05
	out.Bar(name, rows[len(rows)-1].Runs/rows[0].Runs, "of the smallest", result.Lower, constant)
}

// size measures one row: requests at a fixed rate between two pods without proxies.
func size(ctx context.Context, b binaries, o options, pods, connections int) (row Row, err error) {
	r := &Report{Scenario: fmt.Sprintf("%d pods, %d connections", pods, connections), Depth: o.usual(), Unsound: []string{}}
	say("%s", r.Scenario)
	w, err := newWorld(ctx, b, o.plan, r, lab.Options{Sidecar: lab.SidecarHAProxy}, pods)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	row = Row{Pods: pods, Connections: connections}
	if row.Stop, err = w.restart(ctx); err != nil {
		return row, err
	}
	row.Start = w.a.started.Seconds()
	s, err := w.a.client.Status(ctx)
	if err != nil {
		return row, err
	}
	row.Namespaces = s.Attached.Namespaces
	to, err := w.serve(ctx, "http")
	if err != nil {
		return row, err
	}
	if row.IdleRuns, err = w.calm(ctx); err != nil {
		return row, err
	}
	t, err := w.send(ctx, client{kind: "http", to: to, connections: connections, workers: scaleWorkers, rate: scaleRate})
	if err != nil {
		return row, err
	}
	if err := errors.Join(w.sized(ctx), t.stop()); err != nil {
		return row, err
	}
	r.judge()
	row.Off, row.Kernel, row.Covered, row.Agent, row.RSS = r.CPU.Off, r.CPU.Kernel, r.CPU.Covered, r.CPU.Agent, r.Agent.RSS
	row.Runs = r.Recording.RunsPerRequest - row.IdleRuns/r.CPU.Reached
	row.Programs, row.BPF, row.Unsound = *r.Recording, r.Recording.UsPerRequest-r.Off.UsPerRequest, r.Unsound
	return row, nil
}

// calm waits until a new bridge with hundreds of ports has heard all that they tell each other (neighbour discovery, multicast groups):
// until the programs run seldom without load, or a minute has passed. It returns how often, by the second.
func (w *world) calm(ctx context.Context) (float64, error) {
	runs, err := w.runsPerSecond(ctx)
	for deadline := time.Now().Add(calmWithin); err == nil && runs > calmRuns && time.Now().Before(deadline); {
		runs, err = w.runsPerSecond(ctx)
	}
	return runs, err
}

// runsPerSecond counts the programs' runs for what else goes on: programs see the sockets of the whole machine.
func (w *world) runsPerSecond(ctx context.Context) (float64, error) {
	clock := func() (uint64, error) { return uint64(time.Since(boot).Milliseconds()), nil } //nolint:gosec // counts up
	p, err := w.a.programs(ctx, w.p.programs, true, clock)
	return 1000 * p.RunsPerRequest, err
}

// sized measures what is recorded without a break first: with 10,000 connections it takes seconds until each had its turn, and
// recording what it writes begins with the second write.
func (w *world) sized(ctx context.Context) error {
	if err := w.programs(ctx, true); err != nil {
		return err
	}
	if err := w.fixedRate(ctx, scaleRate); err != nil {
		return err
	}
	return w.programs(ctx, false)
}

// restart has the agent start once more, with everything in the caches, and says how long its end took.
func (w *world) restart(ctx context.Context) (float64, error) {
	begin := time.Now()
	err := w.a.stop()
	took := time.Since(begin).Seconds()
	w.a = nil
	return took, errors.Join(err, w.startAgent(ctx))
}

// markdown prints the tables of docs/cost.md.
func markdown(out io.Writer, pods, connections []Row) error {
	const columns = "BPF runs a second without load | a request | their time, recording less off | more CPU a request, kernel part (A/A) | agent's CPU a request | agent resident |\n"
	text := "\n| pod namespaces | attached to | start | stop | " + columns + "|---|---|---|---|---|---|---|---|---|---|\n"
	for _, r := range pods {
		text += fmt.Sprintf("| %d | %d | %.2f s | %.2f s | %s\n", r.Pods, r.Namespaces, r.Start, r.Stop, r.columns())
	}
	text += "\n| connections | " + columns + "|---|---|---|---|---|---|---|\n"
	for _, r := range connections {
		text += fmt.Sprintf("| %d | %s\n", r.Connections, r.columns())
	}
	_, err := io.WriteString(out, text+"\n")
	return err
}

func (r Row) columns() string {
	kernel := fmt.Sprintf("%s µs (%s)", r.Kernel.On.text(1), r.Kernel.AA.text(1))
	if r.Covered < leastCovered { // a connection that has its turn once in seconds shows nothing in a slice
		kernel = "—"
	}
	return fmt.Sprintf("%.0f | %.1f | %.2f µs | %s | %s µs | %.0f MB |", r.IdleRuns, r.Runs, r.BPF, kernel, r.Agent.text(1), r.RSS)
}
