package otlp

import (
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"sync/atomic"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// backend is the far side as the exporter's goroutine knows it. It says once when it goes and once when it is back.
type backend struct {
	out      sdk.SpanExporter
	endpoint string
	log      *slog.Logger
	losses   Counter
	state    state  // written by the exporter's goroutine, read by any
	lost     uint64 // spans since it went
}

type state int32

const (
	untried state = iota
	there
	away
	rejecting // it answers, but does not take all
)

// String is the state as people read it.
func (s state) String() string {
	return [...]string{"nothing sent yet", "connected", "lost, spans are dropped until it is back", "connected, but rejects spans"}[s]
}

func (b *backend) send(ctx context.Context, spans []sdk.ReadOnlySpan) {
	n := uint64(len(spans))
	if stopped(ctx) {
		b.losses.Count(Stage, ReasonShutdown, n)
		return
	}
	err := b.out.ExportSpans(ctx, spans)
	if err == nil {
		b.became(there, nil)
		b.lost = 0
		return
	}
	switch rejected, partial := partialSuccess(err); {
	case partial:
		rejected = min(rejected, n)
		b.lost += rejected
		b.losses.Count(Stage, ReasonRejected, rejected)
		b.became(rejecting, err)
	case stopped(ctx):
		b.losses.Count(Stage, ReasonShutdown, n)
	default:
		b.lost += n
		b.losses.Count(Stage, ReasonExportFailed, n)
		b.became(away, err)
	}
}

func (b *backend) became(s state, err error) {
	before := state(atomic.SwapInt32((*int32)(&b.state), int32(s)))
	switch {
	case before == s:
	case s == away:
		b.log.Warn("trace backend lost, spans are dropped until it is back: is it running, and OTEL_EXPORTER_OTLP_ENDPOINT right?",
			"endpoint", b.endpoint, "error", err)
	case s == rejecting:
		b.log.Warn("trace backend rejects spans", "endpoint", b.endpoint, "error", err)
	case before == untried:
		b.log.Info("trace backend connected", "endpoint", b.endpoint)
	default:
		b.log.Info("trace backend is back", "endpoint", b.endpoint, "spans_lost", b.lost)
	}
}

// The SDK's error for a partial success is of an internal type that tells its number only in words.
var rejectedSpans = regexp.MustCompile(`(?s)OTLP partial success: .*\((\d+) spans rejected\)`)

func partialSuccess(err error) (rejected uint64, partial bool) {
	m := rejectedSpans.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, false
	}
	rejected, err = strconv.ParseUint(m[1], 10, 64)
	return rejected, err == nil
}
