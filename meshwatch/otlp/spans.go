// Package otlp makes spans of journeys and sends them to a tracing backend. Spans is pure; Exporter owns the connection.
//
// docs/spans.md describes the spans: which there are, whose they are, what they hang under, what they carry.
package otlp

import (
	"go.opentelemetry.io/otel/trace"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Spans makes one span per leg, per connection opened for one, per relay (the stretch inside the process that received the leg)
// and per hop, both directions. A parent among them stands before its children. Span ids depend only on the trace id and on what every agent
// sees of a leg, so the same journey always has the same ids.
func Spans(j *journey.Journey, clock journey.Clock) []Span {
	if len(j.Exchanges) == 0 {
		return nil
	}
	b := builder{j: j, clock: clock, traceID: j.Trace(), spans: make([]Span, 0, SpanCount(j))}
	b.keys = make([]uint64, len(j.Exchanges))
	b.owners = make([]owner, len(j.Exchanges))
	b.parents = make([]bool, len(j.Exchanges))
	for i, e := range j.Exchanges {
		b.keys[i] = b.uniqueKey(i, e)
		b.owners[i] = b.owner(i, e)
		if b.hasParent(i) {
			b.parents[e.Parent] = true
		}
	}
	b.joins = make([]*journey.Relay, len(j.Exchanges))
	for k := range j.Relays {
		if to := j.Relays[k].To; to >= 0 && to < len(b.joins) {
			b.joins[to] = &j.Relays[k]
		}
	}
	for i, e := range j.Exchanges {
		b.leg(i, e)
		if e.Connect != nil {
			b.connect(i, e)
		}
		b.hops(i, e, request)
		if b.processed(i) {
			b.relay(i, e)
		}
		if e.Response != nil {
			b.hops(i, e, response)
		}
	}
	return b.spans
}

// SpanCount is how many spans a journey has at most: all of them, but for relays in processes that were not seen.
func SpanCount(j *journey.Journey) (n int) {
	for _, e := range j.Exchanges {
		n += 2 + len(e.Request.Hops)
		if e.Connect != nil {
			n += 1 + len(e.Connect.Hops)
		}
		if e.Response != nil {
			n += len(e.Response.Hops)
		}
	}
	return n
}

// builder holds what the spans of one journey share; its slices run parallel to Journey.Exchanges.
type builder struct {
	attributes
	j       *journey.Journey
	clock   journey.Clock
	traceID trace.TraceID
	spans   []Span
	keys    []uint64
	owners  []owner
	parents []bool // made further exchanges
	joins   []*journey.Relay
}

// owner is who a leg's spans and its relay span belong to.
type owner struct{ caller, callee journey.Workload }

// uniqueKey is the leg's key; where a second exchange went in the same first byte (pipelined), the key of key.
func (b *builder) uniqueKey(i int, e *journey.Exchange) uint64 {
	key := legKey(b.traceID, e)
	for k := 0; k < i; k++ {
		if b.keys[k] == key {
			key, k = mix(key, 1), -1
		}
	}
	return key
}

func (b *builder) hasParent(i int) bool { p := b.j.Exchanges[i].Parent; return p >= 0 && p < i }

// owner gives the leg to its caller and the relay to its callee, so that a backend draws exactly the edge caller → callee. All
// that one process did goes under one name: the caller of an exchange is whoever received its parent.
func (b *builder) owner(i int, e *journey.Exchange) (o owner) {
	c, s := &e.Leg.Client, &e.Leg.Server
	switch {
	case b.hasParent(i):
		o.caller = b.owners[e.Parent].callee
	case i > 0:
		o.caller = b.owners[0].caller
	case named(c):
		o.caller = workload(c)
	default: // from outside: an edge from nobody would say nothing
		o.caller = workload(s)
	}
	sameNamespace := c.Known && s.Known && c.Netns == s.Netns && c.Netns != 0
	if o.callee = workload(s); sameNamespace && s.Workload == (journey.Workload{}) {
		o.callee = o.caller
	}
	return o
}

func named(e *journey.End) bool { return e.Workload.Service != "" || e.Name() != "" }

// workload is the end's, with a service name.
func workload(e *journey.End) journey.Workload {
	w := e.Workload
	if w.Service == "" {
		w.Service = e.Name()
	}
	if w.Service == "" {
		w.Service = "unknown_service" // OpenTelemetry's word for it
	}
	return w
}

// processed tells whether the stretch inside the receiving process was seen.
func (b *builder) processed(i int) bool {
	e := b.j.Exchanges[i]
	return b.parents[i] || e.Leg.Server.Known && e.Request.Recv != 0
}

func (b *builder) span(id, parent trace.SpanID, name string, w journey.Workload, from, to uint64) *Span {
	b.spans = append(b.spans, Span{
		TraceID: b.traceID, ID: id, Parent: parent, Name: name, Workload: w,
		Start: b.clock.Wall(from), End: b.clock.Wall(max(from, to)),
	})
	return &b.spans[len(b.spans)-1]
}

func (b *builder) leg(i int, e *journey.Exchange) {
	s := b.span(legID(b.keys[i]), trace.SpanID{}, legName(e, b.owners[i].callee), b.owners[i].caller, e.Began(), e.End())
	s.Parent, s.Foreign, s.Link = b.hang(i, e)
	s.Error = errorType(e) != ""
	s.Attributes = b.legAttributes(i, e)
}

func (b *builder) relay(i int, e *journey.Exchange) {
	name := string(e.Leg.Server.Role)
	if name == "" {
		name = "process"
	}
	from, to := b.stretch(i, e)
	s := b.span(relayID(b.keys[i]), legID(b.keys[i]), name, b.owners[i].callee, from, to)
	s.Attributes = b.relayAttributes(e)
}

// stretch is from request read to response sent; without a response, until the last exchange that the process made.
func (b *builder) stretch(i int, e *journey.Exchange) (from, to uint64) {
	if from = e.Request.Recv; from == 0 {
		from = e.Request.Start
		if n := len(e.Request.Stamps); n > 0 {
			from = e.Request.Stamps[n-1].At
		}
	}
	if e.Response != nil {
		return from, e.Response.Start
	}
	to = from
	for k := i + 1; k < len(b.j.Exchanges); k++ {
		if c := b.j.Exchanges[k]; c.Parent == i {
			to = max(to, c.End())
		}
	}
	return from, to
}

// connect is from the SYN's start to its delivery. What came back is part of the leg.
func (b *builder) connect(i int, e *journey.Exchange) {
	f := e.Connect
	to := max(f.Start, f.Recv)
	if n := len(f.Hops); n > 0 {
		to = max(to, f.Hops[n-1].To)
	}
	s := b.span(connectID(b.keys[i]), legID(b.keys[i]), "connect", b.owners[i].caller, f.Start, to)
	s.Attributes = b.connectAttributes(e)
	b.hops(i, e, connect)
}

func (b *builder) hops(i int, e *journey.Exchange, d direction) {
	f, parent := d.flight(e), legID(b.keys[i])
	if d == connect {
		parent = connectID(b.keys[i])
	}
	for k := range f.Hops {
		h := &f.Hops[k]
		s := b.span(hopID(b.keys[i], e, d, k), parent, h.Name, b.owners[i].caller, h.From, h.To)
		s.Attributes = b.hopAttributes(h, d)
	}
}

// hang says what a leg span hangs under: docs/spans.md, "Parents".
func (b *builder) hang(i int, e *journey.Exchange) (parent trace.SpanID, foreign bool, link trace.SpanID) {
	own := trace.SpanID(e.Trace.SpanID)
	usable := own.IsValid() && trace.TraceID(e.Trace.TraceID) == b.traceID
	unsampled := e.Trace.Decided && !e.Trace.Sampled
	if !b.hasParent(i) {
		switch {
		case i > 0:
			return legID(b.keys[0]), false, link
		case usable && unsampled:
			return parent, false, own
		case usable:
			return own, true, link
		}
		return parent, false, link
	}
	relay := relayID(b.keys[e.Parent])
	p := &b.j.Exchanges[e.Parent].Trace
	received := trace.SpanID(p.SpanID).IsValid() && trace.TraceID(p.TraceID) == b.traceID
	switch {
	case !usable || received && p.SpanID == e.Trace.SpanID: // no context, or passed on as it came
		return relay, false, link
	case received && !unsampled: // the process made a client span below what it received
		return own, true, link
	}
	return relay, false, own
}
