package h2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// events is a Sink that writes them down.
type events struct {
	d      *Decoder
	out    []string
	learns string // an id that is known from elsewhere
}

func (e *events) add(format string, args ...any) { e.out = append(e.out, fmt.Sprintf(format, args...)) }

func (e *events) Head(h Head) {
	for _, u := range h.Unnamed {
		if e.learns != "" && string(u.Value) == e.learns {
			e.d.Learn(u, "x-request-id")
		}
	}
	e.add("%d head grpc=%v %d end=%v %q", h.Stream, h.GRPC, h.GRPCStatus, h.End, h.Text)
}
func (e *events) Trailers(stream uint32, status int) { e.add("%d trailers %d", stream, status) }
func (e *events) Data(uint32)                        {}
func (e *events) End(stream uint32) {
	n, exact := e.d.Messages(stream)
	e.add("%d end %d %v", stream, n, exact)
}
func (e *events) Reset(stream, code uint32) { e.add("%d reset %d", stream, code) }
func (e *events) GoAway(last uint32)        { e.add("goaway %d", last) }

func newEvents() *events {
	e := &events{}
	e.d = New(e)
	return e
}

// writer is an independent encoder: that of golang.org/x/net.
type writer struct {
	bytes.Buffer
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	r     *rand.Rand
}

func newWriter(r *rand.Rand) *writer {
	w := &writer{r: r}
	w.Framer = http2.NewFramer(&w.Buffer, nil)
	w.enc = hpack.NewEncoder(&w.block)
	return w
}

// head writes a head, at times padded, with priority, or in several frames.
func (w *writer) head(t testing.TB, stream uint32, end bool, fields ...string) {
	t.Helper()
	w.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		if err := w.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: w.r.IntN(9) == 0}); err != nil {
			t.Fatal(err)
		}
	}
	b := w.block.Bytes()
	cut := len(b)
	if w.r.IntN(4) == 0 {
		cut = w.r.IntN(len(b) + 1)
	}
	p := http2.HeadersFrameParam{StreamID: stream, BlockFragment: b[:cut], EndStream: end, EndHeaders: cut == len(b)}
	if w.r.IntN(4) == 0 {
		p.PadLength = uint8(w.r.IntN(100))
	}
	if w.r.IntN(4) == 0 {
		p.Priority = http2.PriorityParam{StreamDep: 3, Weight: 4}
	}
	if err := w.WriteHeaders(p); err != nil {
		t.Fatal(err)
	}
	if cut < len(b) {
		if err := w.WriteContinuation(stream, true, b[cut:]); err != nil {
			t.Fatal(err)
		}
	}
}

// conversation is some requests, and what is to be read of them.
func conversation(t testing.TB, r *rand.Rand) (stream []byte, want []string) {
	w := newWriter(r)
	w.WriteString(preface)
	_ = w.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 100}) //nolint:errcheck // to memory
	for id := uint32(1); id < 60; id += 2 {
		if r.IntN(5) == 0 {
			w.enc.SetMaxDynamicTableSize(uint32(r.IntN(4096))) //nolint:gosec // small
		}
		rid := fmt.Sprintf("%08x", r.Uint32())
		switch r.IntN(4) {
		case 0:
			w.head(t, id, true, ":method", "GET", ":scheme", "http", ":path", "/"+rid, ":authority", "a.b", "x-request-id", rid, "cookie", "secret", "x-n", fmt.Sprint(r.IntN(5)))
			want = append(want, fmt.Sprintf("%d GET /%s %s", id, rid, rid), fmt.Sprintf("%d end 0 false", id))
		case 1:
			w.head(t, id, false, ":method", "POST", ":path", "/s.v/m", ":authority", "a.b", "content-type", "application/grpc", "x-request-id", rid)
			messages := r.IntN(4)
			w.messages(id, messages)
			want = append(want, fmt.Sprintf("%d POST /s.v/m %s", id, rid), fmt.Sprintf("%d end %d true", id, messages))
		case 2:
			w.head(t, id, false, ":method", "PUT", ":path", "/"+rid, ":authority", "c", "x-request-id", rid)
			_ = w.WriteRSTStream(id, http2.ErrCodeCancel) //nolint:errcheck // to memory
			want = append(want, fmt.Sprintf("%d PUT /%s %s", id, rid, rid), fmt.Sprintf("%d reset 8", id))
		case 3:
			_ = w.WritePing(false, [8]byte{1})         //nolint:errcheck // to memory
			_ = w.WriteWindowUpdate(0, 1000)           //nolint:errcheck // to memory
			_ = w.WriteRawFrame(0x4d, 0, 1, []byte{1}) //nolint:errcheck // to memory
		}
	}
	_ = w.WriteGoAway(7, http2.ErrCodeNo, nil) //nolint:errcheck // to memory
	return w.Bytes(), append(want, "goaway 7")
}

// messages writes gRPC messages over any frames, of which the last ends the stream.
func (w *writer) messages(stream uint32, n int) {
	var all []byte
	for range n {
		m := make([]byte, w.r.IntN(300))
		all = append(binary.BigEndian.AppendUint32(append(all, 0), uint32(len(m))), m...) //nolint:gosec // small
	}
	for len(all) > 0 {
		k := 1 + w.r.IntN(len(all))
		pad := []byte(nil)
		if w.r.IntN(3) == 0 {
			pad = make([]byte, w.r.IntN(50))
		}
		_ = w.WriteDataPadded(stream, false, all[:k], pad) //nolint:errcheck // to memory
		all = all[k:]
	}
	_ = w.WriteData(stream, true, nil) //nolint:errcheck // to memory
}

// short makes heads as the wanted ones: stream, method, target and id.
func short(out []string) (got []string) {
	for _, e := range out {
		var stream int
		if n, _ := fmt.Sscanf(e, "%d head", &stream); n == 1 && strings.Contains(e, " head ") { //nolint:errcheck // others stay
			line := e[strings.Index(e, `"`)+1:]
			words := strings.Fields(line)
			id := ""
			if _, after, ok := strings.Cut(line, `x-request-id: `); ok {
				id = after[:8]
			}
			e = fmt.Sprintf("%d %s %s %s", stream, words[0], words[1], id)
		}
		got = append(got, e)
	}
	return got
}

// However the stream is cut into chunks, the events are the same, and those of the encoder's calls.
func TestChunks(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		stream, want := conversation(t, r)
		e := newEvents()
		for b := stream; len(b) > 0; {
			n := min(len(b), 1+r.IntN(2000))
			if seed%3 == 0 {
				n = min(len(b), 1+r.IntN(5))
			}
			if len(b) == len(stream) { // nobody can tell from less that this is HTTP/2
				n = min(len(b), max(n, len(preface)))
			}
			e.d.Feed(b[:n], n)
			b = b[n:]
		}
		if diff := cmp.Diff(want, short(e.out)); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
		if s := fmt.Sprint(e.out); strings.Contains(s, "secret") || e.d.Stats != (Stats{}) {
			t.Fatalf("seed %d: %+v, %s", seed, e.d.Stats, s)
		}
	}
}

// What is missing never makes a head, a count or an end that was not there.
func TestLosses(t *testing.T) {
	heads, lost := 0, uint64(0)
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		stream, want := conversation(t, r)
		e := newEvents()
		if seed%4 == 0 { // older than what is read
			skip := r.IntN(len(stream) / 2)
			stream = stream[skip:]
		}
		first := true
		for b := stream; len(b) > 0; {
			n := min(len(b), 1+r.IntN(600))
			switch k := r.IntN(10); {
			case first && seed%4 != 0:
				n = min(len(b), max(n, len(preface)))
				e.d.Feed(b[:n], n)
			case k == 0:
				e.d.Skip(n)
			case k == 1:
				e.d.Gap()
			case k == 2:
				e.d.Feed(b[:r.IntN(n)], n)
			default:
				e.d.Feed(b[:n], n)
			}
			first = false
			b = b[n:]
		}
		lost += e.d.Stats.Gaps + e.d.Stats.Blocks
		for _, got := range short(e.out) {
			if !possible(got, want) {
				t.Fatalf("seed %d: %q is none of %q", seed, got, want)
			}
			if strings.Contains(got, " / ") || strings.Contains(got, "/s.v") {
				heads++
			}
		}
	}
	if heads < 1000 || lost == 0 {
		t.Errorf("%d heads, %d losses: the test loses too much, or nothing", heads, lost)
	}
}

// possible says whether an event is one of the wanted, but for words that are not known, and counts that say that they are not exact.
func possible(got string, want []string) bool {
	if slices.Contains(want, got) {
		return true
	}
	g := strings.Fields(got)
	opened := slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(w, g[0]+" ") })
	if !opened && g[1] == "end" && g[3] == "false" {
		return true // a body, taken for frames of a stream that nobody opened: it means nothing
	}
	for _, w := range want {
		f := strings.Fields(w)
		if len(f) == 0 || f[0] != g[0] {
			continue
		}
		if g[1] == "end" {
			if f[1] == "end" && g[3] == "false" {
				return true
			}
			continue
		}
		same := len(f) == 4 && len(g) >= 3 && f[1] != "end"
		for i := 1; same && i < len(g); i++ {
			same = g[i] == f[i] || g[i] == "?"
		}
		if same {
			return true
		}
	}
	return false
}

// A connection that began before: literals are read, what was inserted since is known, the rest is said to be unknown.
func TestUnknownTable(t *testing.T) {
	const rest = "-0000-4000-8000-000000000000"
	r := rand.New(rand.NewPCG(5, 5))
	w := newWriter(r)
	w.head(t, 1, true, ":method", "GET", ":path", "/old", ":authority", "old.example", "x-request-id", "aaaaaaaa"+rest)
	w.Reset()
	w.head(t, 3, true, ":method", "GET", ":path", "/old", ":authority", "old.example", "x-request-id", "bbbbbbbb"+rest)
	w.head(t, 5, true, ":method", "GET", ":path", "/new", ":authority", "old.example", "x-request-id", "cccccccc"+rest)
	w.head(t, 7, true, ":method", "GET", ":path", "/new", ":authority", "old.example", "x-request-id", "cccccccc"+rest)
	e := newEvents()
	e.learns = "bbbbbbbb" + rest
	e.d.Feed(w.Bytes(), w.Len())
	want := []string{
		"3 GET ? ", "3 end 0 false", "5 GET /new cccccccc", "5 end 0 false", "7 GET /new cccccccc", "7 end 0 false",
	}
	if diff := cmp.Diff(want, short(e.out)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%q", diff, e.out)
	}
	if e.d.Stats.Unknown == 0 {
		t.Error("nothing was unknown")
	}
}

// cookie finds one that was not wiped, in a head that is quoted.
var cookie = regexp.MustCompile(`\\ncookie: [^*\\]`)

func FuzzDecoder(f *testing.F) {
	for seed := range uint64(4) {
		stream, _ := conversation(f, rand.New(rand.NewPCG(seed, 3)))
		f.Add(stream, uint16(100*seed))
	}
	f.Fuzz(func(t *testing.T, b []byte, chunk uint16) {
		e := newEvents()
		for n := int(chunk) + 1; len(b) > 0; {
			k := min(n, len(b))
			e.d.Feed(b[:k], k)
			b = b[k:]
		}
		if n := len(e.d.counts); n > maxCounted {
			t.Errorf("%d streams are counted", n)
		}
		if cap(e.d.block) > 4*maxBlock || e.d.table.bytes > largestTable {
			t.Errorf("block of %d bytes, table of %d", cap(e.d.block), e.d.table.bytes)
		}
		for _, s := range e.out {
			if cookie.MatchString(s) {
				t.Errorf("a credential in %q", s)
			}
		}
	})
}

func BenchmarkHead(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	w := newWriter(r)
	e := &nobody{}
	d := New(e)
	d.Feed([]byte(preface), len(preface))
	for i := range 100 {
		w.head(b, uint32(2*i+1), true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "backend.demo:8080", "user-agent", "x", "x-forwarded-proto", "http", //nolint:gosec // small
			"x-request-id", fmt.Sprintf("%08x-0000-4000-8000-000000000000", r.Uint32()))
	}
	all := w.Bytes()
	b.ReportAllocs()
	for b.Loop() {
		d.Feed(all, len(all))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/head")
}

type nobody struct{}

func (nobody) Head(Head)            {}
func (nobody) Data(uint32)          {}
func (nobody) Trailers(uint32, int) {}
func (nobody) End(uint32)           {}
func (nobody) Reset(_, _ uint32)    {}
func (nobody) GoAway(uint32)        {}
