package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/test/lab"
)

// secrets are values that let their reader in somewhere, by the field that the client sends them in.
var secrets = map[string]string{
	"Authorization":       "Bearer s3cr3t-token",
	"Proxy-Authorization": "Basic s3cr3t-proxy",
	"Cookie":              "session=s3cr3t-cookie",
}

const (
	secret = "s3cr3t" // all of them have it
	shown  = "sh0wn-to-all"
)

// Credentials never leave the agent, in whatever way it saw them: not in lines, spans or answers. A header that the configuration names
// is in all of these, on every leg that carries the credentials: what is searched is where they would be.
func TestCredentialsStay(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"clear text": {Sidecar: lab.SidecarEnvoy},
		"mutual TLS": {Sidecar: lab.SidecarEnvoy, TLS: true},
		"HTTP/2":     {Sidecar: lab.SidecarEnvoy, TLS: true, HTTP2: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			c := collect(t)
			a := start(t, l, "capture_headers: [x-shown]", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL)
			if opts.TLS {
				a.probed("libssl.so", "envoy")
			}
			const requests = 3 // of which HTTP/2 has the credentials in its tables
			for range requests {
				id := login(t, l)
				j := a.journeys(1, withID(id))[0]
				if diff := cmp.Diff(sixLegs, shape(j)); diff != "" {
					t.Fatalf("legs (-want +got):\n%s", diff)
				}
			}
			a.eventually("spans have the header of every leg", func() error {
				return differs(bytes.Count(c.bytes(), []byte(shown)), requests*len(sixLegs))
			})
			for what, text := range map[string][]byte{"lines": a.raw(), "spans": c.bytes(), "answers": a.answers()} {
				if !bytes.Contains(text, []byte(shown)) {
					t.Errorf("%s do not have the header that is to be shown", what)
				}
				if at := bytes.Index(text, []byte(secret)); at >= 0 {
					t.Errorf("a credential in %s: %q", what, text[max(at-200, 0):min(at+50, len(text))])
				}
			}
			a.logLosses()
		})
	}
}

// login sends credentials all the way, and sees that they come back. It returns the request's id.
func login(t *testing.T, l *lab.Lab) (id string) {
	t.Helper()
	args := []string{"-sSi", "--cacert", l.CAFile(), "-H", "X-Shown: " + shown}
	for field, value := range secrets {
		args = append(args, "-H", field+": "+value)
	}
	out, err := l.Command(t.Context(), "client", "curl", append(args, l.GatewayURL()+"/?session=1&up.session=1")...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	resp := response(t, out)
	if got := resp.Header.Get("Set-Cookie"); resp.StatusCode != http.StatusOK || got != secrets["Cookie"] {
		t.Fatalf("status %d, Set-Cookie %q", resp.StatusCode, got)
	}
	return resp.Header.Get("X-Request-Id")
}

// raw is what the agent wrote so far, as it is.
func (a *agent) raw() []byte {
	a.out.mu.Lock()
	defer a.out.mu.Unlock()
	return bytes.Clone(a.out.raw)
}

// answers are all that the agent's socket says when it is asked, as they come.
func (a *agent) answers() (out []byte) {
	a.t.Helper()
	paths := []string{"/v1/status", "/v1/hops", "/v1/namespaces", "/v1/journeys?n=100"}
	list, err := a.Recent(a.t.Context(), 100)
	if err != nil || len(list) == 0 {
		a.t.Fatalf("%d recent journeys, %v", len(list), err)
	}
	for _, j := range list {
		paths = append(paths, "/v1/journeys/"+j.TraceID)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", a.socket)
	}}}
	defer client.CloseIdleConnections()
	for _, path := range paths {
		resp, err := client.Get("http://agent" + path)
		if err != nil {
			a.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close() //nolint:errcheck // read only
		if err != nil || resp.StatusCode != http.StatusOK {
			a.t.Fatalf("%s: status %d, %v", path, resp.StatusCode, err)
		}
		out = append(out, body...)
	}
	return out
}

// collector takes spans as they are on the wire, in which strings are as they are.
type collector struct {
	*httptest.Server
	mu  sync.Mutex
	got []byte
}

func collect(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Content-Encoding") != "" || !strings.HasSuffix(r.URL.Path, "/v1/traces") {
			http.Error(w, fmt.Sprint("not plain spans: ", err, r.Header), http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		c.got = append(c.got, body...)
		c.mu.Unlock()
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.got)
}
