// Package report writes journeys for people and for programs: JSON lines, a waterfall, a table of hops. It is pure but for
// the io.Writer it is given.
package report

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Schema is the version of the JSON form, docs/journey-json.md. It grows when a field changes its meaning or goes; a new
// field alone does not change it.
const Schema = 1

// AppendJSON appends one journey as one JSON object without a line break, as docs/journey-json.md describes it. The field
// names are those of package journey's tags; written by hand as encoding/json is three times slower (BenchmarkJSON).
func AppendJSON(b []byte, j *journey.Journey, clock journey.Clock) []byte {
	id := j.Trace()
	b = append(b, `{"schema":`...)
	b = strconv.AppendInt(b, Schema, 10)
	b = append(b, `,"trace_id":"`...)
	b = hex.AppendEncode(b, id[:])
	b = append(b, '"')
	if len(j.Exchanges) > 0 {
		start := clock.Wall(j.Exchanges[0].Request.Start)
		b = append(b, `,"start":"`...)
		b = start.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, `","start_unix_ns":`...)
		b = strconv.AppendInt(b, start.UnixNano(), 10)
		b = append(b, `,"duration_ns":`...)
		b = strconv.AppendInt(b, int64(j.Duration()), 10)
	}
	b = optional(b, `,"request_id":`, j.RequestID)
	b = optional(b, `,"unjoined":`, j.Unjoined)
	if j.Candidates != 0 {
		b = strconv.AppendInt(append(b, `,"candidates":`...), int64(j.Candidates), 10)
	}
	if j.RecordedShare != 0 {
		b = strconv.AppendFloat(append(b, `,"recorded_share":`...), j.RecordedShare, 'g', -1, 64)
	}
	b = append(b, `,"exchanges":`...)
	b = list(b, j.Exchanges, appendExchange)
	b = append(b, `,"relays":`...)
	b = list(b, j.Relays, appendRelay)
	b = append(b, `,"verdict":`...)
	b = appendVerdict(b, &j.Verdict)
	return append(b, '}')
}

// list appends an array. Items are passed by address where they are values.
func list[T any](b []byte, items []T, one func([]byte, *T) []byte) []byte {
	b = append(b, '[')
	for k := range items {
		if k > 0 {
			b = append(b, ',')
		}
		b = one(b, &items[k])
	}
	return append(b, ']')
}

func appendExchange(b []byte, p **journey.Exchange) []byte {
	e := *p
	b = append(b, `{"leg":{"client":`...)
	b = appendEnd(b, &e.Leg.Client)
	b = append(b, `,"server":`...)
	b = appendEnd(b, &e.Leg.Server)
	if e.Leg.CrossZone {
		b = boolean(b, `,"cross_zone":`, true)
	}
	b = required(b, `},"protocol":`, e.Protocol)
	b = boolean(b, `,"tls":`, e.TLS)
	if e.Stream != 0 {
		b = number(b, `,"stream":`, e.Stream)
	}
	if g := e.GRPC; g != nil {
		b = number(b, `,"grpc":{"status":`, g.Status)
		b = number(b, `,"request_messages":`, g.Sent)
		b = number(b, `,"response_messages":`, g.Received)
		b = append(boolean(b, `,"messages_exact":`, g.Exact), '}')
	}
	b = optional(b, `,"method":`, e.Method)
	b = optional(b, `,"target":`, e.Target)
	b = optional(b, `,"host":`, e.Host)
	if e.Status != 0 {
		b = number(b, `,"status":`, e.Status)
	}
	b = optional(b, `,"request_id":`, e.RequestID)
	if e.Trace != (journey.TraceContext{}) {
		b = appendTrace(b, &e.Trace)
	}
	if len(e.Headers) > 0 {
		b = appendHeaders(b, e.Headers)
	}
	if e.Connect != nil {
		b = append(b, `,"connect":`...)
		b = appendFlight(b, e.Connect)
	}
	b = append(b, `,"request":`...)
	b = appendFlight(b, &e.Request)
	if e.Response != nil {
		b = append(b, `,"response":`...)
		b = appendFlight(b, e.Response)
	}
	b = number(b, `,"parent":`, e.Parent)
	b = optional(b, `,"error":`, e.Error)
	if e.Governance != nil {
		b = appendGovernance(b, e.Governance)
	}
	return append(b, '}')
}

func appendTrace(b []byte, t *journey.TraceContext) []byte {
	b = append(b, `,"trace":{"trace_id":"`...)
	b = hex.AppendEncode(b, t.TraceID[:])
	b = append(b, `","span_id":"`...)
	b = hex.AppendEncode(b, t.SpanID[:])
	b = boolean(b, `","sampled":`, t.Sampled)
	b = boolean(b, `,"decided":`, t.Decided)
	b = required(b, `,"format":`, t.Format)
	return append(b, '}')
}

func appendHeaders(b []byte, headers map[string]string) []byte {
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	b = append(b, `,"headers":`...)
	for k, name := range names {
		b = append(b, "{,"[min(k, 1)])
		b = appendString(b, name)
		b = required(b, ":", headers[name])
	}
	return append(b, '}')
}

func appendEnd(b []byte, e *journey.End) []byte {
	b = address(b, `{"local":"`, e.Local)
	b = address(b, `,"peer":"`, e.Peer)
	b = number(b, `,"netns":`, e.Netns)
	b = required(b, `,"netns_name":`, e.NetName)
	b = number(b, `,"pid":`, e.Pid)
	b = number(b, `,"tid":`, e.Tid)
	b = optional(b, `,"process":`, e.Process)
	b = optional(b, `,"thread":`, e.Thread)
	b = optional(b, `,"role":`, string(e.Role))
	if w := &e.Workload; *w != (journey.Workload{}) {
		b = append(b, `,"workload":`...)
		at := len(b)
		b = optional(b, `,"name":`, w.Name)
		b = optional(b, `,"namespace":`, w.Namespace)
		b = optional(b, `,"service":`, w.Service)
		b = optional(b, `,"node":`, w.Node)
		b = optional(b, `,"service_namespace":`, w.ServiceNamespace)
		b = optional(b, `,"version":`, w.Version)
		b = optional(b, `,"kind":`, w.Kind)
		b = optional(b, `,"uid":`, w.UID)
		b = optional(b, `,"cluster":`, w.Cluster)
		b = optional(b, `,"region":`, w.Region)
		b = optional(b, `,"zone":`, w.Zone)
		b[at] = '{' // for the first comma
		b = append(b, '}')
	}
	b = boolean(b, `,"known":`, e.Known)
	return append(b, '}')
}

func appendFlight(b []byte, f *journey.Flight) []byte {
	b = number(b, `{"serial":`, f.Serial)
	b = number(b, `,"start_ns":`, f.Start)
	b = number(b, `,"send_end_ns":`, f.SendEnd)
	b = number(b, `,"recv_ns":`, f.Recv)
	b = number(b, `,"recv_end_ns":`, f.RecvEnd)
	b = number(b, `,"seq":`, f.Seq)
	b = number(b, `,"ack":`, f.Ack)
	b = number(b, `,"bytes":`, f.Bytes)
	b = number(b, `,"retransmits":`, f.Retransmits)
	b = number(b, `,"drop_reason":`, f.DropReason)
	b = append(b, `,"stamps":`...)
	b = list(b, f.Stamps, appendStamp)
	b = append(b, `,"hops":`...)
	b = list(b, f.Hops, appendHop)
	b = boolean(b, `,"deep":`, f.Deep)
	b = boolean(b, `,"truncated":`, f.Truncated)
	return append(b, '}')
}

func appendStamp(b []byte, s *journey.Stamp) []byte {
	b = number(b, `{"at_ns":`, s.At)
	b = number(b, `,"hook":`, s.Hook)
	b = number(b, `,"netns":`, s.Netns)
	b = number(b, `,"ifindex":`, s.Ifindex)
	return append(b, '}')
}

func appendHop(b []byte, h *journey.Hop) []byte {
	b = required(b, `{"name":`, h.Name)
	b = required(b, `,"kind":`, h.Kind)
	b = required(b, `,"class":`, string(h.Class))
	b = number(b, `,"from_ns":`, h.From)
	b = number(b, `,"to_ns":`, h.To)
	b = number(b, `,"netns":`, h.Netns)
	b = optional(b, `,"netns_name":`, h.Net)
	b = optional(b, `,"iface":`, h.Iface)
	return append(b, '}')
}

func appendRelay(b []byte, r *journey.Relay) []byte {
	b = number(b, `{"from":`, r.From)
	b = number(b, `,"to":`, r.To)
	b = required(b, `,"method":`, string(r.Method))
	b = real64(b, `,"confidence":`, r.Confidence)
	b = number(b, `,"candidates":`, r.Candidates)
	b = number(b, `,"pid":`, r.Pid)
	b = optional(b, `,"role":`, string(r.Role))
	return append(b, '}')
}

func appendVerdict(b []byte, v *journey.Verdict) []byte {
	b = required(b, `{"class":`, string(v.Class))
	b = real64(b, `,"share":`, v.Share)
	b = optional(b, `,"where":`, v.Where)
	b = append(b, `,"shares":`...)
	b = list(b, v.Shares, func(b []byte, s *journey.Share) []byte {
		b = required(b, `{"class":`, string(s.Class))
		b = number(b, `,"own_ns":`, int64(s.Own))
		return append(b, '}')
	})
	return append(b, '}')
}

// The functions below append a name as it stands, punctuation included, and a value.

func required(b []byte, name, v string) []byte { return appendString(append(b, name...), v) }

func optional(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	return required(b, name, v)
}

func number[T ~int | ~int64 | ~uint8 | ~uint32 | ~uint64](b []byte, name string, v T) []byte {
	if v < 0 {
		return strconv.AppendInt(append(b, name...), int64(v), 10)
	}
	return strconv.AppendUint(append(b, name...), uint64(v), 10)
}

func boolean(b []byte, name string, v bool) []byte { return strconv.AppendBool(append(b, name...), v) }

func real64(b []byte, name string, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) { // JSON has no such numbers
		v = 0
	}
	return strconv.AppendFloat(append(b, name...), v, 'g', -1, 64)
}

// address appends an address and a closing quote; nothing between the quotes when it is not known.
func address(b []byte, name string, a netip.AddrPort) []byte {
	b = append(b, name...)
	if a.Addr().IsValid() {
		b = a.AppendTo(b)
	}
	return append(b, '"')
}

// appendString quotes. Nearly all strings are plain ASCII; what a client wrote may be anything.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // a string always has a form
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
