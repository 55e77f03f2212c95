package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// 50 MB up, down or both ways at once through the whole mesh are two messages a leg, whole, not thousands.
func TestBigBodies(t *testing.T) {
	for _, sidecar := range []lab.Sidecar{lab.SidecarEnvoy, lab.SidecarHAProxy} {
		t.Run(string(sidecar), func(t *testing.T) { bigBodies(t, sidecar) })
	}
}

func bigBodies(t *testing.T, sidecar lab.Sidecar) {
	l := up(t, lab.Options{Sidecar: sidecar})
	a := start(t, l, "")
	client := l.Client()
	defer client.CloseIdleConnections()
	const size = 50 << 20
	post := func(query string) func() (*http.Response, error) {
		return func() (*http.Response, error) {
			return client.Post(l.GatewayURL()+"/"+query, "application/octet-stream", bytes.NewReader(make([]byte, size)))
		}
	}
	for name, tt := range map[string]struct {
		send     func() (*http.Response, error)
		legs     []string
		up, down bool // where the body is on the first three legs
	}{
		"up":   {post(""), sixLegs, true, false},
		"down": {func() (*http.Response, error) { return client.Get(fmt.Sprintf("%s/?body=%d", l.GatewayURL(), size)) }, sixLegs, false, true},
		"both": {post("?echo=1"), sixLegs[:3], true, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := a.in(t)
			before := flights(t, a)
			began := time.Now()
			resp, err := tt.send()
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("status %d, %v", resp.StatusCode, err)
			}
			took := time.Since(began)
			j := a.journeys(1, withID(resp.Header.Get("X-Request-Id")))[0]
			defer a.logLosses()
			if diff := cmp.Diff(tt.legs, shape(j)); diff != "" {
				t.Errorf("legs (-want +got):\n%s", diff)
			}
			for i, e := range j.Exchanges[:min(3, len(j.Exchanges))] {
				if e.Error != "" || e.Response == nil {
					t.Fatalf("leg %d: error %q, response %v", i, e.Error, e.Response)
				}
				if whole := e.Request.Bytes >= size && e.Request.RecvEnd > e.Request.Recv; whole != tt.up {
					t.Errorf("leg %d: %d bytes up, read from %d to %d", i, e.Request.Bytes, e.Request.Recv, e.Request.RecvEnd)
				}
				if whole := e.Response.Bytes >= size && e.Response.RecvEnd > e.Response.Recv; whole != tt.down {
					t.Errorf("leg %d: %d bytes down, read from %d to %d", i, e.Response.Bytes, e.Response.Recv, e.Response.RecvEnd)
				}
			}
			if got := j.Duration; got < took/2 || got > took { // the connect is before it
				t.Errorf("the journey took %s, its client saw %s", got, took)
			}
			// a connection may record 16 messages that are not HTTP at once, then one in 10 ms (bpf/c/start.h)
			limit := 2 * uint64(len(sixLegs)) * (20 + uint64(took.Milliseconds())/10)
			if n := flights(t, a) - before; n > limit {
				t.Errorf("%d flights for one request of %s, want at most %d", n, took, limit)
			}
		})
	}
}

func flights(t *testing.T, a *agent) uint64 {
	t.Helper()
	s, err := a.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Joiner.Flights
}

// Segments are lost on the way: the journey shows who waited for them.
func TestLossIsSeen(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy})
	a := start(t, l, "")
	if err := l.StartFault(lab.Fault{Kind: lab.FaultLoss, Percent: 30}); err != nil {
		t.Fatal(err)
	}
	a.eventually("a journey with a retransmission", func() error {
		send(t, l, "/")
		a.out.mu.Lock()
		defer a.out.mu.Unlock()
		for _, j := range a.out.lines {
			if retransmitted(j) {
				return nil
			}
		}
		return fmt.Errorf("none of %d", len(a.out.lines))
	})
}

func retransmitted(j *report.Line) bool {
	for _, e := range j.Exchanges {
		for _, h := range e.Request.Hops {
			if h.Kind == "retransmit" && e.Request.Retransmits > 0 {
				return true
			}
		}
	}
	return false
}

// What clients do that is not one request after the other: straight to an app, where nothing rewrites it.
func TestOddClients(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy})
	pod, err := l.AddPod(t.Context(), "odd")
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, l, "")
	address := fmt.Sprintf("%s:8080", pod.V4)
	get := func(target, rest string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: odd\r\n" + rest + "\r\n"
	}
	whole := get("/split", "X-Request-ID: split-1\r\n")
	for name, c := range map[string]struct {
		writes []string
		want   map[string]int // journeys by target
	}{
		"pipelined in one write":   {[]string{get("/p1", "") + get("/p2", "") + get("/p3", "")}, map[string]int{"/p1": 1, "/p2": 1, "/p3": 1}},
		"pipelined in many writes": {[]string{get("/m1", ""), get("/m2", ""), get("/m3", "")}, map[string]int{"/m1": 1, "/m2": 1, "/m3": 1}},
		"head split":               {[]string{whole[:7], whole[7:30], whole[30:]}, map[string]int{"/split": 1}},
		"byte by byte":             {strings.Split(get("/bytes", ""), ""), map[string]int{"/bytes": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			a := a.in(t)
			conn, err := l.Dial(t.Context(), "client", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // a test's connection
			for _, w := range c.writes {
				if _, err := io.WriteString(conn, w); err != nil {
					t.Fatal(err)
				}
			}
			in := bufio.NewReader(conn)
			for range c.want {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			for target, n := range c.want {
				for _, j := range a.journeys(n, func(j *report.Line) bool { return j.Exchanges[0].Target == target }) {
					if e := j.Exchanges[0]; e.Status != http.StatusOK || e.Error != "" {
						t.Errorf("%s: status %d, error %q", target, e.Status, e.Error)
					}
				}
			}
		})
	}
	t.Run("reset", func(t *testing.T) {
		a := a.in(t)
		conn, err := l.Dial(t.Context(), "client", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // a test's connection
		if _, err := io.WriteString(conn, get("/gone?reset=1", "")); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, conn)
		j := a.journeys(1, func(j *report.Line) bool { return j.Exchanges[0].Target == "/gone" })[0]
		if e := j.Exchanges[0]; e.Error != "reset" || e.Status != 0 {
			t.Errorf("status %d, error %q, want a reset", e.Status, e.Error)
		}
	})
}
