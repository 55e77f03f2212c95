package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
)

func TestExport(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf", "http/json", ""} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			in := &receiver{}
			var address string
			if protocol == "grpc" {
				l := listen(t)
				serveGRPC(t, in, l)
				address = "http://" + l.Addr().String()
			} else {
				s := httptest.NewServer(in)
				t.Cleanup(s.Close)
				address = s.URL
			}
			r := newRig(t, Options{}, "OTEL_EXPORTER_OTLP_ENDPOINT", address, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol,
				"OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret", "OTEL_EXPORTER_OTLP_COMPRESSION", "gzip",
				"OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab,service.name=agent", "OTEL_SERVICE_NAME", "agent")
			want := len(Spans(journeytest.Demo(), journeytest.Epoch))
			for range 3 {
				if !r.Offer(journeytest.Demo()) {
					t.Fatal("not taken")
				}
			}
			if err := r.close(t, 10*time.Second); err != nil {
				t.Fatal(err, r.log.messages())
			}
			spans, services := in.services()
			if spans != 3*want || len(services) != 4 || services["backend"] == 0 || services["agent"] != 0 {
				t.Fatalf("got %d spans of %v, want %d of four services; log %q", spans, services, 3*want, r.log.messages())
			}
			env := false
			for _, kv := range in.got[0].Resource.Attributes {
				env = env || kv.Key == "deployment.environment.name" && kv.Value.GetStringValue() == "lab"
			}
			if scope := in.got[0].ScopeSpans[0].Scope; !env || scope.Name != "meshwatch" || scope.Version != "test" {
				t.Errorf("resource %v, scope %v", in.got[0].Resource, scope)
			}
			if len(r.losses.n) != 0 {
				t.Errorf("losses %v", r.losses.n)
			}
		})
	}
}

func TestBatchesAreBounded(t *testing.T) {
	in := &receiver{}
	l := listen(t)
	serveGRPC(t, in, l)
	r := newRig(t, Options{Batch: 50}, "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String())
	r.Offer(journeytest.Demo())
	if err := r.close(t, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if n, _ := in.services(); n != 90 || in.requests != 2 {
		t.Errorf("%d spans in %d requests, want 90 in 2", n, in.requests)
	}
}

func TestRejectedSpansAreCounted(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			in := &receiver{reject: 7}
			l := listen(t)
			address := "http://" + l.Addr().String()
			if protocol == "grpc" {
				serveGRPC(t, in, l)
			} else {
				s := &httptest.Server{Listener: l, Config: &http.Server{Handler: in}}
				s.Start()
				t.Cleanup(s.Close)
			}
			r := newRig(t, Options{}, "OTEL_EXPORTER_OTLP_PROTOCOL", protocol, "OTEL_EXPORTER_OTLP_ENDPOINT", address, "OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret")
			r.Offer(journeytest.Demo())
			_ = r.close(t, 10*time.Second)
			if n := r.losses.of(ReasonRejected); n != 7 || len(r.losses.n) != 1 {
				t.Errorf("losses %v, want 7 rejected; log %q", r.losses.n, r.log.messages())
			}
		})
	}
}

// A backend that is away costs its spans, one line when it goes and one when it is back.
func TestBackendAway(t *testing.T) {
	l := listen(t)
	address := l.Addr().String()
	l.Close() //nolint:errcheck // nobody listens there now
	in := &receiver{}
	r := newRig(t, Options{Delay: time.Millisecond}, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address, "OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret")
	until(t, "three batches lost", func() bool {
		begun := time.Now()
		r.Offer(journeytest.Demo())
		if d := time.Since(begun); d > time.Second {
			t.Fatalf("Offer took %v", d)
		}
		return r.losses.of(ReasonExportFailed) >= 3*90
	})
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip("the port was taken meanwhile: ", err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: in}}
	s.Start()
	t.Cleanup(s.Close)
	until(t, "spans arrive", func() bool {
		r.Offer(journeytest.Demo())
		n, _ := in.services()
		return n > 0
	})
	_ = r.close(t, 10*time.Second)
	m := r.log.messages()
	if len(m) != 2 || !strings.HasPrefix(m[0], "trace backend lost") || m[1] != "trace backend is back" {
		t.Errorf("log %q", m)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s: ", what)
		}
	}
}

// hanging takes spans and never answers.
type hanging struct{ taken chan struct{} }

func (h *hanging) ExportSpans(ctx context.Context, _ []sdk.ReadOnlySpan) error {
	h.taken <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func (h *hanging) Shutdown(context.Context) error { return nil }

// With a backend that hangs, every span offered is counted under one reason or another.
func TestEverySpanIsCounted(t *testing.T) {
	const queue, offered = 4, 20
	h, l := &hanging{taken: make(chan struct{}, 1)}, &losses{}
	log := slog.New(slog.DiscardHandler)
	res, err := newResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := start(Options{Log: log, Losses: l, Queue: queue, Delay: time.Millisecond}, res, backend{out: h, log: log, losses: l})
	e.Offer(journeytest.Demo())
	<-h.taken
	for range offered - 1 {
		e.Offer(journeytest.Demo())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := e.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
	e.Offer(journeytest.Demo())
	full, late := l.of(ReasonQueueFull), l.of(ReasonShutdown)
	if n := uint64(SpanCount(journeytest.Demo())); full != (offered-1-queue)*n || late != (1+queue+1)*n || len(l.n) != 2 {
		t.Errorf("losses %v, want %d and %d journeys of %d", l.n, offered-1-queue, 1+queue+1, n)
	}
}

func TestBadSettings(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "udp", `OTEL_EXPORTER_OTLP_PROTOCOL="udp": unknown protocol: use http/protobuf, http/json or grpc`},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "10.0.0.1:4317", `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="10.0.0.1:4317": no scheme: write http://10.0.0.1:4317, or https:// for TLS`},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", `OTEL_EXPORTER_OTLP_ENDPOINT="http://a b": not a URL: parse "http://a b": invalid character " " in host name`},
		{"OTEL_RESOURCE_ATTRIBUTES", "x", `OTEL_RESOURCE_ATTRIBUTES="x": use key=value,key=value: error detecting resource: partial resource: missing value: [x]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv(tc.name, tc.value)
			_, err := New(t.Context(), Options{Log: slog.New(slog.DiscardHandler), Losses: &losses{}})
			var bad *SettingError
			if !errors.As(err, &bad) || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// The snapshot embeds a nil interface: a method that a new SDK adds must fail here, not in an agent.
func TestSnapshotHasEveryMethod(t *testing.T) {
	spans := Spans(journeytest.Demo(), journeytest.Epoch)
	s := reflect.ValueOf(&snapshot{span: &spans[0]})
	methods := reflect.TypeFor[sdk.ReadOnlySpan]()
	for k := range methods.NumMethod() {
		if m := methods.Method(k); m.PkgPath == "" {
			s.MethodByName(m.Name).Call(nil)
		}
	}
}

func TestManyWorkloads(t *testing.T) {
	r, err := newResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for k := range 3 * maxResources {
		r.get(journey.Workload{Service: fmt.Sprint(k)})
	}
	if len(r.of) > maxResources {
		t.Errorf("%d resources kept", len(r.of))
	}
}
