package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
)

// What is encrypted has every hop that clear text has, on every leg, in each depth.
func TestSecureHops(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"envoy":        {Sidecar: lab.SidecarEnvoy, TLS: true},
		"envoy http/2": {Sidecar: lab.SidecarEnvoy, TLS: true, HTTP2: true},
		"haproxy":      {Sidecar: lab.SidecarHAProxy, TLS: true, Threads: 4},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			for _, depth := range []string{meshwatch.DepthEdges, meshwatch.DepthFull} {
				t.Run(depth, func(t *testing.T) {
					a := start(t, l, "depth: "+depth)
					a.probed("libssl.so", string(opts.Sidecar))
					j := a.journeys(1, withID(curl(t, l, "/")))[0]
					checkLegs(t, j, depth)
					for i, e := range j.Exchanges {
						if e.Status != 200 || e.TLS != bridged[i] {
							t.Errorf("leg %d: status %d, TLS %t, want 200 and TLS between pods", i, e.Status, e.TLS)
						}
					}
				})
			}
		})
	}
}

// checkLegs looks at a journey through the whole mesh.
func checkLegs(t *testing.T, j *report.Line, depth string) {
	t.Helper()
	if diff := cmp.Diff(sixLegs, shape(j)); diff != "" {
		t.Fatalf("legs (-want +got):\n%s", diff)
	}
	for i, e := range j.Exchanges {
		if e.Parent != i-1 {
			t.Errorf("leg %d: parent %d", i, e.Parent)
		}
		checkHops(t, i, "request", depth, &e.Request)
		checkHops(t, i, "response", depth, e.Response)
	}
}

// A gRPC call of each kind is one journey, with the apps' own numbers of messages on every leg.
func TestCalls(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"clear text": {Sidecar: lab.SidecarEnvoy, GRPC: true, Records: true},
		"mutual tls": {Sidecar: lab.SidecarEnvoy, GRPC: true, Records: true, TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			a := start(t, l, "depth: edges\ncapture_headers: [x-truth-id]")
			if opts.TLS {
				a.probed("rpcapp", string(opts.Sidecar))
			}
			if err := l.Reconnect(); err != nil { // of connections that are older than the agent, not every head can be read
				t.Fatal(err)
			}
			methods := []string{rpc.Echo, rpc.Fail, rpc.Collect, rpc.Expand, rpc.Talk}
			r, err := l.RPC(t.Context(), lab.Load{Connections: 1, Streams: len(methods), Duration: 100 * time.Millisecond, Methods: methods})
			if err != nil || r.Broken > 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			seen := map[string]bool{}
			for rec, err := range l.Records("client") {
				if err != nil {
					t.Fatal(err)
				}
				if seen[rec.Target] {
					continue
				}
				seen[rec.Target] = true
				j := a.journeys(1, withTruth(rec.TruthID))[0]
				checkLegs(t, j, meshwatch.DepthEdges)
				want := journey.GRPC{Status: rec.Status, Sent: uint32(rec.Sent), Received: uint32(rec.Received), Exact: true}
				for i, e := range j.Exchanges {
					if e.Target != rec.Target || e.GRPC == nil || *e.GRPC != want {
						t.Errorf("%s, leg %d: %s %+v, want %+v", rec.Target, i, e.Target, e.GRPC, want)
					}
				}
				if rec.Target == rpc.Fail && rec.Status != int(codes.NotFound) {
					t.Errorf("%+v: want NOT_FOUND", rec)
				}
			}
			if len(seen) != len(methods) {
				t.Errorf("only %v were called", seen)
			}
		})
	}
}

func withTruth(id string) func(*report.Line) bool {
	return func(j *report.Line) bool { return j.Exchanges[0].Headers["x-truth-id"] == id }
}

// pythonClient asks once and leaves.
const pythonClient = `
import http.client, ssl, sys
host, port, ca, path = sys.argv[1:]
c = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=ca), timeout=20)
c.request("GET", path)
r = c.getresponse()
r.read()
sys.exit(r.status != 200)
`

// Apps that speak TLS themselves: Go's crypto/tls and Python's ssl, each as server and asked by another library.
func TestTLSApps(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy, TLS: true, Records: true})
	apps := map[string]lab.App{"gotls": lab.AppTLS, "pytls": lab.AppPython}
	for name, app := range apps { // the agent's topology has those that are there when it starts
		if _, err := l.AddApp(t.Context(), name, app); err != nil {
			t.Fatal(err)
		}
	}
	a := start(t, l, "depth: edges")
	for name, app := range apps {
		p, _ := l.Pod(name)
		url := "https://" + netip.AddrPortFrom(p.V4, 8080).String()
		path := "/python-" + name
		for client, ask := range map[string]struct {
			path, protocol string
			args           []string
		}{
			"python":      {path, "http/1.1", []string{"/usr/bin/python3", "-c", pythonClient, p.V4.String(), "8080", l.CAFile(), path}},
			"curl":        {"/curl1-" + name, "http/1.1", []string{"curl", "-sSf", "--http1.1", "--cacert", l.CAFile(), url + "/curl1-" + name}},
			"curl http/2": {"/curl2-" + name, "http/2", []string{"curl", "-sSf", "--http2", "--cacert", l.CAFile(), url + "/curl2-" + name}},
		} {
			if app == lab.AppPython && ask.protocol == "http/2" {
				continue // it does not speak it
			}
			t.Run(client+" to "+name, func(t *testing.T) {
				a := a.in(t)
				a.probed("libssl.so", map[lab.App]string{lab.AppTLS: "/app", lab.AppPython: "libssl.so"}[app])
				if out, err := l.Command(t.Context(), "client", ask.args[0], ask.args[1:]...); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				j := a.journeys(1, func(j *report.Line) bool { return j.Exchanges[0].Target == ask.path })[0]
				e := j.Exchanges[0]
				if len(j.Exchanges) != 1 || !e.TLS || e.Protocol != ask.protocol || e.Status != 200 || e.Error != "" {
					t.Errorf("%d legs, the first %s over TLS %t: %s %d %s", len(j.Exchanges), e.Protocol, e.TLS, e.Target, e.Status, e.Error)
				}
				if want := fmt.Sprintf("client app > %s app", name); shape(j)[0] != want {
					t.Errorf("leg %s, want %s", shape(j)[0], want)
				}
				checkHops(t, 0, "request", meshwatch.DepthEdges, &e.Request)
				checkHops(t, 0, "response", meshwatch.DepthEdges, e.Response)
			})
		}
	}
}

// A server in Go that is asked by a program without probes, as this test is: what it is asked is read where it reads that.
func TestGoServerAskedUnseen(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy, TLS: true})
	p, err := l.AddApp(t.Context(), "gotls", lab.AppTLS)
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, l, "depth: edges")
	a.probed("/app")
	for _, protocol := range []string{"http/1.1", "http/2"} {
		t.Run(protocol, func(t *testing.T) {
			a := a.in(t)
			client := l.Client()
			defer client.CloseIdleConnections()
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = protocol == "http/2"
			path, asked := "/"+strings.ReplaceAll(protocol, "/", "-"), 0
			a.eventually("a request was read", func() error {
				asked++
				resp, err := client.Get(fmt.Sprintf("https://%s%s-%d", netip.AddrPortFrom(p.V4, 8080), path, asked))
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					return err
				}
				for _, j := range a.lines() {
					for _, e := range j.Exchanges {
						if strings.HasPrefix(e.Target, path+"-") && e.TLS && e.Protocol == protocol && e.Status == http.StatusOK {
							return nil
						}
					}
				}
				return fmt.Errorf("none of %d", asked)
			})
		})
	}
	a.logLosses()
}
