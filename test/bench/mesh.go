package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshwatch/meshwatch/test/lab"
)

// plan says how much is measured. See defaultPlan and quickPlan.
type plan struct {
	connections int
	warm        time.Duration
	agent       stage // full agent, saturated
	kernel      stage // kernel part alone, saturated
	cpu         stage // full agent, fixed rate
	programs    time.Duration
	steady      time.Duration
	share       float64 // of saturation, for the fixed rate
}

// stage is one comparison of a plan.
type stage struct {
	quads         int
	slice, settle time.Duration
}

// defaultPlan takes two and a half minutes a mesh. A request is joined 100 ms after its end (join.linger), so slices that are
// to hold what the agent does with it are much longer than those for the kernel's part.
func defaultPlan() plan {
	return plan{
		connections: 64, warm: 2 * time.Second, share: 2.0 / 3,
		agent:    stage{20, 800 * time.Millisecond, 380 * time.Millisecond},
		kernel:   stage{45, 80 * time.Millisecond, 15 * time.Millisecond},
		cpu:      stage{12, time.Second, 380 * time.Millisecond},
		programs: 3 * time.Second, steady: 6 * time.Second,
	}
}

// quickPlan shows in some seconds that everything works. Its figures mean nothing.
func quickPlan() plan {
	p := defaultPlan()
	p.warm, p.programs, p.steady = 300*time.Millisecond, 300*time.Millisecond, time.Second
	p.agent, p.kernel.quads, p.cpu = stage{1, 250 * time.Millisecond, 50 * time.Millisecond}, 2, stage{1, 250 * time.Millisecond, 50 * time.Millisecond}
	return p
}

// Mesh is what was measured of one mesh.
type Mesh struct {
	Throughput Throughput `json:"throughput"`
	CPU        CPU        `json:"cpu_fixed_rate"`
	Agent      Agent      `json:"agent_fixed_rate"`
	Recording  Programs   `json:"bpf_recording"`    // saturated
	Off        Programs   `json:"bpf_switched_off"` // saturated: the programs return at once
	Unsound    []string   `json:"unsound"`          // why the figures are not to be used
}

// Throughput is requests per second, on over off, of one continuous saturating load.
type Throughput struct {
	Unobserved    float64  `json:"off_per_second"` // programs attached and switched off
	Full          Estimate `json:"full_agent"`
	FullDummy     Estimate `json:"full_agent_aa"`
	Kernel        Estimate `json:"kernel_alone"` // recorded, not read: the agent's process is stopped
	KernelDummy   Estimate `json:"kernel_alone_aa"`
	AgentCores    float64  `json:"agent_cores"` // while recording
	Others        float64  `json:"other_cores"`
	Lost          float64  `json:"flights_not_read"`
	FullSlice     float64  `json:"full_agent_slice_ms"`
	KernelSlice   float64  `json:"kernel_alone_slice_ms"`
	LoadErrors    uint64   `json:"load_errors"`
	LoadRequests  uint64   `json:"load_requests"`
	LoadMeanUs    float64  `json:"load_mean_us"`
	LoadP99Us     float64  `json:"load_p99_us"`
	ConnectionsNo int      `json:"connections"`
}

// CPU is µs per request of the whole machine at a fixed rate, load generator included.
type CPU struct {
	Asked      float64  `json:"asked_per_second"`
	Reached    float64  `json:"reached_per_second"`
	Off        float64  `json:"off_us"`
	More       Estimate `json:"on_minus_off_us"`
	Dummy      Estimate `json:"aa_us"`
	OwnOff     float64  `json:"own_off_us"` // own: by the scheduler's count for mesh, load and agent alone
	OwnMore    Estimate `json:"own_on_minus_off_us"`
	OwnDummy   Estimate `json:"own_aa_us"`
	Others     float64  `json:"other_cores"`
	LoadErrors uint64   `json:"load_errors"`
	P50Us      float64  `json:"p50_us"`
	P99Us      float64  `json:"p99_us"`
}

// measure builds a mesh, starts an agent, and measures both.
func measure(ctx context.Context, prog program, sidecar lab.Sidecar, p plan) (_ *Mesh, err error) {
	l, err := lab.Up(ctx, lab.Options{Sidecar: sidecar})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	a, err := startAgent(ctx, prog)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	b := &bench{l: l, a: a, p: p, m: &Mesh{}}
	if err := a.others(); err != nil {
		b.unsound("%v", err)
	}
	say("%s: saturated, %d connections, %s", sidecar, p.connections, (b.saturatedFor()).Round(time.Second))
	if err := b.saturated(ctx); err != nil {
		return nil, err
	}
	say("%s: fixed rate, %.0f requests/s, %s", sidecar, b.m.Throughput.Unobserved*p.share, (b.fixedFor()).Round(time.Second))
	if err := b.fixed(ctx); err != nil {
		return nil, err
	}
	if err := a.others(); err != nil {
		b.unsound("%v", err)
	}
	return b.m, a.alive()
}

// bench is the measuring of one mesh.
type bench struct {
	l *lab.Lab
	a *agent
	p plan
	m *Mesh
}

func (b *bench) unsound(format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	if !slices.Contains(b.m.Unsound, why) {
		b.m.Unsound = append(b.m.Unsound, why)
	}
}

// throughput is a cheap sample up to now: of requests alone.
func (b *bench) throughput() (sample, error) {
	n, err := b.l.Requests()
	return sample{Requests: float64(n), Seconds: time.Since(boot).Seconds()}, err
}

// all is the sample up to now. It takes a millisecond.
func (b *bench) all() (s sample, err error) {
	procs, err := b.l.Processes()
	if err != nil {
		return s, err
	}
	pids := []int{b.a.pid()}
	for _, p := range procs {
		pids = append(pids, p.PID)
	}
	if s.Ours, err = threadsCPU(pids); err != nil {
		return s, err
	}
	if s.Busy, err = machineBusy(); err != nil {
		return s, err
	}
	t, err := b.throughput()
	s.Requests, s.Seconds = t.Requests, t.Seconds
	return s, err
}

// undisturbed notes when something else took CPU while a stage was measured.
func (b *bench) undisturbed(stage string, s sample) float64 {
	if o := s.others(); o > maxOthers {
		b.unsound("something else used %.2f cores during the %s: stop it", o, stage)
	}
	return s.others()
}

// maxOthers is how many cores the rest of the machine may use: this program and kernel threads use some hundredths.
const maxOthers = 0.1

func (b *bench) toggling(s stage) toggling {
	return toggling{quads: s.quads, slice: s.slice, settle: s.settle, record: b.a.record, read: b.throughput}
}

// load is one that runs in the background.
type load struct {
	stop   context.CancelFunc
	done   chan struct{}
	result lab.LoadResult
	err    error
}

func start(ctx context.Context, send func(context.Context, lab.Load) (lab.LoadResult, error), w lab.Load) *load {
	ctx, stop := context.WithCancel(ctx)
	l := &load{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.result, l.err = send(ctx, w)
	}()
	return l
}

// end stops the load and gives its result. It is an error if it had ended by itself: then what was measured last was idle.
func (l *load) end() (lab.LoadResult, error) {
	select {
	case <-l.done:
		l.stop()
		return l.result, errors.Join(errors.New("the load ended before what was to be measured"), l.err)
	default:
	}
	l.stop()
	<-l.done
	return l.result, l.err
}

func (b *bench) saturatedFor() time.Duration {
	return b.p.warm + b.toggling(b.p.agent).length() + b.toggling(b.p.kernel).length() + 2*b.p.programs
}

// saturated measures everything that wants the machine busy, in one load.
func (b *bench) saturated(ctx context.Context) error {
	w := lab.Load{Connections: b.p.connections, Duration: 2*b.saturatedFor() + time.Minute}
	run := start(ctx, b.l.Wrk, w)
	err := b.underLoad(ctx)
	r, endErr := run.end()
	if err := errors.Join(err, endErr); err != nil {
		return err
	}
	t := &b.m.Throughput
	t.LoadErrors, t.LoadRequests, t.ConnectionsNo = r.Failed+r.Broken, r.Requests, w.Connections
	t.LoadMeanUs, t.LoadP99Us = float64(r.Mean.Microseconds()), float64(r.P99.Microseconds())
	if t.LoadErrors > 0 {
		b.unsound("%d of %d requests failed under the saturating load", t.LoadErrors, r.Requests)
	}
	return nil
}

func (b *bench) underLoad(ctx context.Context) (err error) {
	if err := sleep(ctx, b.p.warm); err != nil {
		return err
	}
	if b.m.Off, err = b.a.programs(ctx, b.p.programs, false, b.l.Requests); err != nil {
		return err
	}
	if b.m.Recording, err = b.a.programs(ctx, b.p.programs, true, b.l.Requests); err != nil {
		return err
	}
	if err := b.fullAgent(ctx); err != nil {
		return err
	}
	return b.kernelAlone(ctx)
}

func (b *bench) fullAgent(ctx context.Context) error {
	begin, err := b.moment(ctx)
	if err != nil {
		return err
	}
	q, err := b.toggling(b.p.agent).run(ctx)
	if err != nil {
		return err
	}
	end, err := b.moment(ctx)
	if err != nil {
		return err
	}
	before, after, t := begin.counts, end.counts, &b.m.Throughput
	t.Others = b.undisturbed("saturating load", end.minus(begin.sample))
	t.FullSlice = float64(b.p.agent.slice.Milliseconds())
	t.Full, t.FullDummy, t.Unobserved = each(q.switched, throughputRatio), each(q.dummy, throughputRatio), q.off().rate()
	t.AgentCores = (after.cpu - before.cpu) / (b.toggling(b.p.agent).length() / 4).Seconds() // a quarter of it recording
	t.Lost = before.lost(after)
	if t.Lost > maxLost {
		b.unsound("the agent did not read %.1f %% of the flights under the saturating load: its cost is not that of joining all", 100*t.Lost)
	}
	return nil
}

// maxLost is the share of flights that may stay unread before the agent's cost no longer counts as that of all.
const maxLost = 0.01

func (b *bench) kernelAlone(ctx context.Context) error {
	if err := b.a.freeze(); err != nil {
		return fmt.Errorf("stop the agent's process: %w", err)
	}
	q, err := b.toggling(b.p.kernel).run(ctx)
	if err := errors.Join(err, b.a.thaw()); err != nil {
		return err
	}
	t := &b.m.Throughput
	t.KernelSlice = float64(b.p.kernel.slice.Milliseconds())
	t.Kernel, t.KernelDummy = each(q.switched, throughputRatio), each(q.dummy, throughputRatio)
	return nil
}
