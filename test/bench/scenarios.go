package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meshwatch/meshwatch/test/lab"
)

// Report is what was measured of one scenario at one depth.
type Report struct {
	Scenario   string      `json:"scenario"`
	Depth      string      `json:"depth"`
	Unit       string      `json:"unit"` // what is counted as a request
	Throughput *Throughput `json:"throughput,omitempty"`
	CPU        *CPU        `json:"cpu_fixed_rate,omitempty"`
	Agent      *Agent      `json:"agent,omitempty"`
	Recording  *Programs   `json:"bpf_recording,omitempty"`
	Off        *Programs   `json:"bpf_switched_off,omitempty"` // the programs return at once
	Idle       *Idle       `json:"idle,omitempty"`
	Node       *Node       `json:"node,omitempty"`
	Attached   *Attached   `json:"attached,omitempty"`
	Inject     *Injected   `json:"inject,omitempty"`
	Unsound    []string    `json:"unsound"` // why figures are not to be used
	Notes      []string    `json:"notes"`   // what else there is to know
}

func (r *Report) unsound(format string, args ...any) { add(&r.Unsound, fmt.Sprintf(format, args...)) }
func (r *Report) note(format string, args ...any)    { add(&r.Notes, fmt.Sprintf(format, args...)) }

func add(list *[]string, why string) {
	if !slices.Contains(*list, why) {
		*list = append(*list, why)
	}
}

// scenario is something to measure. Those with depths are measured at each.
type scenario struct {
	name   string
	what   string
	depths bool
	envoy  bool
	run    func(ctx context.Context, b binaries, p plan, r *Report) error
}

// scenarios are all there are, in the order in which they run.
func scenarios() []scenario {
	return []scenario{
		{"haproxy", "mesh of HAProxy sidecars", true, false, meshOf(lab.Options{Sidecar: lab.SidecarHAProxy}, "")},
		{"envoy", "mesh of Envoy sidecars, clear text", true, true, meshOf(lab.Options{Sidecar: lab.SidecarEnvoy}, "")},
		{"mtls", "mesh of Envoy sidecars, mutual TLS, with probes (their traps are in both sides of a comparison)", false, true, meshOf(lab.Options{Sidecar: lab.SidecarEnvoy, TLS: true}, "")},
		{"mtls-opaque", "the same without probes: recorded, not joined", false, true, meshOf(lab.Options{Sidecar: lab.SidecarEnvoy, TLS: true}, "tls: {probes: off}\n")},
		{"attached", "programs attached and switched off, against none attached (HAProxy mesh)", false, false, attached},
		{"bulk", "a bulk transfer on 1 connection, without a proxy", false, false, plainly("KiB", client{kind: "bulk", connections: 1})},
		{"churn", "a connection per request, without a proxy", false, false, plainly("request", client{kind: "churn", connections: 16})},
		{"raw", "traffic that is not HTTP: 64 bytes there and back, without a proxy", false, false, plainly("message there and back", client{kind: "raw", connections: 16})},
		{"idle", "1,000 idle connections", false, false, idle},
		{"inject", "mesh of Envoy sidecars, a connection per request: ids given to the requests of one app, or not", false, true, injected},
		{"node", "a node with 100 pod namespaces", false, false, node},
	}
}

// meshOf measures a mesh with an agent whose configuration has these lines besides.
func meshOf(o lab.Options, lines string) func(context.Context, binaries, plan, *Report) error {
	return func(ctx context.Context, b binaries, p plan, r *Report) error {
		b.agent.lines = lines
		return mesh(ctx, b, p, r, o)
	}
}

func plainly(unit string, c client) func(context.Context, binaries, plan, *Report) error {
	return func(ctx context.Context, b binaries, p plan, r *Report) error {
		r.Unit = unit
		return plain(ctx, b, p, r, c)
	}
}

// mesh measures a mesh, saturated and at a fixed rate.
func mesh(ctx context.Context, b binaries, p plan, r *Report, o lab.Options) (err error) {
	w, err := newWorld(ctx, b, p, r, o, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.meshSaturated(ctx); err != nil {
		return err
	}
	gateway, _ := w.l.Pod("gateway")
	rate := r.Throughput.Off * p.share
	t, err := w.send(ctx, client{kind: "http", to: fmt.Sprintf("%s:8080", gateway.V4), connections: p.connections, rate: rate, tls: o.TLS})
	if err != nil {
		return err
	}
	err = errors.Join(w.fixedRate(ctx, rate), t.stop())
	w.alone()
	return err
}

// alone notes when programs of another agent are loaded: they record this load, too.
func (w *world) alone() {
	if err := w.a.others(); err != nil {
		w.r.unsound("%v", err)
	}
}

func (w *world) meshSaturated(ctx context.Context) error {
	run, err := w.wrk(ctx)
	if err != nil {
		return err
	}
	err = w.saturated(ctx)
	l, endErr := run.end()
	if err := errors.Join(err, endErr); err != nil {
		return err
	}
	t := w.r.Throughput
	t.LoadMean, t.LoadP99 = float64(l.Mean.Microseconds()), float64(l.P99.Microseconds())
	if n := l.Failed + l.Broken; n > 0 {
		w.r.unsound("%d of %d requests failed under the saturating load", n, l.Requests)
	}
	return nil
}

// plain measures traffic between two pods that have no proxy.
func plain(ctx context.Context, b binaries, p plan, r *Report, c client) (err error) {
	w, err := newWorld(ctx, b, p, r, lab.Options{Sidecar: lab.SidecarHAProxy}, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	w.p.whole.quads = 0
	if c.to, err = w.serve(ctx, c.kind); err != nil {
		return err
	}
	if c.kind == "bulk" {
		bytes := w.count
		w.count = func() (uint64, error) {
			n, err := bytes()
			return n >> 10, err
		}
	}
	t, err := w.send(ctx, c)
	if err != nil {
		return err
	}
	return errors.Join(w.saturated(ctx), t.stop())
}

// Idle is what connections on which nothing happens cost.
type Idle struct {
	Connections int      `json:"connections"`
	Kernel      Estimate `json:"more_cores_kernel"` // of the lab's processes, recording against switched off
	AA          Estimate `json:"more_cores_kernel_aa"`
	Agent       Estimate `json:"more_cores_agent"` // of the agent's process: with the connections, less without any
	AgentAA     Estimate `json:"more_cores_agent_aa"`
	Alone       float64  `json:"agent_cores_alone"`
	RSS         float64  `json:"idle_rss_mb"` // the agent's, before any traffic
	Runs        float64  `json:"program_runs_per_second"`
}

const idleConnections = 1000

// idle holds connections on which nothing happens.
func idle(ctx context.Context, b binaries, p plan, r *Report) (err error) {
	w, err := newWorld(ctx, b, p, r, lab.Options{Sidecar: lab.SidecarHAProxy}, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	to, err := w.serve(ctx, "http")
	if err != nil {
		return err
	}
	out := &Idle{Connections: idleConnections}
	r.Idle = out
	if err := errors.Join(w.adopt(), sleep(ctx, p.warm)); err != nil {
		return err
	}
	if out.RSS, err = memory(w.a.pid(), "VmRSS"); err != nil {
		return err
	}
	without, err := w.agentCores(ctx, 2*p.pieces)
	if err != nil {
		return err
	}
	t, err := w.send(ctx, client{kind: "idle", to: to, connections: idleConnections, workers: 8})
	if err != nil {
		return err
	}
	return errors.Join(w.idle(ctx, without), t.stop())
}

func (w *world) idle(ctx context.Context, without []float64) error {
	out := w.r.Idle
	with, err := w.agentCores(ctx, 2*w.p.pieces)
	if err != nil {
		return err
	}
	less := estimate(without)
	less.Median, less.Low, less.High = -less.Median, -less.High, -less.Low
	out.Alone, out.Agent = -less.Median, estimate(with).plus(less)
	even, odd := halves(without)
	odd.Median, odd.Low, odd.High = -odd.Median, -odd.High, -odd.Low
	out.AgentAA = even.plus(odd)
	s := w.p.kernel
	s.quads = max(1, s.quads/4)
	q, err := w.kernelPart(ctx, s)
	if err != nil {
		return err
	}
	cores := func(q quad) float64 { return q.on.Own/q.on.Seconds - q.off.Own/q.off.Seconds }
	for i := range q.switched { // nothing is requested: each looks for requests
		q.switched[i].on.Requests, q.switched[i].off.Requests = 1, 1
		q.dummy[i].on.Requests, q.dummy[i].off.Requests = 1, 1
	}
	out.Kernel, out.AA = each(q.switched, cpus(), cores), each(q.dummy, cpus(), cores)
	out.Runs, err = w.runsPerSecond(ctx)
	return err
}

// agentCores is what the agent's process uses, piece by piece.
func (w *world) agentCores(ctx context.Context, pieces int) (values []float64, err error) {
	w.a.record(true)
	for range pieces {
		before, err := w.sample()
		if err != nil {
			return nil, err
		}
		if err := sleep(ctx, w.p.piece); err != nil {
			return nil, err
		}
		after, err := w.sample()
		if err != nil {
			return nil, err
		}
		s := after.minus(before)
		values = append(values, s.Agent/s.Seconds)
	}
	return values, nil
}

// halves estimates every other value, and the rest: two times the same.
func halves(values []float64) (even, odd Estimate) {
	var v [2][]float64
	for i, x := range values {
		v[i%2] = append(v[i%2], x)
	}
	return estimate(v[0]), estimate(v[1])
}

// Node is what a node full of pods does to the agent's start and end.
type Node struct {
	Pods       int      `json:"pod_namespaces"` // added to the lab's own
	Namespaces int      `json:"namespaces"`     // attached to
	Links      int      `json:"links"`
	Start      Estimate `json:"start_seconds"` // until it records and answers
	Stop       Estimate `json:"stop_seconds"`
	RSS        float64  `json:"idle_rss_mb"`
	MapBytes   uint64   `json:"map_bytes"`
}

const nodePods = 100

// node measures start and end with many namespaces, and traffic among them.
func node(ctx context.Context, b binaries, p plan, r *Report) (err error) {
	pods := nodePods
	if !p.favoured { // quick
		pods = 3
	}
	w, err := newWorld(ctx, b, p, r, lab.Options{Sidecar: lab.SidecarHAProxy}, pods)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	w.p.whole.quads = 0
	if err := w.startsAndStops(ctx, pods); err != nil {
		return err
	}
	to, err := w.serve(ctx, "http")
	if err != nil {
		return err
	}
	t, err := w.send(ctx, client{kind: "http", to: to, connections: 16})
	if err != nil {
		return err
	}
	return errors.Join(w.saturated(ctx), t.stop())
}

// startsAndStops restarts the agent some times; the last one stays.
func (w *world) startsAndStops(ctx context.Context, pods int) error {
	n := &Node{Pods: pods}
	w.r.Node = n
	starts, stops := []float64{w.a.started.Seconds()}, []float64(nil)
	for range w.p.pieces / 2 {
		stop, err := w.restart(ctx)
		if err != nil {
			return err
		}
		starts, stops = append(starts, w.a.started.Seconds()), append(stops, stop)
	}
	s, err := w.a.client.Status(ctx)
	if err != nil {
		return err
	}
	n.Namespaces, n.Links, n.Start, n.Stop, n.MapBytes = s.Attached.Namespaces, s.Attached.Links, estimate(starts), estimate(stops), w.a.bytes
	n.RSS, err = memory(w.a.pid(), "VmRSS")
	return err
}
