package head

import (
	"encoding/base64"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

const (
	trace128 = "0af7651916cd43dd8448eb211c80319c"
	trace64  = "8448eb211c80319c"
	span     = "b7ad6b7169203331"
	sw8Trace = "8f3f4a4b1c2d4e5f8a9b0c1d2e3f4a5b.57.16012345678900001"
)

var sw8Value = "1-" + b64(sw8Trace) + "-" + b64("segment.1") + "-3-" + b64("cart") + "-" + b64("cart-1") + "-" + b64("/get") +
	"-" + b64("10.0.0.1:80")

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// context is the context with the given ids in hex; "" is none.
func context(format, id, span string, decided, sampled bool) journey.TraceContext {
	tc := journey.TraceContext{Format: format, Decided: decided, Sampled: sampled}
	if _, err := hex.Decode(tc.TraceID[:], []byte(id)); err != nil {
		panic(err)
	}
	if _, err := hex.Decode(tc.SpanID[:], []byte(span)); err != nil {
		panic(err)
	}
	return tc
}

type traceCase struct {
	lines string
	want  journey.TraceContext
}

func checkTraces(t *testing.T, cases map[string]traceCase) {
	t.Helper()
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			var h Head
			if r := New(Config{}).Parse([]byte("GET / HTTP/1.1\n"+tt.lines+"\n"), &h); r != Complete {
				t.Fatalf("%v, %v", r, h.Reason)
			}
			if diff := cmp.Diff(tt.want, h.Trace); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

var none journey.TraceContext

func TestTraceparent(t *testing.T) {
	w3c := context(FormatTraceparent, trace128, span, true, true)
	checkTraces(t, map[string]traceCase{
		"w3c":                  {"traceparent: 00-" + trace128 + "-" + span + "-01\n", w3c},
		"w3c any case of name": {"TraceParent:00-" + trace128 + "-" + span + "-01  \n", w3c},
		"w3c not sampled":      {"traceparent: 00-" + trace128 + "-" + span + "-02\n", context(FormatTraceparent, trace128, span, true, false)},
		"w3c version ff":       {"traceparent: ff-" + trace128 + "-" + span + "-01\n", none},
		"w3c future":           {"traceparent: cc-" + trace128 + "-" + span + "-01\n", w3c},
		"w3c future, longer":   {"traceparent: cc-" + trace128 + "-" + span + "-01-what\n", w3c},
		"w3c future, no dash":  {"traceparent: cc-" + trace128 + "-" + span + "-01.what\n", none},
		"w3c 00, longer":       {"traceparent: 00-" + trace128 + "-" + span + "-01-what\n", none},
		"w3c capitals":         {"traceparent: 00-0AF7651916cd43dd8448eb211c80319c-" + span + "-01\n", none},
		"w3c zero trace":       {"traceparent: 00-00000000000000000000000000000000-" + span + "-01\n", none},
		"w3c zero span":        {"traceparent: 00-" + trace128 + "-0000000000000000-01\n", none},
		"w3c short":            {"traceparent: 00-" + trace128 + "-" + span + "\n", none},
		"w3c not hex":          {"traceparent: 00-0xf7651916cd43dd8448eb211c80319c-" + span + "-01\n", none},
		"w3c twice the same":   {"traceparent: 00-" + trace128 + "-" + span + "-01\ntraceparent: 00-" + trace128 + "-" + span + "-01\n", w3c},
		"w3c twice, different": {"traceparent: 00-" + trace128 + "-" + span + "-01\ntraceparent: 00-" + trace128 + "-" + span + "-00\n", none},
	})
}

func TestTraceContext(t *testing.T) {
	w3c := context(FormatTraceparent, trace128, span, true, true)
	b3 := context(FormatB3, trace128, span, true, true)
	padded := "0000000000000000" + trace64
	swID, _ := ParseID([]byte(sw8Trace))
	sw := journey.TraceContext{TraceID: swID, Decided: true, Sampled: true, Format: FormatSW8}
	checkTraces(t, map[string]traceCase{
		"none":                  {"accept: */*\n", none},
		"b3":                    {"b3: " + trace128 + "-" + span + "-1\n", b3},
		"b3 parent":             {"b3: " + trace128 + "-" + span + "-1-00000000000000aa\n", b3},
		"b3 debug":              {"b3: " + trace128 + "-" + span + "-d\n", b3},
		"b3 deferred":           {"b3: " + trace128 + "-" + span + "\n", context(FormatB3, trace128, span, false, false)},
		"b3 64 bits":            {"b3: " + trace64 + "-" + span + "-0\n", context(FormatB3, padded, span, true, false)},
		"b3 deny alone":         {"b3: 0\n", context(FormatB3, "", "", true, false)},
		"b3 bad state":          {"b3: " + trace128 + "-" + span + "-2\n", none},
		"b3 bad length":         {"b3: " + trace128[1:] + "-" + span + "-1\n", none},
		"b3 no span":            {"b3: " + trace128 + "-\n", none},
		"multi":                 {"X-B3-TraceId: " + trace128 + "\nX-B3-SpanId: " + span + "\nX-B3-Sampled: 1\n", b3},
		"multi 64 bits":         {"X-B3-TraceId: " + trace64 + "\nX-B3-SpanId: " + span + "\n", context(FormatB3, padded, span, false, false)},
		"multi flags":           {"X-B3-TraceId: " + trace128 + "\nX-B3-SpanId: " + span + "\nX-B3-Flags: 1\n", b3},
		"multi no span":         {"X-B3-TraceId: " + trace128 + "\n", context(FormatB3, trace128, "", false, false)},
		"multi deny alone":      {"X-B3-Sampled: 0\n", context(FormatB3, "", "", true, false)},
		"multi span alone":      {"X-B3-SpanId: " + span + "\n", none},
		"uber":                  {"uber-trace-id: " + trace128 + ":" + span + ":0:1\n", context(FormatUber, trace128, span, true, true)},
		"uber no leading zeros": {"uber-trace-id: abc:d:0:2\n", context(FormatUber, "00000000000000000000000000000abc", "000000000000000d", true, false)},
		"uber encoded":          {"uber-trace-id: " + trace64 + "%3A" + span + "%3a0%3A3\n", context(FormatUber, padded, span, true, true)},
		"uber too long":         {"uber-trace-id: 1" + trace128 + ":" + span + ":0:1\n", none},
		"uber zero":             {"uber-trace-id: 0:" + span + ":0:1\n", none},
		"uber three parts":      {"uber-trace-id: 1:2:3\n", none},
		"sw8":                   {"sw8: " + sw8Value + "\n", sw},
		"sw8 bad base64":        {"sw8: 1-!-" + sw8Value[5:] + "\n", none},
		"sw8 short":             {"sw8: 1-" + b64(sw8Trace) + "-" + b64("x") + "-3\n", none},
		"sw8 empty":             {"sw8:\n", none},
		"sw8 long trace id":     {"sw8: 1-" + b64(string(make([]byte, 300))) + "-YQ==-3-a-b-c-d\n", none},
		"order: w3c first":      {"b3: " + trace64 + "-" + span + "-0\ntraceparent: 00-" + trace128 + "-" + span + "-01\n", w3c},
		"order: invalid w3c":    {"traceparent: 00-zz\nb3: " + trace128 + "-" + span + "-1\n", b3},
		"order: deny, then id":  {"b3: 0\nuber-trace-id: " + trace128 + ":" + span + ":0:1\n", context(FormatUber, trace128, span, true, true)},
		"order: b3 over multi":  {"X-B3-TraceId: " + trace64 + "\nb3: " + trace128 + "-" + span + "-1\n", b3},
		"order: uber over sw8":  {"sw8: " + sw8Value + "\nuber-trace-id: " + trace128 + ":" + span + "::1\n", context(FormatUber, trace128, span, true, true)},
	})
}

func FuzzTraceContext(f *testing.F) {
	f.Add(uint8(fieldTraceparent), []byte("00-"+trace128+"-"+span+"-01"))
	f.Add(uint8(fieldB3), []byte(trace128+"-"+span+"-1"))
	f.Add(uint8(fieldUber), []byte("abc%3A1%3A0%3A1"))
	f.Add(uint8(fieldSW8), []byte(sw8Value))
	f.Fuzz(func(t *testing.T, which uint8, v []byte) {
		var fields traceFields
		fields.set(field(which%uint8(traceFieldCount)), v)
		tc := fields.context()
		switch {
		case tc.Format == "" && tc != journey.TraceContext{}:
			t.Errorf("%+v has no format", tc)
		case tc.Format != "" && !hasID(tc) && !tc.Decided:
			t.Errorf("%+v says nothing", tc)
		case tc.Sampled && !tc.Decided, !hasID(tc) && tc.SpanID != [8]byte{}:
			t.Errorf("%+v contradicts itself", tc)
		case tc.Format == FormatTraceparent && (len(v) < 55 || hex.EncodeToString(tc.TraceID[:]) != string(v[3:35])):
			t.Errorf("%+v of %q", tc, v)
		}
	})
}
