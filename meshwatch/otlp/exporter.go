package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Stage and the reasons under which lost spans are counted.
const (
	Stage = "export"

	ReasonQueueFull    = "queue-full"    // journeys come faster than the backend takes them
	ReasonExportFailed = "export-failed" // the backend was away or answered with an error, retries included
	ReasonRejected     = "rejected"      // the backend took the batch but not these spans (OTLP partial success)
	ReasonShutdown     = "shutdown"      // not sent in the time that Shutdown was given, or offered after it
)

// Counter counts losses; it must be safe for concurrent use.
type Counter interface {
	Count(stage, reason string, n uint64)
}

// Options of an Exporter. Log and Losses are required; zero numbers mean the defaults.
type Options struct {
	Log     *slog.Logger
	Losses  Counter
	Clock   journey.Clock
	Version string        // of the instrumentation scope
	Queue   int           // journeys that wait, default 512: at some 25 KB each about 13 MB
	Batch   int           // spans per request, default 2000: about 1 MB, while gRPC servers take 4 MB
	Delay   time.Duration // how long a span waits for its batch to fill, default 1 s
}

// Exporter sends the spans of journeys over OTLP. One goroutine owns the connection; nothing that offers journeys ever waits.
type Exporter struct {
	opt       Options
	resources *resources
	scope     instrumentation.Scope
	backend   backend
	queue     chan *journey.Journey
	stop      chan struct{} // closed: no more offers, send what is queued
	done      chan struct{} // closed: the goroutine ended
	ctx       context.Context
	cancel    context.CancelFunc // gives up what is being sent
	batch     []sdk.ReadOnlySpan // the goroutine's

	mu     sync.RWMutex // held for writing while stop is closed, so that no offer comes after
	closed bool
}

// New starts an exporter with the protocol and endpoint of the environment (OTEL_EXPORTER_OTLP_*). It does not connect, so a
// backend that is away is no error; a variable that makes no sense is a *SettingError. Call Shutdown.
func New(ctx context.Context, opt Options) (*Exporter, error) {
	res, err := newResources(ctx)
	if err != nil {
		return nil, err
	}
	out, endpoint, err := newSDKExporter(ctx)
	if err != nil {
		return nil, err
	}
	return start(opt, res, backend{out: out, endpoint: endpoint, log: opt.Log, losses: opt.Losses}), nil
}

func start(opt Options, res *resources, b backend) *Exporter {
	if opt.Queue <= 0 {
		opt.Queue = 512
	}
	if opt.Batch <= 0 {
		opt.Batch = 2000
	}
	if opt.Delay <= 0 {
		opt.Delay = time.Second
	}
	e := &Exporter{
		opt: opt, resources: res, scope: instrumentation.Scope{Name: "meshwatch", Version: opt.Version}, backend: b,
		queue: make(chan *journey.Journey, opt.Queue), stop: make(chan struct{}), done: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	go e.run()
	return e
}

// State is where spans go and how that goes, for people. Safe for concurrent use.
func (e *Exporter) State() (endpoint, text string) {
	endpoint = e.backend.endpoint
	if u, err := url.Parse(endpoint); err == nil {
		endpoint = u.Redacted()
	}
	return endpoint, state(atomic.LoadInt32((*int32)(&e.backend.state))).String()
}

// Offer queues a journey and returns at once; false: it was dropped, and its spans counted. The journey must not change
// afterwards. Safe for concurrent use.
func (e *Exporter) Offer(j *journey.Journey) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	reason := ReasonShutdown
	if !e.closed {
		select {
		case e.queue <- j:
			return true
		default:
			reason = ReasonQueueFull
		}
	}
	e.opt.Losses.Count(Stage, reason, uint64(SpanCount(j))) //nolint:gosec // not negative
	return false
}

// Shutdown sends what is queued until ctx ends, counts the rest, and closes the connection. A second call does nothing.
func (e *Exporter) Shutdown(ctx context.Context) error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	close(e.stop)
	e.mu.Unlock()
	var late error
	select {
	case <-e.done:
	case <-ctx.Done():
		late = fmt.Errorf("send queued spans: %w", context.Cause(ctx))
		e.cancel()
		<-e.done
	}
	e.cancel()
	if err := e.backend.out.Shutdown(ctx); err != nil && late == nil {
		late = fmt.Errorf("close otlp exporter: %w", err)
	}
	return late
}

func (e *Exporter) run() {
	defer close(e.done)
	tick := time.NewTicker(e.opt.Delay)
	defer tick.Stop()
	for {
		select {
		case j := <-e.queue:
			e.add(j)
		case <-tick.C:
			e.flush()
		case <-e.stop:
			e.drain()
			return
		}
	}
}

// drain ends as soon as ctx does: flush then only counts.
func (e *Exporter) drain() {
	for {
		select {
		case j := <-e.queue:
			e.add(j)
		default:
			e.flush()
			return
		}
	}
}

func (e *Exporter) add(j *journey.Journey) {
	spans := Spans(j, e.opt.Clock)
	shots := make([]snapshot, len(spans))
	for k := range spans {
		shots[k] = snapshot{span: &spans[k], resource: e.resources.get(spans[k].Workload), scope: e.scope}
		e.batch = append(e.batch, &shots[k])
	}
	if len(e.batch) >= e.opt.Batch {
		e.flush()
	}
}

func (e *Exporter) flush() {
	for rest := e.batch; len(rest) > 0; {
		n := min(len(rest), e.opt.Batch)
		e.backend.send(e.ctx, rest[:n])
		rest = rest[n:]
	}
	clear(e.batch)
	e.batch = e.batch[:0]
}

// stopped tells whether sending was given up because of Shutdown's deadline.
func stopped(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
