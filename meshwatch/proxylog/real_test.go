package proxylog

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/test/tree"
)

const haproxyConf = `global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend f
    bind 127.0.0.1:%d
    unique-id-format %%[uuid()]
    http-request set-header x-request-id %%[unique-id] unless { req.hdr(x-request-id) -m found }
    http-request set-var(txn.meshwatch_id) req.hdr(x-request-id)
    http-request set-var(txn.meshwatch_path) path
    http-request set-var(txn.meshwatch_host) req.hdr(host)
    http-request set-var(txn.meshwatch_start) date(0,us)
    log %s len 4096 format %s local0 info
    log-format "%s"
    use_backend none if { path /none }
    default_backend b
backend b
    server s %s
backend none
    http-request return status 404
`

const haproxy = "/usr/sbin/haproxy"

// ring is what docs/audit.md has HAProxy do to send its log to a socket.
func ring(t *testing.T, socket string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	const path = "unix@/run/meshwatch/ring.sock\n"
	_, text, begins := strings.Cut(string(page), "```\nring meshwatch\n")
	text, _, ends := strings.Cut(text, "```")
	if !begins || !ends || strings.Count(text, path) != 1 {
		t.Fatalf("docs/audit.md has no ring, or not one %q in it:\n%s", path, text)
	}
	text = strings.ReplaceAll(text, "abns@meshwatch", fmt.Sprintf("abns@meshwatch-%d", os.Getpid()))
	return "ring meshwatch\n" + strings.Replace(text, path, "unix@"+socket+"\n", 1)
}

const envoyConf = `static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: f
          access_log:
          - name: envoy.access_loggers.http_grpc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
              common_config: {log_name: meshwatch, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: meshwatch_als}}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {path: /none}, direct_response: {status: 404}}
              - {match: {prefix: /}, route: {cluster: b}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: meshwatch_als
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: meshwatch_als
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "%s"}}}}]}]
  - name: b
    type: STATIC
    load_assignment:
      cluster_name: b
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]
`

// real is a proxy in front of a backend.
type real struct {
	binary  string
	options func(conf string) []string
	conf    func(port uint16, socket string, backend netip.AddrPort) string
	listens func(socket string) Options
	off     time.Duration // by which its start of a request may be off
	flags   string        // of a request that it answers itself
}

// What the real proxies say of a request has the connections that client and server have, and the proxy's own process.
func TestReal(t *testing.T) {
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]real{
		"haproxy": {
			haproxy, func(conf string) []string { return []string{"-db", "-f", conf} },
			func(port uint16, socket string, backend netip.AddrPort) string {
				return fmt.Sprintf(haproxyConf, port, socket, "rfc3164", LogFormat, backend)
			},
			func(socket string) Options { return Options{HAProxy: []string{socket}} }, haproxyTurn, "LR",
		},
		"haproxy's ring": {
			haproxy, func(conf string) []string { return []string{"-db", "-f", conf} },
			func(port uint16, socket string, backend netip.AddrPort) string {
				return fmt.Sprintf(haproxyConf, port, "ring@meshwatch", "raw", LogFormat, backend) + ring(t, socket)
			},
			func(socket string) Options { return Options{Rings: []string{socket}} }, haproxyTurn, "LR",
		},
		"envoy": {
			tree.Cached(root, "envoy"), func(conf string) []string {
				return []string{"-c", conf, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"}
			},
			func(port uint16, socket string, backend netip.AddrPort) string {
				return fmt.Sprintf(envoyConf, port, socket, backend.Port())
			},
			func(socket string) Options { return Options{Envoy: []string{socket}} }, 0, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.exists(t)
			r.check(t)
		})
	}
}

// exists skips the test where there is no such proxy.
func (r *real) exists(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(r.binary); err != nil {
		if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func (r *real) check(t *testing.T) {
	var asked journey.Connection
	var askedAt uint64
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		askedAt = monotonic()
		local, _ := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
		asked = journey.Connection{Local: netip.MustParseAddrPort(q.RemoteAddr), Remote: netip.MustParseAddrPort(local.String())} // the proxy's view
	}))
	defer backend.Close()
	socket := filepath.Join(t.TempDir(), "said")
	s, _ := listen(t, r.listens(socket))
	address, cmd := r.start(t, socket, netip.MustParseAddrPort(strings.TrimPrefix(backend.URL, "http://")))
	conn := connect(t, address.String())
	defer conn.Close() //nolint:errcheck // a test's connection
	client := journey.Connection{Local: address, Remote: netip.MustParseAddrPort(conn.LocalAddr().String())}
	answers := bufio.NewReader(conn)
	for _, path := range []string{"/a%20b?query", "/x", "/none"} {
		before := monotonic()
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: mine:80\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		after := monotonic()
		got := next(t, s)
		bare, _, _ := strings.Cut(path, "?")
		want := journey.Said{
			By: journey.Speaker{Pid: cmd.Process.Pid}, Downstream: client, Upstream: asked, RequestID: got.RequestID, Method: "GET", Path: bare, Authority: "mine:80", Status: 200,
			Start: got.Start, Duration: got.Duration, Upto: got.Upto, Answer: got.Answer, Error: got.Error, Early: r.off,
		}
		if path == "/none" {
			want.Upstream, want.Status, want.Flags = journey.Connection{}, 404, r.flags
		}
		if diff := cmp.Diff(want, got, addresses); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
		if path != "/none" && (got.Earliest(got.Upto) > askedAt || askedAt > got.Latest(got.Answer) || got.Answer > got.Duration) {
			t.Errorf("%s: asked %v after it began; %v until it went on, %v until the answer came, over after %v", path, time.Duration(askedAt-got.Start), got.Upto, got.Answer, got.Duration) //nolint:gosec // a difference
		}
		if len(got.RequestID) != 36 {
			t.Errorf("id %q", got.RequestID)
		}
		if got.Error > journey.SureStart {
			t.Logf("%s: the clocks may be off by %v", path, got.Error)
		}
		if off := uint64(r.off + got.Error); got.Start+off < before || got.Start > after+off { //nolint:gosec // positive
			t.Errorf("%s: began at %d, not from %d to %d", path, got.Start, before, after)
		}
	}
}

// start runs the proxy until the test ends.
func (r *real) start(t *testing.T, socket string, backend netip.AddrPort) (netip.AddrPort, *exec.Cmd) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddrPort(free.Addr().String())
	_ = free.Close()
	conf := filepath.Join(t.TempDir(), "conf.yaml")
	if err := os.WriteFile(conf, []byte(r.conf(address.Port(), socket, backend)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(r.binary, r.options(conf)...) //nolint:gosec // of the table
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Log(out)
		}
	})
	return address, cmd
}

// A ring's HAProxy answers at once, whether there is an agent, there is none, or one that does not read; and each new agent is told.
func TestRealRing(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "said")
	r := real{
		binary: haproxy, options: func(conf string) []string { return []string{"-db", "-f", conf} },
		conf: func(port uint16, socket string, backend netip.AddrPort) string {
			return fmt.Sprintf(haproxyConf, port, "ring@meshwatch", "raw", LogFormat, backend) + ring(t, socket)
		},
	}
	r.exists(t)
	address, _ := r.start(t, socket, netip.MustParseAddrPort("127.0.0.1:9")) // nobody asks it
	conn := connect(t, address.String())
	defer conn.Close() //nolint:errcheck // a test's connection
	if err := conn.SetDeadline(time.Now().Add(4 * within)); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	ask := func(n int) {
		t.Helper()
		began, path := time.Now(), "/none?"+strings.Repeat("x", 1000)
		for range n {
			if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, strings.Repeat("y", 1000)); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
			_ = resp.Body.Close()
		}
	}
	told := func() {
		t.Helper()
		s, err := Listen(Options{Rings: []string{socket}, PerSecond: 1 << 20, PerPeer: 1 << 20, Monotonic: monotonic, Losses: &loss.Set{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close() //nolint:errcheck // of a test
		for deadline := time.Now().Add(within); len(s.Entries()) == 0; {
			if ask(1); time.Now().After(deadline) {
				t.Fatal("it is told nothing")
			}
		}
	}
	ask(100)
	told()
	ask(100)
	told()
	stuck, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan net.Conn, 1)
	go func() {
		if c, err := stuck.Accept(); err == nil {
			came <- c
		}
	}()
	select {
	case c := <-came:
		ask(6000) // more than ring and buffers have room for
		_ = c.Close()
	case <-time.After(within):
		t.Error("HAProxy does not come again")
	}
	_ = stuck.Close()
	told()
}

// connect waits until somebody listens.
func connect(t *testing.T, address string) net.Conn {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
