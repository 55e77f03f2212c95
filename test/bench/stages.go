package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stage is one comparison of a plan.
type stage struct {
	quads         int
	slice, settle time.Duration
}

// plan says how much is measured.
type plan struct {
	connections int
	favoured    bool
	warm        time.Duration // the agent sees that long what the proxies do before it is measured: it keeps less of those that send ids
	kernel      stage         // kernel part alone, saturated, the agent's process stopped
	fixed       stage         // the same at a fixed rate
	whole       stage         // with the agent, saturated; a check of the sum, which meshes alone need
	burst       int           // quads for which the agent's process stays stopped
	thaw        time.Duration
	programs    time.Duration
	pieces      int // seconds of steady recording
	piece       time.Duration
	share       float64 // of saturation, for the fixed rate
}

// defaultPlan takes some three minutes a mesh. What the agent does with a request it does up to 200 ms later (it looks every 80 ms at
// most, and joins after 100): slices that are to hold that are long. The kernel's part is over with the message, so its slices are as
// short as a connection needs to have several messages in each; and a few connections keep two CPUs as busy as many do, but leave
// fewer requests on their way when a slice ends.
func defaultPlan() plan {
	return plan{
		connections: 8, favoured: true, warm: 12 * time.Second, share: 2.0 / 3,
		kernel: stage{120, 60 * time.Millisecond, 3 * time.Millisecond},
		fixed:  stage{100, 60 * time.Millisecond, 3 * time.Millisecond},
		whole:  stage{10, 600 * time.Millisecond, 250 * time.Millisecond},
		burst:  12, thaw: 800 * time.Millisecond,
		programs: 1500 * time.Millisecond, pieces: 6, piece: time.Second,
	}
}

// quickPlan shows in some seconds that everything works. Its figures mean nothing.
func quickPlan() plan {
	p := defaultPlan()
	p.favoured, p.warm, p.programs, p.pieces, p.piece = false, 200*time.Millisecond, 200*time.Millisecond, 2, 300*time.Millisecond
	p.kernel.quads, p.fixed.quads, p.burst, p.thaw = 2, 2, 1, 100*time.Millisecond
	p.whole = stage{1, 200 * time.Millisecond, 50 * time.Millisecond}
	return p
}

// Compared is what recording changes, and the same where nothing was changed (A/A).
type Compared struct {
	On      Estimate `json:"on"`
	AA      Estimate `json:"aa"`
	Dropped int      `json:"dropped"` // quads in which something else disturbed, see undisturbed
}

func compare(q quads, f func(quad) float64) Compared {
	on, aa := each(q.switched, cpus(), f), each(q.dummy, cpus(), f)
	return Compared{on, aa, len(q.switched) + len(q.dummy) - on.N - aa.N}
}

// Throughput is of one continuous load that takes what it gets.
type Throughput struct {
	Off       float64  `json:"off_per_second"` // programs attached and switched off
	Kernel    Compared `json:"kernel"`         // on / off with the agent's process stopped
	Agent     Estimate `json:"agent_us"`       // its CPU per request, everything recorded
	All       Estimate `json:"all"`            // on / off with the agent's part added by its CPU time: the figure for the bar
	Whole     Compared `json:"whole"`          // on / off with the agent at work: coarser, its slices are long
	Cost      Compared `json:"cpu_us"`         // more CPU per request, kernel part, from the same quads as Kernel
	OffCost   float64  `json:"off_cpu_us"`
	Others    float64  `json:"other_cores"`
	Steal     float64  `json:"stolen_cores"`
	Unused    float64  `json:"unused_cores"`
	Covered   float64  `json:"recorded_share"` // flights per request in the slices, of those of steady recording
	Slice     float64  `json:"slice_ms"`
	LoadMean  float64  `json:"load_mean_us"`
	LoadP99   float64  `json:"load_p99_us"`
	AgentBusy float64  `json:"agent_cores"`
}

// CPU is µs per request at a fixed rate, of mesh, load and agent.
type CPU struct {
	Asked   float64  `json:"asked_per_second"`
	Reached float64  `json:"reached_per_second"`
	Off     float64  `json:"off_us"`
	Kernel  Compared `json:"kernel_us"` // on minus off, the agent's process stopped
	Agent   Estimate `json:"agent_us"`
	All     Estimate `json:"all_us"` // both: the figure for the bar
	Others  float64  `json:"other_cores"`
	Covered float64  `json:"recorded_share"`
}

// record switches the recorder, as toggling wants it.
func (w *world) record(on bool) error { w.a.record(on); return nil }

func (w *world) toggling(s stage) toggling {
	return toggling{quads: s.quads, slice: s.slice, settle: s.settle, record: w.record, read: w.sample, draw: w.draw}
}

// kernelPart toggles with the agent's process stopped, so that only what the programs do is switched. Now and then the process runs for
// a while, recording: whatever it decides by what it sees (which namespaces to look into more deeply) is in the figures.
func (w *world) kernelPart(ctx context.Context, s stage) (q quads, err error) {
	for left := s.quads; left > 0; left -= w.p.burst {
		s.quads = min(left, w.p.burst)
		one, err := w.burst(ctx, s)
		if err != nil {
			return q, err
		}
		q = q.plus(one)
		w.a.record(true)
		if err := sleep(ctx, w.p.thaw); err != nil {
			return q, err
		}
	}
	return q, w.a.alive()
}

func (w *world) burst(ctx context.Context, s stage) (quads, error) {
	if err := w.a.freeze(); err != nil {
		return quads{}, fmt.Errorf("stop the agent's process: %w", err)
	}
	q, err := w.toggling(s).run(ctx)
	return q, errors.Join(err, w.a.thaw())
}

// parts are the agent's work in steady recording, and the kernel's by toggling.
type parts struct {
	steady sample
	agent  Estimate
	kernel quads
}

func (w *world) parts(ctx context.Context, s stage) (p parts, err error) {
	if p.steady, p.agent, err = w.steady(ctx); err != nil {
		return p, err
	}
	p.kernel, err = w.kernelPart(ctx, s)
	return p, err
}

// covered is the share of messages that was recorded in slices, of those that are recorded steadily.
func (p *parts) covered() float64 {
	on := p.kernel.on()
	if p.steady.Flights == 0 || on.Requests == 0 {
		return 1
	}
	return on.Flights / on.Requests * p.steady.Requests / p.steady.Flights
}

// saturated measures everything that wants the machine busy, under a load that runs already.
func (w *world) saturated(ctx context.Context) error {
	t := &Throughput{Slice: float64(w.p.kernel.slice.Milliseconds())}
	w.r.Throughput = t
	if err := w.programs(ctx, true); err != nil {
		return err
	}
	before, err := w.sample()
	if err != nil {
		return err
	}
	p, err := w.parts(ctx, w.p.kernel)
	if err != nil {
		return err
	}
	whole, err := w.toggling(w.p.whole).run(ctx)
	if err != nil {
		return err
	}
	after, err := w.sample()
	if err != nil {
		return err
	}
	all := after.minus(before)
	off := p.kernel.off()
	t.Off, t.OffCost, t.Others, t.Steal = off.rate(), off.cost(), all.others(), all.Steal/all.Seconds
	t.Unused = float64(cpus()) - (all.Busy+all.Steal)/all.Seconds
	t.Kernel, t.Cost, t.Whole = compare(p.kernel, throughputRatio), compare(p.kernel, costDifference), compare(whole, throughputRatio)
	t.Agent, t.AgentBusy, t.Covered = p.agent, p.steady.Agent/p.steady.Seconds, p.covered()
	// What a request costs unobserved, of all the time that others left: a CPU that waits is as much needed as one that works.
	t.All = withAgent(t.Kernel.On, p.agent, 1e6*(float64(cpus())-t.Others-t.Steal)/t.Off)
	w.judgeLoad("saturating load", all)
	return w.programs(ctx, false)
}

// fixedRate measures CPU per request under a load of a rate that runs already.
func (w *world) fixedRate(ctx context.Context, asked float64) error {
	c := &CPU{Asked: asked}
	w.r.CPU = c
	before, err := w.sample()
	if err != nil {
		return err
	}
	p, err := w.parts(ctx, w.p.fixed)
	if err != nil {
		return err
	}
	after, err := w.sample()
	if err != nil {
		return err
	}
	all := after.minus(before)
	c.Reached, c.Off, c.Others = all.rate(), p.kernel.off().cost(), all.others()
	c.Kernel, c.Agent, c.Covered = compare(p.kernel, costDifference), p.agent, p.covered()
	c.All = c.Kernel.On.plus(p.agent)
	w.judgeLoad("load of a fixed rate", all)
	if c.Reached < 0.97*c.Asked {
		w.r.unsound("only %.0f of %.0f requests a second were reached at the fixed rate: the machine is too busy", c.Reached, c.Asked)
	}
	return nil
}

// maxOthers is how many cores the rest of the machine may use before it is noted.
const maxOthers = 0.1

func (w *world) judgeLoad(what string, s sample) {
	if o := s.others(); o > maxOthers {
		w.r.note("something else used %.2f cores during the %s: intervals are wider than they need be", o, what)
	}
}

// steady records without a break, and looks at the agent: how much CPU a request costs it, second by second.
func (w *world) steady(ctx context.Context) (all sample, agent Estimate, err error) {
	w.a.record(true)
	if err := sleep(ctx, w.p.thaw); err != nil {
		return all, agent, err
	}
	first, err := w.a.counts(ctx)
	if err != nil {
		return all, agent, err
	}
	var values []float64
	for range w.p.pieces {
		before, err := w.sample()
		if err != nil {
			return all, agent, err
		}
		if err := sleep(ctx, w.p.piece); err != nil {
			return all, agent, err
		}
		after, err := w.sample()
		if err != nil {
			return all, agent, err
		}
		s := after.minus(before)
		all = all.plus(s)
		if s.Requests > 0 {
			values = append(values, s.Agent*1e6/s.Requests)
		}
	}
	last, err := w.a.counts(ctx)
	if err != nil {
		return all, agent, err
	}
	return all, estimate(values), w.lookAtAgent(first, last, all)
}
