package head

import (
	"bytes"
	"encoding/base64"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// The values of journey.TraceContext.Format.
const (
	FormatTraceparent = "traceparent"
	FormatB3          = "b3" // single and multi
	FormatUber        = "uber-trace-id"
	FormatSW8         = "sw8"
)

// traceFields are the values of one head's trace context fields.
type traceFields struct {
	value [traceFieldCount][]byte
	seen  uint8 // bit by field
	bad   uint8 // bit by field: came twice with different values
}

func (t *traceFields) set(f field, v []byte) {
	bit := uint8(1) << f
	if t.seen&bit != 0 && !bytes.Equal(t.value[f], v) {
		t.bad |= bit
	}
	t.seen |= bit
	t.value[f] = v
}

// get is nil for a field that is absent or contradicts itself: then whose context it is cannot be said.
func (t *traceFields) get(f field) []byte {
	if t.bad&(1<<f) != 0 {
		return nil
	}
	return t.value[f]
}

// context is the first of traceparent, b3, multi-b3, uber-trace-id, sw8 that carries a valid trace id; if none does, the
// first that carries a decision (only b3's can); else the zero value.
func (t *traceFields) context() (tc journey.TraceContext) {
	if t.seen == 0 {
		return tc
	}
	if tc = traceparent(t.get(fieldTraceparent)); hasID(tc) {
		return tc
	}
	single := b3(t.get(fieldB3))
	if hasID(single) {
		return single
	}
	multi := multiB3(t.get(fieldB3TraceID), t.get(fieldB3SpanID), t.get(fieldB3Sampled), t.get(fieldB3Flags))
	if hasID(multi) {
		return multi
	}
	if tc = uber(t.get(fieldUber)); hasID(tc) {
		return tc
	}
	if tc = sw8(t.get(fieldSW8)); hasID(tc) {
		return tc
	}
	if single.Decided {
		return single
	}
	return multi
}

func hasID(tc journey.TraceContext) bool { return tc.TraceID != [16]byte{} }

// traceparent reads W3C Trace Context level 1 and 2: "00-32 hex-16 hex-2 hex", lower case. A version above 00 may have
// more behind another dash; ff is invalid, as are ids of zeros.
func traceparent(v []byte) (tc journey.TraceContext) {
	const length = 55
	if len(v) < length || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return tc
	}
	for _, c := range v[:length] {
		if c >= 'A' && c <= 'F' {
			return tc
		}
	}
	var version, flags [1]byte
	if !unhex(version[:], v) || !unhex(flags[:], v[53:]) || version[0] == 0xff {
		return tc
	}
	if len(v) > length && (version[0] == 0 || v[length] != '-') {
		return tc
	}
	if !unhex(tc.TraceID[:], v[3:]) || !unhex(tc.SpanID[:], v[36:]) || tc.SpanID == [8]byte{} {
		return journey.TraceContext{}
	}
	tc.Sampled, tc.Decided, tc.Format = flags[0]&1 != 0, true, FormatTraceparent
	return tc
}

// b3 reads "trace-span[-state[-parent]]", or a state alone.
func b3(v []byte) journey.TraceContext {
	if i := bytes.IndexByte(v, '-'); i < 0 {
		return multiB3(nil, nil, v, nil)
	}
	id, rest, _ := bytes.Cut(v, []byte("-"))
	span, rest, hasState := bytes.Cut(rest, []byte("-"))
	state, _, _ := bytes.Cut(rest, []byte("-"))
	tc := multiB3(id, span, state, nil)
	if !hasID(tc) || tc.SpanID == [8]byte{} || hasState && !tc.Decided {
		return journey.TraceContext{}
	}
	return tc
}

// multiB3 reads the values of X-B3-TraceId, X-B3-SpanId, X-B3-Sampled, X-B3-Flags. Trace ids have 16 or 32 digits,
// which some senders write in capitals. Debug (d, or the flag) is a decision to sample.
func multiB3(id, span, sampled, flags []byte) (tc journey.TraceContext) {
	switch string(sampled) {
	case "1", "d", "true":
		tc.Decided, tc.Sampled = true, true
	case "0", "false":
		tc.Decided = true
	}
	if string(flags) == "1" {
		tc.Decided, tc.Sampled = true, true
	}
	if len(id) != 16 && len(id) != 32 || !unhexRight(tc.TraceID[:], id) {
		tc.TraceID = [16]byte{}
	}
	if !hasID(tc) || len(span) != 16 || !unhexRight(tc.SpanID[:], span) {
		tc.SpanID = [8]byte{}
	}
	if hasID(tc) || tc.Decided {
		tc.Format = FormatB3
	}
	return tc
}

// uber reads Jaeger's "trace:span:parent:flags", colons also as %3A: ids in hex without leading zeros, flags bit 0
// sampled. The parent is not used.
func uber(v []byte) (tc journey.TraceContext) {
	id, v, ok1 := cutColon(v)
	span, v, ok2 := cutColon(v)
	parent, flags, ok3 := cutColon(v)
	var p [8]byte
	var f [1]byte
	if !ok1 || !ok2 || !ok3 || len(flags) == 0 || !unhexRight(p[:], parent) || !unhexRight(f[:], flags) {
		return tc
	}
	if !unhexRight(tc.TraceID[:], id) || !unhexRight(tc.SpanID[:], span) || tc.SpanID == [8]byte{} {
		return journey.TraceContext{}
	}
	tc.Sampled, tc.Decided, tc.Format = f[0]&1 != 0, true, FormatUber
	return tc
}

func cutColon(v []byte) (before, after []byte, ok bool) {
	for i, c := range v {
		if c == ':' {
			return v[:i], v[i+1:], true
		}
		if c == '%' && i+2 < len(v) && v[i+1] == '3' && v[i+2]|0x20 == 'a' {
			return v[:i], v[i+3:], true
		}
	}
	return v, nil, false
}

// unhexRight reads at most two digits for each byte of dst, right-aligned; what is left of them is zero.
func unhexRight(dst, digits []byte) bool {
	if len(digits) > 2*len(dst) {
		return false
	}
	clear(dst)
	for i := range digits {
		c := hexDigit[digits[len(digits)-1-i]]
		if c == 0 {
			return false
		}
		dst[len(dst)-1-i/2] |= (c - 1) << (4 * (i % 2))
	}
	return true
}

// sw8 reads SkyWalking's "sample-trace-segment-span-service-instance-endpoint-address". The trace id is base64 of any
// text, so TraceID is what ParseID makes of it; SkyWalking has no span id that could be one, SpanID stays zero.
func sw8(v []byte) (tc journey.TraceContext) {
	if bytes.Count(v, []byte("-")) != 7 || v[1] != '-' || v[0] != '0' && v[0] != '1' {
		return tc
	}
	encoded, rest, _ := bytes.Cut(v[2:], []byte("-"))
	segment, _, _ := bytes.Cut(rest, []byte("-"))
	var text [MaxID]byte
	if len(segment) == 0 || base64.StdEncoding.DecodedLen(len(encoded)) > len(text) {
		return tc
	}
	n, err := base64.StdEncoding.Decode(text[:], encoded)
	if err != nil {
		return tc
	}
	id, ok := ParseID(text[:n])
	if !ok {
		return tc
	}
	return journey.TraceContext{TraceID: id, Sampled: v[0] == '1', Decided: true, Format: FormatSW8}
}
