package meshwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/attach"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/edges"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/inject"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
	"github.com/meshwatch/meshwatch/meshwatch/otlp"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
	"github.com/meshwatch/meshwatch/meshwatch/reader"
	"github.com/meshwatch/meshwatch/meshwatch/tlsscan"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/kube"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// Agent is a running meshwatch: recorder attached, flights read and joined, journeys given out. Close it.
type Agent struct {
	cfg     Config
	env     Env
	started time.Time
	clock   journey.Clock

	recorder *bpf.Recorder
	attached *attach.Manager
	probes   *probe.Manager  // nil: off
	injects  *inject.Manager // nil: off
	depths   *depths
	meter    *meter
	wanted   atomic.Bool   // that anything is recorded
	wake     chan struct{} // wanted has changed
	watcher  *netpath.Watcher
	xds      *xds.Client  // nil: no control plane is asked
	kube     *kube.Client // nil: no API server is asked
	governor *governor    // nil: the control plane is not asked about proxies
	names    *observe.Names
	edges    *edges.Table
	observer *observe.Observer
	losses   *loss.Set
	reader   *reader.Reader
	joiner   *join.Joiner
	now      uint64 // of the loop's latest look, CLOCK_MONOTONIC ns
	open     bool   // the loop's: flights are recorded
	keep     *keeper
	recent   *recent
	exporter *otlp.Exporter // nil: off
	writer   *lineWriter    // nil: off
	said     *listener      // nil: no access log is listened for

	learning   sync.Mutex      // guards latest
	latest     *topology.Store // that was learned
	topology   atomic.Pointer[control.Topology]
	counts     atomic.Pointer[counts]
	background sync.WaitGroup
	cancel     context.CancelFunc
}

// counts are the loop's statistics, published after each poll for other goroutines.
type counts struct {
	Reader reader.Stats
	Joiner join.Stats
	Kept   uint64
}

// Start loads, attaches and begins to record. The error says what is missing and what to do.
func Start(ctx context.Context, cfg Config, env Env) (_ *Agent, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	clock, err := readClock()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, env: env, started: time.Now(), clock: clock, losses: &loss.Set{}, names: observe.NewNames(cfg.Proxies),
		keep: newKeeper(cfg.Keep), recent: newRecent(cfg.Retain), wake: make(chan struct{}, 1),
	}
	a.observer = observe.New(a.names, cfg.CaptureHeaders)
	full := a.losses.Counter("edges", "table-full")
	a.edges = edges.New(edgesKeep, func() { full.Add(1) })
	ctx, a.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if err := a.load(); err != nil {
		return nil, err
	}
	if err := a.outputs(ctx); err != nil {
		return nil, err
	}
	if err := a.watch(ctx); err != nil {
		return nil, err
	}
	if err := a.listen(ctx); err != nil {
		return nil, err
	}
	a.pipeline()
	a.meter = newMeter(cfg.Budget, recorderCosts{a.recorder}, a.depths.allow, env.Log)
	if err := a.recorder.Attach(); err != nil {
		return nil, err
	}
	if a.injects != nil {
		if err := a.injects.Start(); err != nil {
			return nil, fmt.Errorf("give requests ids: %w", err)
		}
		a.background.Go(func() { a.injects.Run(ctx) })
	}
	a.wanted.Store(true)
	a.gate(time.Now())
	if a.probes != nil {
		a.background.Go(func() {
			if err := a.probes.Run(ctx); err != nil {
				env.Log.Error("probes could not be taken off", "error", err)
			}
		})
	}
	a.background.Go(func() { a.loop(ctx) })
	a.background.Go(func() { a.depths.run(ctx) })
	a.background.Go(func() { a.meter.run(ctx) })
	if a.recorder.TC != nil {
		env.Log.Info("this kernel's tracepoints cannot read packets (Linux 6.11 can): tc's hooks on every link do it, and take longer to attach")
	}
	env.Log.Info("recording", "namespaces", a.attached.Counts().Namespaces, "depth", cfg.Depth)
	return a, nil
}

// load loads the programs that are wanted.
func (a *Agent) load() (err error) {
	o := bpf.Options{Sizes: a.cfg.Recorder}
	if a.cfg.Inject == InjectMissing {
		o.Inject = append([]string{}, otherIDs(a.cfg.RequestIDHeaders)...)
	}
	if a.recorder, err = bpf.Load(o); err != nil {
		return fmt.Errorf("load the flight recorder: %w", err)
	}
	if a.recorder.Inject != nil {
		a.injects = inject.New(a.recorder.Inject, inject.Options{
			Workloads: a.cfg.InjectWorkloads, Exclude: a.cfg.Namespaces.Exclude, Losses: a.losses, Log: a.env.Log,
		})
	}
	return nil
}

// outputs opens where journeys go.
func (a *Agent) outputs(ctx context.Context) (err error) {
	if a.cfg.Output == "json" {
		a.writer = newLineWriter(a.env.Stdout, a.clock, a.losses, a.env.Log)
	}
	if a.cfg.Export.on(os.LookupEnv) {
		a.exporter, err = otlp.New(ctx, otlp.Options{Log: a.env.Log, Losses: a.losses, Clock: a.clock, Version: a.env.Version})
		if err != nil {
			return fmt.Errorf("open the OTLP export: %w", err)
		}
	}
	return nil
}

// probe prepares the probes on TLS libraries and on Go's net/http.
func (a *Agent) probe() {
	o := probe.Options{Stepped: a.cfg.TLS.Stepped, Losses: a.losses, Log: a.env.Log}
	if a.cfg.TLS.Probes != ProbesOff {
		o.TLS = a.recorder.TLS
		if o.TLS == nil {
			a.env.Log.Info("this kernel or machine cannot probe TLS libraries: messages with TLS are recorded, but not joined")
		}
	}
	if a.cfg.Go.Probes != ProbesOff {
		o.GoHTTP = a.recorder.GoHTTP
	}
	if o.TLS != nil || o.GoHTTP != nil {
		a.probes = probe.New(tlsscan.New(), o)
	}
}

// pipeline builds reader → joiner → tree.
func (a *Agent) pipeline() {
	parser := head.New(head.Config{RequestIDHeaders: a.cfg.RequestIDHeaders, CaptureHeaders: a.cfg.CaptureHeaders})
	jc := join.DefaultConfig(parser)
	jc.Linger, jc.Parents = a.cfg.Join.Linger, a.cfg.Join.Parents
	jc.Expire, jc.Hold = a.cfg.Join.Expire, a.cfg.Join.Hold
	jc.SelfID = uint32(os.Getpid()) //nolint:gosec // a process id
	if a.said != nil && a.said.words != nil {
		jc.Hear = hearing
	}
	jc.Proxy = func(pid uint32) bool { return a.names.IsProxy(pid, a.now) }
	jc.Measure = a.observer.MeasureMessage
	jc.Began = a.began
	a.probe()
	if a.probes != nil && a.cfg.TLS.Probes == ProbesAuto {
		jc.Unprobed = func(pid uint32) { a.probes.Want(int(pid)) }
	}
	a.joiner = join.New(jc, a.losses, a.tree)
	a.now = monotonic()
	a.joiner.Tick(a.now)
	a.reader = reader.New(a.recorder.Ring(), a.losses, a.joiner)
	a.counts.Store(&counts{})
}

// Pace of reading. A look costs the CPU something before anything is read (waking up, the Go scheduler, its monitor that then looks
// on every 20 µs, cold caches), so there are as few as the ring allows: its share that is new at each look is what the pause
// aims at. Nobody waits for a look: joining does for much longer.
const (
	shortPause = 4 * time.Millisecond
	longPause  = 80 * time.Millisecond // 8,192 records last that long at 100,000 flights a second, which may begin at any time
	newShare   = 8                     // of the ring
)

// nextPause is how long to wait after a pause in which fresh records came.
func nextPause(pause time.Duration, fresh int, ring uint64) time.Duration {
	if fresh == 0 {
		return longPause
	}
	return min(max(pause*time.Duration(ring)/time.Duration(newShare*fresh), shortPause), longPause) //nolint:gosec // a ring has some thousands
}

// loop reads until ctx ends. It alone touches reader, joiner, keeper and the observer's rendering.
func (a *Agent) loop(ctx context.Context) {
	pause := shortPause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.wake:
		}
		left := a.gate(time.Now())
		a.now = monotonic()
		fresh := a.reader.Poll(a.now)
		if a.said != nil {
			a.said.tell(a.joiner)
		}
		a.joiner.Tick(a.now)
		a.depths.left(a.observer.Left())
		a.counts.Store(&counts{a.reader.Stats(), a.joiner.Stats, a.keep.kept})
		pause = nextPause(pause, fresh, a.recorder.Ring().Len())
		timer.Reset(min(pause, left))
	}
}

// gate opens and closes the recorder, and says for how long at most it stays so. What is under way when it closes is given up: the rest
// of it will not be seen.
func (a *Agent) gate(now time.Time) (left time.Duration) {
	open, left := window(now, a.meter.share())
	if open = open && a.wanted.Load(); open == a.open {
		return left
	}
	a.open = open
	a.recorder.Ring().Enable(open)
	a.now = monotonic()
	if !open {
		a.reader.Poll(a.now)
		a.reader.Cut()
	}
	a.joiner.Cut(a.now)
	return left
}

// Record switches recording on or off; programs stay attached.
func (a *Agent) Record(on bool) {
	a.wanted.Store(on)
	if !on {
		a.recorder.Ring().Enable(false) // at once; the loop gives up what is under way
	}
	select {
	case a.wake <- struct{}{}:
	default: // it looks anyway
	}
}

// Inject switches giving requests ids off, for good on the connections that there are, or on for those that will be opened. An error: it is
// not configured.
func (a *Agent) Inject(on bool) error {
	if a.injects == nil {
		return fmt.Errorf("no programs are loaded that give requests ids: set inject to %s in the configuration", InjectMissing)
	}
	a.injects.Switch(on)
	return nil
}

// Close stops in order: no new flights, what is under way is given out, what is queued is sent (5 s at most), everything
// is detached.
func (a *Agent) Close() error {
	if a.recorder != nil {
		a.recorder.Ring().Enable(false)
	}
	a.cancel()
	var errs []error
	if a.said != nil {
		errs = append(errs, a.said.close())
	}
	a.background.Wait()
	if a.joiner != nil {
		a.now = monotonic()
		a.reader.Poll(a.now)
		a.reader.Close()
		a.joiner.Close()
		a.joiner = nil
	}
	if a.writer != nil {
		errs = append(errs, a.writer.Close())
	}
	if a.exporter != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		errs = append(errs, a.exporter.Shutdown(ctx))
		cancel()
	}
	if a.watcher != nil {
		errs = append(errs, a.watcher.Close())
	}
	if a.attached != nil {
		errs = append(errs, a.attached.Close())
	}
	if a.recorder != nil {
		errs = append(errs, a.recorder.Close())
	}
	return errors.Join(errs...)
}
