package otlp

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Span is one span of a journey, before it belongs to an SDK. Its kind is INTERNAL.
type Span struct {
	TraceID    trace.TraceID
	ID         trace.SpanID
	Parent     trace.SpanID // zero: the root of the trace
	Foreign    bool         // the parent is not one of ours: the application's or a proxy's own span
	Link       trace.SpanID // of the same trace, where a span is named that cannot be the parent; zero: none
	Name       string       // of low cardinality
	Start, End time.Time
	Workload   journey.Workload // whose resource the span goes under; Service is never empty
	Attributes []attribute.KeyValue
	Error      bool
}

// snapshot shows a Span to the SDK's exporters. The SDK lets no span be made with given ids, so this is the way that its own
// tracetest.SpanStub takes: the embedded nil interface has the private method that nobody calls.
type snapshot struct {
	sdk.ReadOnlySpan
	span     *Span
	resource *resource.Resource
	scope    instrumentation.Scope
}

func (s *snapshot) context(id trace.SpanID, remote bool) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: s.span.TraceID, SpanID: id, TraceFlags: trace.FlagsSampled, Remote: remote})
}

func (s *snapshot) Name() string                                  { return s.span.Name }
func (s *snapshot) SpanContext() trace.SpanContext                { return s.context(s.span.ID, false) }
func (s *snapshot) SpanKind() trace.SpanKind                      { return trace.SpanKindInternal }
func (s *snapshot) StartTime() time.Time                          { return s.span.Start }
func (s *snapshot) EndTime() time.Time                            { return s.span.End }
func (s *snapshot) Attributes() []attribute.KeyValue              { return s.span.Attributes }
func (s *snapshot) Events() []sdk.Event                           { return nil }
func (s *snapshot) DroppedAttributes() int                        { return 0 }
func (s *snapshot) DroppedLinks() int                             { return 0 }
func (s *snapshot) DroppedEvents() int                            { return 0 }
func (s *snapshot) ChildSpanCount() int                           { return 0 }
func (s *snapshot) Resource() *resource.Resource                  { return s.resource }
func (s *snapshot) InstrumentationScope() instrumentation.Scope   { return s.scope }
func (s *snapshot) InstrumentationLibrary() instrumentation.Scope { return s.scope }

func (s *snapshot) Parent() trace.SpanContext {
	if !s.span.Parent.IsValid() {
		return trace.SpanContext{}
	}
	return s.context(s.span.Parent, s.span.Foreign)
}

func (s *snapshot) Links() []sdk.Link {
	if !s.span.Link.IsValid() {
		return nil
	}
	return []sdk.Link{{SpanContext: s.context(s.span.Link, true).WithTraceFlags(0)}}
}

func (s *snapshot) Status() sdk.Status {
	if s.span.Error {
		return sdk.Status{Code: codes.Error}
	}
	return sdk.Status{}
}
