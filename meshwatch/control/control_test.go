package control

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshwatch/meshwatch/meshwatch/edges"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology"
)

// fake is an agent of values.
type fake struct {
	mu        sync.Mutex
	recording bool
	injects   bool // it is configured
	injecting bool
	resets    int
	slow      chan struct{} // not nil: Namespaces waits for it
}

func (f *fake) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Status{
		Version: "v1", Pid: os.Getpid(), Started: time.Unix(1767323045, 0).UTC(), Recording: f.recording, Depth: "edges",
		Attached: Attached{3, 1, 8, 1, 2}, Ring: Ring{16384, 12, 1, 2, 6 << 20}, Joiner: Joiner{12, 6, 6, 1, 5, 0, 1},
		Export: Export{true, "http://localhost:4318", "connected"}, Topology: Topology{File: "t.yaml", Addresses: 4, Loaded: time.Unix(1767323000, 0).UTC()},
		Budget: Budget{0.2, 0.1, 0.3, 0.2, 0.5, true}, Memory: 50 << 20, Losses: []loss.Row{{Stage: "relay", Reason: "no-id", Count: 7}},
	}
}

var hopRows = []report.HopRow{{Service: "frontend", Leg: "frontend → backend", Hop: "veth", Kind: "veth", Count: 3, P50: 1000, P99: 2000, Share: 0.5}}

func (f *fake) Hops(reset bool) []report.HopRow {
	f.mu.Lock()
	defer f.mu.Unlock()
	if reset {
		f.resets++
	}
	return hopRows
}

func (f *fake) Journey(id string) *journey.Journey {
	if j := journeytest.Demo(); id == j.RequestID || id == "a/b?c d" {
		return j
	}
	return nil
}

var summary = Summary{Start: time.Unix(1767323045, 0).UTC(), TraceID: "0a", RequestID: "r", Root: "GET /", Status: 200, Duration: time.Millisecond, Legs: 6, Class: journey.ClassApp}

func (f *fake) Recent(n int) []Summary { return []Summary{summary, summary, summary}[:min(n, 3)] }

func (f *fake) Namespaces() []*netpath.Namespace {
	if f.slow != nil {
		<-f.slow
	}
	return []*netpath.Namespace{{Inum: 4026531840, Name: "host", Host: true, Links: []netpath.Link{{Index: 1, Name: "lo", Kind: "lo", Up: true}}}}
}

func (f *fake) Deepen(word string, during time.Duration) []string {
	if word == "none" {
		return nil
	}
	return []string{word, during.String()}
}

var mesh = Mesh{
	Workloads: []Workload{{Namespace: "demo", Name: "a-1", Service: "a", Node: "n1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, Services: []string{"demo/a.demo.svc"}}},
	Services:  []Service{{Namespace: "demo", Name: "a", Host: "a.demo.svc", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.7")}, Ports: []Port{{80, 8080}}, Workloads: 1}},
	Resources: []*topology.Resource{{Ref: topology.Ref{Kind: "VirtualService", Namespace: "demo", Name: "a"}, Hosts: []string{"a"}, Routes: []topology.Route{{Timeout: time.Second}}}},
}

func (f *fake) Mesh() Mesh { return mesh }

func (f *fake) Who(addr netip.AddrPort) Who {
	return Who{Address: addr.String(), Workload: &mesh.Workloads[0], Known: true}
}

func (f *fake) Routes(namespace, pod string) ([]Rule, error) {
	if pod == "none" {
		return nil, errors.New("nothing is known of it")
	}
	return []Rule{{Table: "80", Domains: []string{namespace, pod}, Clusters: []string{"c"}}}, nil
}

func (f *fake) Inject(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.injects {
		return errors.New("it is not configured")
	}
	f.injecting = on
	return nil
}

var theEdges = Edges{
	Edges: []Edge{{Judged: edges.Judged{
		Edge:   edges.Edge{Client: edges.End{Workload: "a", Addr: netip.MustParseAddr("10.0.0.7")}, Server: edges.End{Addr: netip.MustParseAddr("fd00::7")}, Port: 80, Security: edges.Plain, Connections: 3},
		Routed: "no", Findings: []edges.Finding{{Kind: edges.Bypass, Why: "past its sidecar"}},
	}, First: time.Unix(1, 0).UTC(), Last: time.Unix(2, 0).UTC()}},
	Empty: []EmptyRoute{{Pod: "demo/a", Table: "80", Domains: []string{"b"}, Cluster: "outbound|80||b"}},
}

func (f *fake) Edges() Edges { return theEdges }

func (f *fake) Record(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recording = on
}

func claim(t *testing.T, socket string) *Server {
	t.Helper()
	s, err := Claim(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func serve(t *testing.T, src Source) (socket string, s *Server) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "run", "mw.sock")
	s = claim(t, socket)
	s.Serve(src, journeytest.Epoch, slog.New(slog.DiscardHandler))
	return socket, s
}

func TestCalls(t *testing.T) {
	f := &fake{}
	socket, _ := serve(t, f)
	c, ctx := NewClient(socket), t.Context()
	status, err := c.Status(ctx)
	same(t, "status", f.Status(), status, err)
	rows, err := c.Hops(ctx, true)
	same(t, "hops", hopRows, rows, err)
	if _, err := c.Hops(ctx, false); err != nil || f.resets != 1 {
		t.Errorf("%d resets, %v", f.resets, err)
	}
	list, err := c.Recent(ctx, 2)
	same(t, "recent", []Summary{summary, summary}, list, err)
	namespaces, err := c.Namespaces(ctx)
	same(t, "namespaces", f.Namespaces(), namespaces, err)
	names, err := c.Deepen(ctx, "pod-*", time.Minute)
	same(t, "deepen", []string{"pod-*", "1m0s"}, names, err)
	m, err := c.Mesh(ctx)
	same(t, "mesh", mesh, m, err)
	for _, address := range []string{"10.0.0.7:80", "[fd00::7]:80"} {
		who, err := c.Who(ctx, address)
		same(t, "who", f.Who(netip.MustParseAddrPort(address)), who, err)
	}
	who, err := c.Who(ctx, "10.0.0.7")
	same(t, "who, any port", f.Who(netip.MustParseAddrPort("10.0.0.7:0")), who, err)
	if _, err := c.Who(ctx, "a.demo.svc"); err == nil || !strings.Contains(err.Error(), `"a.demo.svc" is no address: give an IP address`) {
		t.Errorf("a name for an address: %v", err)
	}
	rules, err := c.Routes(ctx, "demo", "a&b=c")
	same(t, "routes", []Rule{{Table: "80", Domains: []string{"demo", "a&b=c"}, Clusters: []string{"c"}}}, rules, err)
	if _, err := c.Routes(ctx, "demo", "none"); err == nil || !strings.Contains(err.Error(), "nothing is known of it") {
		t.Errorf("no routes: %v", err)
	}
	seen, err := c.Edges(ctx)
	same(t, "edges", theEdges, seen, err)
	if err := c.Record(ctx, true); err != nil || !f.Status().Recording {
		t.Errorf("record: %v", err)
	}
	if err := c.Record(ctx, false); err != nil || f.Status().Recording {
		t.Errorf("stop recording: %v", err)
	}
	if err := c.Inject(ctx, true); err == nil || !strings.Contains(err.Error(), "it is not configured") {
		t.Errorf("give ids where that is not configured: %v", err)
	}
	f.mu.Lock()
	f.injects = true
	f.mu.Unlock()
	for _, on := range []bool{true, false} {
		if err := c.Inject(ctx, on); err != nil || f.injecting != on {
			t.Errorf("give ids: %v, %v", f.injecting, err)
		}
	}
}

func TestJourney(t *testing.T) {
	socket, _ := serve(t, &fake{})
	want := journeytest.Demo()
	for _, id := range []string{want.RequestID, "a/b?c d"} {
		line, err := NewClient(socket).Journey(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := report.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		same(t, id, want, &got.Journey, nil)
	}
	for _, id := range []string{"", ".", "..", "../status", "none", strings.Repeat("x", 100_000), "\x00\xff"} {
		_, err := NewClient(socket).Journey(t.Context(), id)
		var missing *NotFoundError
		if !errors.As(err, &missing) && len(id) < 10_000 {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func same(t *testing.T, what string, want, got any, err error) {
	t.Helper()
	opts := cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(journey.End{}, netip.Addr{}), cmpopts.IgnoreUnexported(netpath.Link{})}
	if diff := cmp.Diff(want, got, opts); diff != "" || err != nil {
		t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
	}
}

func TestBadQuestions(t *testing.T) {
	socket, _ := serve(t, &fake{})
	c := NewClient(socket)
	for _, q := range []struct {
		method, path string
		body         any
	}{
		{http.MethodGet, pathJourneys, nil}, {http.MethodGet, pathJourneys + "?n=0", nil}, {http.MethodGet, pathJourneys + "?n=9999999", nil},
		{http.MethodPut, pathRecording, "yes"}, {http.MethodPut, pathRecording, nil}, {http.MethodPut, pathRecording, strings.Repeat("x", 1<<20)},
		{http.MethodPost, pathDepth, question{"none", time.Second}}, {http.MethodPost, pathDepth, question{"", time.Second}},
		{http.MethodPost, pathDepth, question{"a", 0}}, {http.MethodPost, pathDepth, question{"a", 2 * maxDeep}}, {http.MethodPost, pathDepth, "a"},
		{http.MethodDelete, pathStatus, nil}, {http.MethodGet, "/", nil},
	} {
		if err := c.call(t.Context(), q.method, q.path, q.body, nil); err == nil {
			t.Errorf("%s %s: no error", q.method, q.path)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	leaveStale(t, stale)
	for _, socket := range []string{filepath.Join(dir, "none.sock"), stale} {
		_, err := NewClient(socket).Status(t.Context())
		want := "no agent answers at " + socket + ": is it running? (start it with `meshwatch agent`; --control names another socket)"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestAnswersTooLate(t *testing.T) {
	f := &fake{slow: make(chan struct{})}
	socket, _ := serve(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := NewClient(socket).Namespaces(ctx)
	if err == nil || !strings.Contains(err.Error(), "does not answer in time") {
		t.Errorf("got %v", err)
	}
	close(f.slow)
}

// Close ends while a question hangs, and whoever connects to a socket that is claimed but not served waits.
func TestCloseAndClaim(t *testing.T) {
	f := &fake{slow: make(chan struct{})}
	socket, s := serve(t, f)
	asked := make(chan error, 1)
	go func() { _, err := NewClient(socket).Namespaces(context.Background()); asked <- err }()
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %v", took)
	}
	close(f.slow)
	if err := <-asked; err == nil {
		t.Error("an answer after Close")
	}

	claimed := claim(t, socket)
	go func() { _, err := NewClient(socket).Status(context.Background()); asked <- err }()
	claimed.Serve(&fake{}, journeytest.Epoch, slog.New(slog.DiscardHandler))
	if err := <-asked; err != nil {
		t.Error(err)
	}
}
