package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
)

// receiver is an OTLP backend in this process.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu       sync.Mutex
	got      []*tracepb.ResourceSpans
	requests int
	reject   int64
}

func (r *receiver) Export(_ context.Context, q *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, q.ResourceSpans...)
	r.requests++
	a := &collector.ExportTraceServiceResponse{}
	if r.reject > 0 {
		a.PartialSuccess = &collector.ExportTracePartialSuccess{RejectedSpans: r.reject, ErrorMessage: "too\nmany"}
	}
	return a, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	var in io.Reader = q.Body
	if q.Header.Get("Content-Encoding") == "gzip" {
		in, _ = gzip.NewReader(q.Body)
	}
	body, _ := io.ReadAll(in)
	m := &collector.ExportTraceServiceRequest{}
	decode := func() error { return proto.Unmarshal(body, m) }
	if q.Header.Get("Content-Type") == "application/json" {
		// ids are hex in OTLP's JSON and base64 in protobuf's: here only the form counts
		decode = func() error { return protojson.Unmarshal(body, m) }
	}
	if err := decode(); err != nil || q.URL.Path != "/v1/traces" || q.Header.Get("x-token") != "secret" {
		http.Error(w, fmt.Sprint(q.URL.Path, " ", err), http.StatusBadRequest)
		return
	}
	a, _ := r.Export(q.Context(), m)
	out, _ := proto.Marshal(a)
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(out) //nolint:errcheck // the client tells
}

func (r *receiver) services() (spans int, services map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	services = map[string]int{}
	for _, rs := range r.got {
		for _, kv := range rs.Resource.Attributes {
			if kv.Key == "service.name" {
				services[kv.Value.GetStringValue()] += len(rs.ScopeSpans[0].Spans)
				spans += len(rs.ScopeSpans[0].Spans)
			}
		}
	}
	return spans, services
}

// losses counts as the agent's loss table does.
type losses struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (l *losses) Count(stage, reason string, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == nil {
		l.n = map[string]uint64{}
	}
	l.n[stage+" "+reason] += n
}

func (l *losses) of(reason string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n[Stage+" "+reason]
}

// lines is a log that tests read.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) messages() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		var m struct{ Msg string }
		_ = json.Unmarshal([]byte(line), &m)
		all = append(all, m.Msg)
	}
	return all
}

type rig struct {
	*Exporter
	losses losses
	log    lines
}

func newRig(t *testing.T, opt Options, env ...string) *rig {
	t.Helper()
	for k := 0; k < len(env); k += 2 {
		t.Setenv(env[k], env[k+1])
	}
	r := &rig{}
	opt.Log, opt.Losses, opt.Clock, opt.Version = slog.New(slog.NewJSONHandler(&r.log, nil)), &r.losses, journeytest.Epoch, "test"
	var err error
	if r.Exporter, err = New(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close(t, 10*time.Second) })
	return r
}

func (r *rig) close(t *testing.T, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return r.Shutdown(ctx)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func serveGRPC(t *testing.T, r *receiver, l net.Listener) *grpc.Server {
	t.Helper()
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-ended })
	return s
}
