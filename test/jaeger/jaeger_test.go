package jaeger

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
	"github.com/meshwatch/meshwatch/meshwatch/otlp"
	"github.com/meshwatch/meshwatch/meshwatch/verdict"
)

var demoCalls = []string{"client -> gateway", "gateway -> frontend", "frontend -> backend"}

func start(t *testing.T) (context.Context, *Jaeger) {
	t.Helper()
	binary, err := Find()
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	j, err := Start(ctx, binary, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Stop)
	return ctx, j
}

type noLoss struct{ t *testing.T }

func (n noLoss) Count(stage, reason string, spans uint64) {
	n.t.Errorf("lost %d spans: %s %s", spans, stage, reason)
}

// demo is the demo journey as if it began a second ago, and the spans it should become.
func demo(id byte) (*journey.Journey, journey.Clock, map[string]otlp.Span) {
	j := journeytest.Demo()
	j.TraceID[0] = id
	j.Verdict = verdict.Judge(j)
	clock := journey.Clock{Offset: time.Now().Add(-time.Second).UnixNano() - int64(j.Exchanges[0].Request.Start)}
	return j, clock, byID(otlp.Spans(j, clock))
}

func byID(spans []otlp.Span) map[string]otlp.Span {
	m := map[string]otlp.Span{}
	for _, s := range spans {
		m[s.ID.String()] = s
	}
	return m
}

func send(ctx context.Context, t *testing.T, j *journey.Journey, clock journey.Clock) {
	t.Helper()
	e, err := otlp.New(ctx, otlp.Options{Log: slog.New(slog.DiscardHandler), Losses: noLoss{t}, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	e.Offer(j)
	if err := e.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestDemo(t *testing.T) {
	ctx, jaeger := start(t)
	for k, env := range []struct{ protocol, endpoint string }{{"grpc", jaeger.GRPC}, {"http/protobuf", jaeger.HTTP}, {"http/json", jaeger.HTTP}} {
		t.Run(env.protocol, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", env.protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", env.endpoint)
			j, clock, want := demo(byte(10 + k))
			send(ctx, t, j, clock)
			got, err := jaeger.Trace(ctx, hex.EncodeToString(j.TraceID[:]), len(want))
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckTree(got); err != nil {
				t.Error(err)
			}
			for k := range got.Spans {
				s := &got.Spans[k]
				w := want[s.SpanID]
				parent := ""
				if w.Parent.IsValid() {
					parent = w.Parent.String()
				}
				if s.Operation != w.Name || s.Parent() != parent || got.Service(s) != w.Workload.Service {
					t.Errorf("span %s: %q of %s under %q, want %q of %s under %q", s.SpanID, s.Operation, got.Service(s), s.Parent(), w.Name, w.Workload.Service, parent)
				}
			}
			edges, err := jaeger.Dependencies(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckEdges(edges, demoCalls...); err != nil {
				t.Error(err)
			}
		})
	}
}

// The client and frontend have spans of their own: ours hang between them, and all is one tree.
func TestAmongExistingSpans(t *testing.T) {
	ctx, jaeger := start(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.HTTP)
	j, clock, _ := demo(20)
	call, serve, onward := [8]byte{1}, [8]byte{2}, [8]byte{3} // client's call, frontend's server span, frontend's call
	for i, e := range j.Exchanges {
		e.Trace = journey.TraceContext{TraceID: j.TraceID, SpanID: call, Sampled: true, Decided: true, Format: "traceparent"}
		if i >= 3 {
			e.Trace.SpanID = onward
		}
	}
	spans := otlp.Spans(j, clock)
	send(ctx, t, j, clock)
	existing(ctx, t, j.TraceID, spans[0].Start, []span{{"client", call, [8]byte{}}, {"frontend", serve, call}, {"frontend", onward, serve}})
	got, err := jaeger.Trace(ctx, hex.EncodeToString(j.TraceID[:]), len(spans)+3)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckTree(got); err != nil {
		t.Error(err)
	}
	want := byID(spans)
	under := map[string]string{}
	for k := range got.Spans {
		s := &got.Spans[k]
		if w, ours := want[s.SpanID]; ours && w.Parent.String() != s.Parent() {
			t.Errorf("%q under %s, want %v", s.Operation, s.Parent(), w.Parent)
		}
		if s.Parent() == hex.EncodeToString(onward[:]) {
			under[got.Service(s)] = s.Operation
		}
	}
	if under["frontend"] != "GET frontend sidecar" || len(under) != 1 {
		t.Errorf("under frontend's own call: %v", under)
	}
	edges, err := jaeger.Dependencies(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// client -> frontend is the applications' own edge: their SDKs know nothing of the gateway
	if err := CheckEdges(edges, append(demoCalls, "client -> frontend")...); err != nil {
		t.Error(err)
	}
}

type span struct {
	service    string
	id, parent [8]byte
}

// existing sends spans as the applications' own SDKs do.
func existing(ctx context.Context, t *testing.T, traceID [16]byte, at time.Time, spans []span) {
	t.Helper()
	out, err := otlptracehttp.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var stubs tracetest.SpanStubs
	sc := func(id [8]byte) trace.SpanContext {
		return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: id, TraceFlags: trace.FlagsSampled})
	}
	for _, s := range spans {
		stubs = append(stubs, tracetest.SpanStub{
			Name: "own", SpanContext: sc(s.id), Parent: sc(s.parent), StartTime: at, EndTime: at.Add(4 * time.Millisecond),
			Resource: resource.NewSchemaless(attribute.String("service.name", s.service)),
		})
	}
	if err := out.ExportSpans(ctx, stubs.Snapshots()); err != nil {
		t.Fatal(err)
	}
	if err := out.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

// What the checks are for, they find.
func TestChecks(t *testing.T) {
	child := func(id, parent string) Span {
		return Span{SpanID: id, References: []Reference{{"CHILD_OF", parent}}}
	}
	for name, tc := range map[string]struct {
		spans []Span
		ok    bool
	}{
		"tree":           {[]Span{{SpanID: "a"}, child("b", "a"), child("c", "b")}, true},
		"two roots":      {[]Span{{SpanID: "a"}, {SpanID: "b"}}, false},
		"missing parent": {[]Span{{SpanID: "a"}, child("b", "x")}, false},
		"circle":         {[]Span{{SpanID: "a"}, child("b", "c"), child("c", "b")}, false},
		"twice":          {[]Span{{SpanID: "a"}, child("b", "a"), child("b", "a")}, false},
		"warning":        {[]Span{{SpanID: "a", Warnings: []string{"skew"}}}, false},
	} {
		if err := CheckTree(&Trace{Spans: tc.spans}); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	edges := []Edge{{"a", "b", 1}, {"a", "a", 9}}
	for want, ok := range map[string]bool{"a -> b": true, "a -> c": false} {
		if err := CheckEdges(edges, want); (err == nil) != ok {
			t.Errorf("%s: %v", want, fmt.Sprint(err))
		}
	}
}
