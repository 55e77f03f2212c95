package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/nets"
)

// within bounds everything a test waits for.
const within = 20 * time.Second

// need skips a test that this machine cannot run; where it must run, that is a failure.
func need(t *testing.T, sidecar Sidecar) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a lab, not a short test")
	}
	if err := Missing(sidecar); err != nil {
		if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
			t.Fatalf("MESHWATCH_TEST_PRIVILEGED=1, but: %v", err)
		}
		t.Skip(err)
	}
}

// up builds a lab that ends with the test.
func up(t *testing.T, opts Options) *Lab {
	t.Helper()
	need(t, opts.Sidecar)
	l, err := Up(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := await.Until(ctx, holds); err != nil {
		t.Fatalf("not within %s: %s", within, what)
	}
}

// accesses are the log lines of one request, waited for.
func accesses(t *testing.T, l *Lab, truth string, want int) []Access {
	t.Helper()
	var lines []Access
	eventually(t, fmt.Sprintf("%d log lines of %s", want, truth), func() bool {
		lines = nil
		for _, pod := range l.Proxies() {
			for a, err := range l.AccessLog(pod) {
				if err != nil {
					t.Fatal(err)
				}
				if a.TruthID == truth {
					lines = append(lines, a)
				}
			}
		}
		return len(lines) >= want
	})
	return lines
}

func pick(t *testing.T, lines []Access, pod, listener string) Access {
	t.Helper()
	i := slices.IndexFunc(lines, func(a Access) bool { return a.Pod == pod && a.Listener == listener })
	if i < 0 {
		t.Fatalf("no %s line of %s in %+v", listener, pod, lines)
	}
	return lines[i]
}

func get(t *testing.T, l *Lab, path string, header http.Header) *Response {
	t.Helper()
	resp, err := l.Request(t.Context(), path, header)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// TestEveryHop sends requests through every kind of mesh, and follows them in the proxies' own logs.
func TestEveryHop(t *testing.T) {
	for _, opts := range []Options{
		{Sidecar: SidecarEnvoy}, {Sidecar: SidecarHAProxy},
		{Sidecar: SidecarEnvoy, IPv6: true}, {Sidecar: SidecarHAProxy, IPv6: true},
	} {
		t.Run(fmt.Sprintf("%s ipv6=%t", opts.Sidecar, opts.IPv6), func(t *testing.T) {
			opts.AccessLogs = true
			l := up(t, opts)
			t.Run("one request", func(t *testing.T) { testOneRequest(t, l) })
			t.Run("given id", func(t *testing.T) { testGivenID(t, l) })
			t.Run("fan-out", func(t *testing.T) { testFanOut(t, l) })
			t.Run("rules", func(t *testing.T) { testRules(t, l) })
			t.Run("failures", func(t *testing.T) { testFailures(t, l) })
			t.Run("bodies", func(t *testing.T) { testBodies(t, l) })
			t.Run("load", func(t *testing.T) { testLoad(t, l) })
			t.Run("reset", func(t *testing.T) { testReset(t, l) })
		})
	}
}

func testOneRequest(t *testing.T, l *Lab) {
	resp := get(t, l, "/one", http.Header{"X-Truth-Id": {"one"}})
	id := resp.Header.Get("X-Request-Id")
	if resp.Status != http.StatusOK || len(id) != 36 {
		t.Fatalf("status %d, request id %q: want 200 and a UUID", resp.Status, id)
	}
	lines := accesses(t, l, "one", 4)
	if len(lines) != 4 {
		t.Errorf("%d log lines, want 4: %+v", len(lines), lines)
	}
	for _, a := range lines {
		if a.RequestID != id || a.Code != http.StatusOK {
			t.Errorf("%s %s logged id %s code %d, want %s 200", a.Pod, a.Listener, a.RequestID, a.Code, id)
		}
	}
	gateway, in := pick(t, lines, "gateway", "gateway"), pick(t, lines, "frontend", "inbound")
	out, backend := pick(t, lines, "frontend", "outbound"), pick(t, lines, "backend", "inbound")
	for _, leg := range []struct {
		name         string
		client, serv AddrPort
	}{
		{"gateway to frontend", gateway.UpstreamLocal, in.DownstreamRemote},
		{"frontend to backend", out.UpstreamLocal, backend.DownstreamRemote},
		{"address of frontend", gateway.UpstreamHost, in.DownstreamLocal},
		{"address of backend", out.UpstreamHost, backend.DownstreamLocal},
		{"redirect", out.DownstreamLocal, backend.DownstreamLocal},
	} {
		if leg.client != leg.serv {
			t.Errorf("%s: %s at one end, %s at the other", leg.name, leg.client, leg.serv)
		}
	}
	six := "127.0.0.6"
	if l.Options.IPv6 {
		six = "::6"
	}
	if got := backend.UpstreamLocal.Addr().String(); got != six {
		t.Errorf("backend's sidecar calls its app from %s, want %s", got, six)
	}
}

func testGivenID(t *testing.T, l *Lab) {
	const id = "11111111-2222-4333-8444-555555555555"
	resp := get(t, l, "/", http.Header{"X-Truth-Id": {"given"}, "X-Request-Id": {id}})
	if got := resp.Header.Get("X-Request-Id"); got != id {
		t.Errorf("answer has id %q, want %s", got, id)
	}
	for _, a := range accesses(t, l, "given", 4) {
		if a.RequestID != id {
			t.Errorf("%s %s logged id %s, want %s", a.Pod, a.Listener, a.RequestID, id)
		}
	}
}

func testFanOut(t *testing.T, l *Lab) {
	for _, mode := range []string{"seq", "par"} {
		get(t, l, "/?call=backend,backend2&mode="+mode, http.Header{"X-Truth-Id": {mode}})
		lines := accesses(t, l, mode, 6)
		for _, pod := range []string{"backend", "backend2"} {
			pick(t, lines, pod, "inbound")
		}
	}
}

func testRules(t *testing.T, l *Lab) {
	for _, pod := range []string{"frontend", "backend", "backend2"} {
		p, _ := l.Pod(pod)
		for _, save := range []string{"iptables-save", "ip6tables-save"} {
			out, err := exec.Command("ip", "netns", "exec", p.Netns, save, "-t", "nat").Output()
			if err != nil {
				t.Fatal(err)
			}
			for _, rule := range []string{
				"-A PREROUTING -p tcp -j ISTIO_INBOUND", "-A OUTPUT -j ISTIO_OUTPUT",
				"--to-ports 15001", "--to-ports 15006", "--uid-owner 1337 -j ISTIO_IN_REDIRECT",
			} {
				if !strings.Contains(string(out), rule) {
					t.Errorf("%s in %s does not have %q", save, pod, rule)
				}
			}
		}
	}
	err := nets.Named(l.NodeNetns()).Do(func() error {
		on, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
		if err == nil && strings.TrimSpace(string(on)) != "1" {
			err = fmt.Errorf("bridge-nf-call-iptables is %q", on)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func testFailures(t *testing.T, l *Lab) {
	for path, want := range map[string]int{
		"/?status=418":            http.StatusTeapot,
		"/?backend.status=503":    http.StatusBadGateway,
		"/?call=&sleep=1ms":       http.StatusOK,
		"/?burn=1ms&up.burn=1ms":  http.StatusOK,
		"/?backend.reset=1":       http.StatusBadGateway,
		"/?backend.reset=mid":     http.StatusBadGateway,
		"/?sleep=long":            http.StatusBadRequest,
		"/?close=1&up.close=1":    http.StatusOK,
		"/?call=nobody&mode=none": http.StatusBadGateway,
	} {
		if resp := get(t, l, path, nil); resp.Status != want {
			t.Errorf("%s: status %d, want %d: %s", path, resp.Status, want, resp.Body)
		}
	}
}

// TestPerConnection: a number of requests cannot be negative.
func TestPerConnection(t *testing.T) {
	const want = "-1 requests"
	if err := (Options{PerConnection: -1}).check(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("options: %v", err)
	}
	l := &Lab{Options: Options{GRPC: true}}
	for name, send := range map[string]func(context.Context, Load) (LoadResult, error){"wrk": l.Wrk, "rpc": l.RPC} {
		if _, err := send(t.Context(), Load{PerConnection: -1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
