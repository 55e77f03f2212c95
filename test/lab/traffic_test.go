package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/test/await"
)

// testBodies sends 50 MB up to the backend, down from it, and both ways at once.
func testBodies(t *testing.T, l *Lab) {
	const size = 50_000_000
	client := l.Client()
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		path     string
		up, down int64
	}{
		{"/?forward=1", size, int64(len("frontend ok\n"))},
		{fmt.Sprintf("/?relay=1&backend.body=%d", size), 0, size},
		{"/?call=&echo=1", size, size},
	} {
		body := io.LimitReader(strings.NewReader(strings.Repeat("b", size)), c.up)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.GatewayURL()+c.path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = c.up
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || n != c.down {
			t.Errorf("%s: status %d, %d bytes, %v: want 200, %d bytes", c.path, resp.StatusCode, n, err, c.down)
		}
	}
}

// testLoad checks that every request of a load is in every proxy's log, once, and that the counter counts them.
func testLoad(t *testing.T, l *Lab) {
	before, err := l.Requests()
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Wrk(t.Context(), Load{Connections: 32, Threads: 2, Duration: time.Second, Truth: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests == 0 || r.Failed > 0 || r.Broken > 0 || r.P50 == 0 || r.P99 < r.P50 {
		t.Errorf("implausible or failed: %+v", r)
	}
	after, err := l.Requests()
	if err != nil {
		t.Fatal(err)
	}
	if after-before < r.Requests {
		t.Errorf("frontend counted %d requests, wrk %d", after-before, r.Requests)
	}
	lines := make(map[string]map[string]int) // truth id → pod and listener → lines
	eventually(t, "every answered request in every log, once", func() bool {
		clear(lines)
		answered := collect(t, l, r.Run+"-", lines)
		return answered >= int(r.Requests) && complete(lines)
	})
}

// testReset checks that logs start anew, also HAProxy's, which does not notice.
func testReset(t *testing.T, l *Lab) {
	if err := l.ResetAccessLogs(); err != nil {
		t.Fatal(err)
	}
	get(t, l, "/", http.Header{"X-Truth-Id": {"reset"}})
	if n := len(accesses(t, l, "reset", 4)); n != 4 {
		t.Errorf("%d lines after the reset, want 4", n)
	}
	for a, err := range l.AccessLog("gateway") {
		if err != nil || a.TruthID != "reset" {
			t.Errorf("%+v, %v: from before the reset", a, err)
		}
	}
}

// collect counts log lines per truth id, of those requests that the gateway answered in full; it returns their number.
func collect(t *testing.T, l *Lab, prefix string, lines map[string]map[string]int) int {
	for _, pod := range l.Proxies() { // the gateway first
		for a, err := range l.AccessLog(pod) {
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(a.TruthID, prefix) {
				continue
			}
			if pod == "gateway" && a.Flags == "--" {
				lines[a.TruthID] = make(map[string]int)
			}
			if m := lines[a.TruthID]; m != nil {
				m[a.Pod+" "+a.Listener]++
			}
		}
	}
	return len(lines)
}

func complete(lines map[string]map[string]int) bool {
	want := map[string]int{"gateway gateway": 1, "frontend inbound": 1, "frontend outbound": 1, "backend inbound": 1}
	for _, got := range lines {
		if !cmp.Equal(want, got) {
			return false
		}
	}
	return true
}

// TestFixedRate needs fortio, which test/install.sh builds.
func TestFixedRate(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarHAProxy})
	r, err := l.Fortio(t.Context(), Load{Connections: 4, QPS: 50, Duration: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests < 30 || r.Requests > 60 || r.Failed+r.Broken > 0 || r.P50 == 0 {
		t.Errorf("implausible or failed: %+v", r)
	}
}

// TestLoadInterrupted checks that a load that is stopped still has a result, and leaves no process.
func TestLoadInterrupted(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarHAProxy})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, err := l.Requests()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = await.Until(ctx, func() bool { n, err := l.Requests(); return err != nil || n > first+100 })
		cancel()
	}()
	r, err := l.Wrk(ctx, Load{Duration: time.Minute})
	if err != nil || r.Requests < 50 || r.Duration > 30*time.Second {
		t.Errorf("%+v, %v: want the result of a short load", r, err)
	}
	procs, err := l.Processes()
	for _, p := range procs {
		if strings.HasSuffix(p.Name, "-load") {
			t.Errorf("%s is still recorded", p.Name)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func TestAddrPort(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1:80": "10.0.0.1:80", "[10.0.0.1]:80": "10.0.0.1:80", "[fd77::2]:80": "[fd77::2]:80",
		"[::ffff:10.0.0.1]:80": "10.0.0.1:80",
	} {
		var a AddrPort
		if err := a.UnmarshalText([]byte(text)); err != nil || a.AddrPort != netip.MustParseAddrPort(want) {
			t.Errorf("%s: got %s, %v, want %s", text, a, err, want)
		}
	}
	for _, text := range []string{"", "-", "[-]:-", "-:-"} {
		var a AddrPort
		if err := a.UnmarshalText([]byte(text)); err != nil || a.IsValid() {
			t.Errorf("%q: got %s, %v, want none", text, a, err)
		}
	}
	for _, text := range []string{"x:1", "[10.0.0.1]:x", "10.0.0.1:99999"} {
		var a AddrPort
		if err := a.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestParseAccess(t *testing.T) {
	got, err := parseAccess("gateway", []byte(`{"listener":"gateway","request_id":"-","truth_id":"-","path":"\/a","code":-1,"upstream_local":"[-]:-"}`))
	want := Access{Pod: "gateway", Listener: "gateway", Path: "/a", Code: -1}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b AddrPort) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := parseAccess("gateway", []byte(`{"listener"`)); err == nil {
		t.Error("half a line: no error")
	}
}
