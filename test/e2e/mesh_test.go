package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/jaeger"
	"github.com/meshwatch/meshwatch/test/lab"
)

// sixLegs is the demo request's way.
var sixLegs = []string{
	"client app > gateway gateway",
	"gateway gateway > frontend sidecar",
	"frontend sidecar > frontend app",
	"frontend app > frontend sidecar",
	"frontend sidecar > backend sidecar",
	"backend sidecar > backend app",
}

func send(t *testing.T, l *lab.Lab, path string) (id string) {
	t.Helper()
	r, err := l.Request(t.Context(), path, http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != http.StatusOK {
		t.Fatalf("status %d: %s", r.Status, r.Body)
	}
	return r.Header.Get("X-Request-Id")
}

// Every leg, every hop of the depth, over every kind of sidecar and both families.
func TestJourney(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"envoy":      {Sidecar: lab.SidecarEnvoy},
		"haproxy":    {Sidecar: lab.SidecarHAProxy},
		"envoy ipv6": {Sidecar: lab.SidecarEnvoy, IPv6: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			for _, depth := range []string{meshwatch.DepthEdges, meshwatch.DepthFull} {
				t.Run(depth, func(t *testing.T) { checkJourney(t, l, depth) })
			}
		})
	}
}

func checkJourney(t *testing.T, l *lab.Lab, depth string) {
	a := start(t, l, "depth: "+depth)
	id := send(t, l, "/")
	j := a.journeys(1, withID(id))[0]
	if diff := cmp.Diff(sixLegs, shape(j)); diff != "" {
		t.Errorf("legs (-want +got):\n%s", diff)
	}
	for i, e := range j.Exchanges {
		if e.Parent != i-1 || e.Status != http.StatusOK {
			t.Errorf("leg %d: parent %d, status %d", i, e.Parent, e.Status)
		}
		checkHops(t, i, "request", depth, &e.Request)
		checkHops(t, i, "response", depth, e.Response)
	}
	for _, r := range j.Relays {
		if r.Confidence < 0.99 || r.Method != journey.MethodRequestID && r.Method != journey.MethodResponseID {
			t.Errorf("relay %+v", r)
		}
	}
}

// The legs that cross the bridge, by index in sixLegs; the others stay on their pod's loopback.
var bridged = map[int]bool{0: true, 1: true, 4: true}

func checkHops(t *testing.T, leg int, what, depth string, f *journey.Flight) {
	t.Helper()
	var want []string
	switch full := depth == meshwatch.DepthFull; {
	case !full && !bridged[leg]:
		want = []string{"iptables OUTPUT+POSTROUTING", "loopback + iptables PREROUTING+INPUT", "socket wait"}
	case !full:
		want = []string{"iptables OUTPUT+POSTROUTING", "bridge + iptables PREROUTING+INPUT", "socket wait"}
	case !bridged[leg]:
		want = []string{"iptables OUTPUT", "iptables POSTROUTING", "loopback", "iptables PREROUTING", "iptables INPUT", "socket wait"}
	default:
		want = []string{"iptables OUTPUT", "iptables POSTROUTING", "veth", "bridge + iptables PREROUTING", "iptables FORWARD",
			"iptables POSTROUTING + bridge", "veth", "iptables PREROUTING", "iptables INPUT", "socket wait"}
	}
	if f == nil {
		t.Errorf("leg %d: no %s", leg, what)
		return
	}
	var got []string
	for i, h := range f.Hops {
		got = append(got, h.Name)
		if h.To < h.From || i > 0 && h.From != f.Hops[i-1].To {
			t.Errorf("leg %d %s: hop %s from %d to %d", leg, what, h.Name, h.From, h.To)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("leg %d %s: hops (-want +got):\n%s", leg, what, diff)
	}
}

// Spans of real traffic in a real backend: one tree, and no edge that is not a call.
func TestJaeger(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarEnvoy})
	path, err := jaeger.Find()
	if err != nil {
		if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	backend, err := jaeger.Start(t.Context(), path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Stop)
	for protocol, endpoint := range map[string]string{"grpc": backend.GRPC, "http/protobuf": backend.HTTP} {
		t.Run(protocol, func(t *testing.T) {
			a := start(t, l, "", "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint)
			cut(t, l, "frontend", "backend")
			id := send(t, l, "/?call=backend&call=backend2")
			j := a.journeys(1, withID(id))[0]
			if len(j.Exchanges) < len(sixLegs) {
				t.Fatalf("legs %v", shape(j))
			}
			if j.Exchanges[4].Connect == nil {
				t.Error("no connect")
			}
			spans := 2*len(j.Exchanges) - 1
			for _, e := range j.Exchanges {
				spans += len(e.Request.Hops) + len(e.Response.Hops)
				if e.Connect != nil {
					spans += 1 + len(e.Connect.Hops)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			trace, err := backend.Trace(ctx, strings.ReplaceAll(id, "-", ""), spans)
			if err != nil {
				t.Fatal(err)
			}
			if err := jaeger.CheckTree(trace); err != nil {
				t.Error(err)
			}
			edges, err := backend.Dependencies(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := jaeger.CheckEdges(edges, "client -> gateway", "gateway -> frontend", "frontend -> backend", "frontend -> backend2"); err != nil &&
				!strings.Contains(err.Error(), "no edge frontend -> backend2") {
				t.Error(err)
			}
		})
	}
}

// A pod that comes is watched within 2 s; one that goes is let go, and its namespace is not kept alive.
func TestPodsComeAndGo(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy})
	a := start(t, l, "tls: {probes: \"off\"}\ngo: {probes: \"off\"}") // each has a descriptor, and other programs come and go
	before := attached(t, a)
	fds := openFiles(t, a.cmd.Process.Pid)
	for round := range 3 {
		came := time.Now()
		pod, err := l.AddPod(t.Context(), "guest")
		if err != nil {
			t.Fatal(err)
		}
		a.eventually("the pod's namespace is attached", func() error { return differs(attached(t, a), before+1) })
		if took := time.Since(came); took > 2*time.Second {
			t.Errorf("round %d: attached after %s", round, took)
		}
		ask(t, l, "client", fmt.Sprintf("%s:8080", pod.V4), fmt.Sprintf("/guest-%d", round))
		a.journeys(1, func(j *report.Line) bool { return j.Exchanges[0].Target == fmt.Sprintf("/guest-%d", round) })
		if err := l.DeletePod("guest"); err != nil {
			t.Fatal(err)
		}
		went := time.Now()
		a.eventually("the pod's namespace is let go", func() error { return differs(attached(t, a), before) })
		if took := time.Since(went); took > 2*time.Second {
			t.Errorf("round %d: let go after %s", round, took)
		}
	}
	a.eventually("no descriptor is left over", func() error {
		if now := openFiles(t, a.cmd.Process.Pid); now > fds {
			return fmt.Errorf("%d open files, %d before", now, fds)
		}
		return nil
	})
}

func attached(t *testing.T, a *agent) int {
	t.Helper()
	s, err := a.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Attached.Namespaces
}

func differs(got, want int) error {
	if got != want {
		return fmt.Errorf("%d, want %d", got, want)
	}
	return nil
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// ask sends one request over a connection of its own.
func ask(t *testing.T, l *lab.Lab, pod, address, target string) {
	t.Helper()
	conn, err := l.Dial(t.Context(), pod, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // a test's connection
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, address); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
}
