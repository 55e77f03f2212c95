package otlp

import (
	"encoding/binary"

	"go.opentelemetry.io/otel/trace"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// What a span is of. The numbers go into span ids: never change them.
const (
	kindLeg     = 1
	kindRelay   = 2
	kindHop     = 3
	kindConnect = 4
)

// direction is which flight of an exchange a hop is of. The numbers go into span ids, too.
type direction uint8

const (
	request  direction = 0
	response direction = 1
	connect  direction = 2
)

func (d direction) String() string { return [...]string{"request", "response", "connect"}[d] }

// flight is the exchange's in that direction.
func (d direction) flight(e *journey.Exchange) *journey.Flight {
	switch d {
	case response:
		return e.Response
	case connect:
		return e.Connect
	}
	return &e.Request
}

// legKey identifies an exchange within its trace: sequence and acknowledgement number of the request's first byte. Both pass
// NAT unchanged, so an agent that sees only one end has the same key; and the stream, with HTTP/2. Ports are left out as none survives every NAT.
func legKey(traceID [16]byte, e *journey.Exchange) uint64 {
	h := mix(0x6d65736877617463, binary.BigEndian.Uint64(traceID[:8])) // "meshwatc"
	h = mix(h, binary.BigEndian.Uint64(traceID[8:]))
	h = mix(h, uint64(e.Request.Seq)<<32|uint64(e.Request.Ack))
	if e.Stream != 0 { // several may begin in one write
		h = mix(h, uint64(e.Stream))
	}
	return h
}

func legID(key uint64) trace.SpanID { return spanID(mix(key, kindLeg)) }

func connectID(key uint64) trace.SpanID { return spanID(mix(key, kindConnect)) }

func relayID(key uint64) trace.SpanID { return spanID(mix(key, kindRelay)) }

// hopID also holds where the hop was and which ends this agent saw: the agents of two nodes count hops from zero each, and
// may both have an "iptables FORWARD" in a namespace of the same number.
func hopID(key uint64, e *journey.Exchange, d direction, index int) trace.SpanID {
	hop := &d.flight(e).Hops[index]
	ends := bit(e.Leg.Client.Known)<<9 | bit(e.Leg.Server.Known)<<10
	h := mix(key, kindHop|uint64(d&1)<<8|ends|uint64(d>>1)<<11|uint64(index)<<16) //nolint:gosec // small
	h = mix(h, uint64(hop.Netns)<<32|uint64(text(hop.Name)))
	return spanID(mix(h, uint64(text(hop.Kind))<<32|uint64(text(hop.Iface))))
}

func spanID(h uint64) (id trace.SpanID) {
	if h == 0 { // an invalid id
		h = 1
	}
	binary.BigEndian.PutUint64(id[:], h)
	return id
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// mix adds v to h; the finalizer is SplitMix64's.
func mix(h, v uint64) uint64 {
	h ^= v
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// text is FNV-1a.
func text(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
