package report

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
	"github.com/meshwatch/meshwatch/meshwatch/verdict"
)

// full is a journey in which no field is zero, so that none is left out as empty. It fails for a type it does not know.
func full(t *testing.T) *journey.Journey {
	j := &journey.Journey{}
	fill(t, reflect.ValueOf(j).Elem())
	return j
}

func fill(t *testing.T, v reflect.Value) {
	if v.Type() == reflect.TypeFor[netip.AddrPort]() {
		v.Set(reflect.ValueOf(netip.MustParseAddrPort("[2001:db8::1]:443")))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for k := range v.NumField() {
			fill(t, v.Field(k))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0))
		fill(t, v.Index(1))
	case reflect.Array:
		for k := range v.Len() {
			fill(t, v.Index(k))
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"a": "1", "b\n": "2"}))
	case reflect.String:
		v.SetString("x<\"\\\x01é\xff")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(-3)
	case reflect.Uint8:
		v.SetUint(200)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1<<32 - 5)
	case reflect.Float64:
		v.SetFloat(0.125)
	default:
		t.Fatalf("fill %v", v.Type())
	}
}

// The encoder written by hand says what encoding/json says of the same value.
func TestSameAsEncodingJSON(t *testing.T) {
	cases := []*journey.Journey{full(t), journeytest.Demo(), journeytest.LostSYN()}
	for seed := range uint64(200) {
		cases = append(cases, journeytest.Random(rand.New(rand.NewPCG(seed, 3)), 8))
	}
	for _, j := range cases {
		var got, want map[string]any
		if err := json.Unmarshal(AppendJSON(nil, j, journeytest.Epoch), &got); err != nil {
			t.Fatal(err)
		}
		std, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(std, &want); err != nil {
			t.Fatal(err)
		}
		for _, added := range []string{"schema", "trace_id", "start", "start_unix_ns", "duration_ns"} {
			delete(got, added)
		}
		for _, e := range got["exchanges"].([]any) {
			delete(e.(map[string]any), "trace")
		}
		if diff := cmp.Diff(emptyLists(want), emptyLists(got)); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
	}
}

// emptyLists makes null, which encoding/json has for a nil slice, the empty list that AppendJSON writes.
func emptyLists(v any) any {
	switch v := v.(type) {
	case nil:
		return []any{}
	case map[string]any:
		for k := range v {
			v[k] = emptyLists(v[k])
		}
	case []any:
		for k := range v {
			v[k] = emptyLists(v[k])
		}
	}
	return v
}

func TestDecode(t *testing.T) {
	j := journeytest.Demo()
	j.Verdict = verdict.Judge(j)
	j.Exchanges[3].Trace = journey.TraceContext{TraceID: j.TraceID, SpanID: [8]byte{1, 2}, Decided: true, Format: "b3"}
	line := AppendJSON(nil, j, journeytest.Epoch)
	got, err := Decode(line)
	if err != nil {
		t.Fatal(err)
	}
	addr := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(j, &got.Journey, addr, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if s := got.Start.UTC().Format("15:04:05"); s != "03:04:05" || got.Start.UnixNano() != got.StartUnixNS || got.Duration != j.Duration() {
		t.Errorf("start %v, %d, duration %v", got.Start, got.StartUnixNS, got.Duration)
	}
	for _, bad := range []string{"", "{}", `{"schema":2}`, `{"schema":1,"trace_id":"0g"}`, `{"schema":1,"trace_id":"abc"}`, `{"schema":1,"exchanges":[{"trace":{"span_id":"1"}}]}`} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s: decoded", bad)
		}
	}
}

// Every field is documented and every documented field is written.
func TestDocumentedFields(t *testing.T) {
	page, err := os.ReadFile("../../docs/journey-json.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]] = true
	}
	var line any
	if err := json.Unmarshal(AppendJSON(nil, full(t), journeytest.Epoch), &line); err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	paths(written, "", line)
	if diff := cmp.Diff(documented, written); diff != "" {
		t.Errorf("docs/journey-json.md (-documented +written)\n%s", diff)
	}
}

// paths collects field paths. The server end has the fields of the client end, the response and the connect those of the request.
func paths(all map[string]bool, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			p := strings.TrimPrefix(at+"."+name, ".")
			all[p] = true
			if name != "headers" {
				p = strings.Replace(p, ".leg.server", ".leg.client", 1)
				p = strings.Replace(p, "[].connect", "[].request", 1)
				paths(all, strings.Replace(p, "[].response", "[].request", 1), value)
			}
		}
	case []any:
		for _, value := range v {
			paths(all, at+"[]", value)
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	j := journeytest.Demo()
	j.Verdict = verdict.Judge(j)
	var buf []byte
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = AppendJSON(buf[:0], j, journeytest.Epoch)
		}
		b.ReportMetric(float64(len(buf)), "bytes")
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(j); err != nil {
				b.Fatal(err)
			}
		}
	})
}
