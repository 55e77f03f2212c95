package proxylog

import (
	"bufio"
	"fmt"
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
    log %s len 4096 format rfc3164 local0 info
    log-format "%s"
    use_backend none if { path /none }
    default_backend b
backend b
    server s %s
backend none
    http-request return status 404
`

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
			"/usr/sbin/haproxy", func(conf string) []string { return []string{"-db", "-f", conf} },
			func(port uint16, socket string, backend netip.AddrPort) string {
				return fmt.Sprintf(haproxyConf, port, socket, LogFormat, backend)
			},
			func(socket string) Options { return Options{HAProxy: []string{socket}} }, haproxyTurn, "LR",
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
			if _, err := os.Stat(r.binary); err != nil {
				if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			r.check(t)
		})
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
	dir := t.TempDir()
	socket := filepath.Join(dir, "said")
	s, set := listen(t, r.listens(socket))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddrPort(free.Addr().String())
	_ = free.Close()
	conf := filepath.Join(dir, "conf.yaml")
	text := r.conf(address.Port(), socket, netip.MustParseAddrPort(strings.TrimPrefix(backend.URL, "http://")))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
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
			t.Log(out, set.Rows())
		}
	})
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
