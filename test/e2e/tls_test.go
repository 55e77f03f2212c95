package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// Mutual TLS everywhere between pods does not cut a request: every leg is there, joined as in clear text.
func TestMutualTLS(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"envoy":      {Sidecar: lab.SidecarEnvoy, TLS: true},
		"envoy ipv6": {Sidecar: lab.SidecarEnvoy, TLS: true, IPv6: true},
		"haproxy":    {Sidecar: lab.SidecarHAProxy, TLS: true, Threads: 4},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			a := start(t, l, "")
			a.probed("libssl.so", string(opts.Sidecar))
			id := curl(t, l, "/")
			j := a.journeys(1, withID(id))[0]
			if diff := cmp.Diff(sixLegs, shape(j)); diff != "" {
				t.Fatalf("legs (-want +got):\n%s", diff)
			}
			for i, e := range j.Exchanges {
				if e.Parent != i-1 || e.Status != 200 {
					t.Errorf("leg %d: parent %d, status %d", i, e.Parent, e.Status)
				}
			}
			for _, r := range j.Relays {
				if r.Confidence < 0.99 || r.Method != journey.MethodRequestID && r.Method != journey.MethodResponseID {
					t.Errorf("relay %+v", r)
				}
			}
		})
	}
}

// probed waits until these binaries have probes; HAProxy's is the OpenSSL that it links.
func (a *agent) probed(names ...string) {
	a.t.Helper()
	a.eventually(fmt.Sprintf("%v have probes", names), func() error {
		s, err := a.Status(a.t.Context())
		if err != nil {
			return err
		}
		for _, name := range names {
			if name != string(lab.SidecarHAProxy) && !slices.ContainsFunc(s.TLS, func(b probe.Binary) bool { return b.Writes && strings.Contains(b.Path, name) }) {
				return fmt.Errorf("not %s: %+v", name, s.TLS)
			}
		}
		return nil
	})
}

// curl sends a request as a program in the client's pod does: with OpenSSL. It returns its id.
func curl(t *testing.T, l *lab.Lab, path string, args ...string) (id string) {
	t.Helper()
	out, err := l.Command(t.Context(), "client", "curl", append(args, "-sSi", "--cacert", l.CAFile(), l.GatewayURL()+path)...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	resp := response(t, out)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", resp.StatusCode, out)
	}
	return resp.Header.Get("X-Request-Id")
}

// response is what curl -i printed.
func response(t *testing.T, out []byte) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp
}

// A client without probes: what it sends is read where it is read. This test is one: its threads are not in the client's namespace.
func TestClientWithoutProbes(t *testing.T) {
	for _, kind := range []lab.Sidecar{lab.SidecarEnvoy, lab.SidecarHAProxy} {
		t.Run(string(kind), func(t *testing.T) {
			l := up(t, lab.Options{Sidecar: kind, TLS: true})
			a := start(t, l, "")
			a.probed("libssl.so", string(kind))
			client := l.Client()
			defer client.CloseIdleConnections()
			var last []*report.Line
			a.eventually("a journey has its first leg", func() error {
				resp, err := client.Get(l.GatewayURL())
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					return err
				}
				last = a.lines()
				for _, j := range last {
					if cmp.Equal(sixLegs, shape(j)) {
						return nil
					}
				}
				return fmt.Errorf("none of %d", len(last))
			})
			a.logLosses()
		})
	}
}

// lines are all that the agent wrote so far.
func (a *agent) lines() []*report.Line {
	a.out.mu.Lock()
	defer a.out.mu.Unlock()
	return slices.Clone(a.out.lines)
}

// HTTP/2 between the sidecars: many requests share a connection, each is joined to its own stream.
func TestHTTP2(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarEnvoy, TLS: true, HTTP2: true})
	a := start(t, l, "")
	a.probed("libssl.so", "envoy")
	id := curl(t, l, "/")
	j := a.journeys(1, withID(id))[0]
	if diff := cmp.Diff(sixLegs, shape(j)); diff != "" {
		t.Fatalf("legs (-want +got):\n%s", diff)
	}
	for i, e := range j.Exchanges {
		if wire := sixLegs[i] == "frontend sidecar > backend sidecar"; wire != (e.Protocol == "http/2") || wire != (e.Stream != 0) || e.Status != http.StatusOK {
			t.Errorf("leg %d, %s: %s, stream %d, status %d", i, sixLegs[i], e.Protocol, e.Stream, e.Status)
		}
	}
	a.logLosses()
}
