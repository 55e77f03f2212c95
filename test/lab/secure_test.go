package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc/codes"

	"github.com/meshwatch/meshwatch/test/lab/record"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
	"github.com/meshwatch/meshwatch/test/nets"
	"github.com/meshwatch/meshwatch/test/wire"
)

// secure are the meshes whose pods speak TLS to each other, and what the clients of each pod offer to speak inside.
var secure = []struct {
	name string
	opts Options
	alpn map[string]string // by pod that is called
}{
	{"envoy", Options{Sidecar: SidecarEnvoy, TLS: true}, map[string]string{"gateway": "", "frontend": "http/1.1", "backend": "http/1.1"}},
	{"envoy http2", Options{Sidecar: SidecarEnvoy, TLS: true, HTTP2: true}, map[string]string{"gateway": "", "frontend": "http/1.1", "backend": "h2,http/1.1"}},
	{"envoy http2 ipv6", Options{Sidecar: SidecarEnvoy, TLS: true, HTTP2: true, IPv6: true}, map[string]string{"backend": "h2,http/1.1"}},
	{"envoy churn", Options{Sidecar: SidecarEnvoy, TLS: true, PerConnection: 1}, map[string]string{"backend": "http/1.1"}},
	{"envoy mixed", Options{Sidecar: SidecarEnvoy, TLS: true, PerConnection: 3}, map[string]string{"backend": "http/1.1"}},
	{"haproxy", Options{Sidecar: SidecarHAProxy, TLS: true, Threads: 4}, map[string]string{"gateway": "", "frontend": "http/1.1", "backend": "http/1.1"}},
	{"haproxy mixed", Options{Sidecar: SidecarHAProxy, TLS: true, Threads: 4, PerConnection: 3}, map[string]string{"backend": "http/1.1"}},
	{"haproxy ipv6", Options{Sidecar: SidecarHAProxy, TLS: true, Threads: 4, IPv6: true}, map[string]string{"backend": "http/1.1"}},
	{"grpc", Options{Sidecar: SidecarEnvoy, TLS: true, GRPC: true}, map[string]string{"gateway": "h2", "frontend": "h2", "backend": "h2,http/1.1"}},
	{"grpc mixed", Options{Sidecar: SidecarEnvoy, TLS: true, GRPC: true, PerConnection: 3}, map[string]string{"backend": "h2,http/1.1"}},
}

// TestSecure sends requests through every mesh that speaks TLS, and looks at the wire.
func TestSecure(t *testing.T) {
	for _, c := range secure {
		t.Run(c.name, func(t *testing.T) {
			c.opts.AccessLogs, c.opts.Records = true, true
			l := up(t, c.opts)
			if c.opts.GRPC {
				t.Run("calls", func(t *testing.T) { testCalls(t, l) })
				t.Run("load", func(t *testing.T) { testCallLoad(t, l) })
			} else {
				t.Run("one request", func(t *testing.T) { testOneRequest(t, l) })
				t.Run("load", func(t *testing.T) { testLoad(t, l) })
				t.Run("connections", func(t *testing.T) { testConnections(t, l) })
			}
			t.Run("wire", func(t *testing.T) { testWire(t, l, c.alpn) })
			t.Run("certificate", func(t *testing.T) { testNeedsCertificate(t, l) })
		})
	}
}

// testWire looks at new connections to each pod: TLS 1.3 and nothing else. What is sent must be seen: then a record that were clear
// text would be, too.
func testWire(t *testing.T, l *Lab, alpn map[string]string) {
	captures := map[string]*wire.Capture{}
	for pod := range alpn {
		captures[pod] = capture(t, l, pod)
	}
	if err := l.Reconnect(); err != nil {
		t.Fatal(err)
	}
	const secret = "meshwatch-secret"
	if l.Options.GRPC {
		call(t, l, rpc.Talk, secret, 3)
	} else {
		get(t, l, "/"+secret, http.Header{"X-Truth-Id": {secret}})
	}
	for pod, want := range alpn {
		streams, err := captures[pod].Stop()
		if err != nil {
			t.Fatal(err)
		}
		p, _ := l.Pod(pod)
		found := wire.Conversations(streams, l.meshAddr(p))
		if len(found) == 0 {
			t.Errorf("%s: no new connection among %d streams", pod, len(streams))
		}
		for _, v := range found {
			h, err := wire.ParseTLS(v.Client.Data, v.Server.Data)
			if err != nil || h.Version != tls.VersionTLS13 || strings.Join(h.ALPN, ",") != want {
				t.Errorf("%s: %v, version %x, ALPN %q, want TLS 1.3, %q", pod, err, h.Version, h.ALPN, want)
			}
		}
		for _, s := range streams {
			if strings.Contains(string(s.Data), secret) || strings.Contains(string(s.Data), "HTTP/1.1") {
				t.Errorf("%s: %s → %s: clear text is on the wire", pod, s.From, s.To)
			}
		}
	}
}

// capture records what passes the node's end of a pod's link.
func capture(t *testing.T, l *Lab, pod string) *wire.Capture {
	t.Helper()
	p, _ := l.Pod(pod)
	node := nets.Named(l.NodeNetns())
	var index int
	err := node.Netlink(func(h *netlink.Handle) error {
		link, err := h.LinkByName(p.Link())
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := wire.Start(node, index)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testNeedsCertificate: whoever has none is not served by a sidecar, in clear text neither.
func testNeedsCertificate(t *testing.T, l *Lab) {
	p, _ := l.Pod("backend")
	address := netip.AddrPortFrom(l.meshAddr(p), appPort).String()
	conn, err := l.Dial(t.Context(), "client", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	config := l.ClientTLS()
	config.ServerName = l.meshAddr(p).String()
	secured := tls.Client(conn, config)
	// It reads before it writes anything: on a connection that was refused meanwhile a write breaks, and says nothing of the reason.
	err = secured.HandshakeContext(t.Context())
	if err == nil {
		_, err = secured.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v, want that one is required", err)
	}
	certs := secured.ConnectionState().PeerCertificates
	if len(certs) == 0 || len(certs[0].URIs) != 1 || certs[0].URIs[0].String() != "spiffe://cluster.local/ns/demo/sa/backend" {
		t.Errorf("backend's certificates: %v", certs)
	}
	for _, pod := range l.Proxies() { // a connection without a request is logged as one, too
		for _, err := range l.AccessLog(pod) {
			if err != nil {
				t.Error(err)
			}
		}
	}
	clear, err := l.Dial(t.Context(), "client", address)
	if err != nil {
		t.Fatal(err)
	}
	defer clear.Close()
	if err := answer(clear); err == nil {
		t.Error("a request in clear text was answered")
	}
}

// answer asks for something; nil: there was an answer.
func answer(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: backend.demo\r\n\r\n"); err != nil {
		return err
	}
	text := make([]byte, 5)
	if _, err := io.ReadFull(conn, text); err != nil {
		return err
	}
	if string(text) != "HTTP/" {
		return fmt.Errorf("answer %q", text)
	}
	return nil
}

// testConnections: requests have the connections that Options.PerConnection says, to the gateway one each where it says nothing, and
// every one is answered.
func testConnections(t *testing.T, l *Lab) {
	toGateway := max(1, l.Options.PerConnection)
	began := time.Now()
	r, err := l.Wrk(t.Context(), Load{Connections: 8, Duration: time.Second, Truth: true, Drain: true, PerConnection: toGateway})
	if err != nil || r.Requests == 0 || r.Failed+r.Broken > 0 || r.Duration < 900*time.Millisecond || r.Duration+drainTime > time.Since(began) {
		t.Fatalf("%+v, %v", r, err)
	}
	countConnections(t, l, r, toGateway)
}

// countConnections looks at a load in the access logs: each leg has as many connections as its client is to make.
func countConnections(t *testing.T, l *Lab, r LoadResult, toGateway int) {
	t.Helper()
	lines := make(map[string]map[string]int)
	eventually(t, "every request in every log, once", func() bool {
		clear(lines)
		return collect(t, l, r.Run+"-", lines) == int(r.Requests) && complete(lines)
	})
	// Known by their ports, of which the kernel may take one again: it reads where it was, connects, and says where it is, so that who
	// is preempted in between turns it back.
	count := func(leg string, ports map[AddrPort]bool, perConnection int) {
		t.Helper()
		n, least, most := len(ports), 0, int(r.Requests)*9/10
		switch perConnection {
		case 0: // not one each
		case 1:
			least, most = most, int(r.Requests)
		default:
			least = int(r.Requests) / 10
		}
		if n < least || n > most {
			t.Errorf("%s: %d ports for %d requests, %d on a connection", leg, n, r.Requests, perConnection)
		}
	}
	for _, listener := range []string{"gateway gateway", "frontend inbound", "frontend outbound", "backend inbound"} {
		pod, name, _ := strings.Cut(listener, " ")
		from, to := map[AddrPort]bool{}, map[AddrPort]bool{}
		for a, err := range l.AccessLog(pod) {
			if err == nil && a.Listener == name && strings.HasPrefix(a.TruthID, r.Run+"-") {
				from[a.DownstreamRemote], to[a.UpstreamLocal] = true, true
			}
		}
		if pod == "gateway" {
			count("to "+listener, from, toGateway)
		} else {
			count("to "+listener, from, l.Options.PerConnection)
		}
		count("from "+listener, to, l.Options.PerConnection)
	}
}

func call(t *testing.T, l *Lab, method, truth string, n int) record.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := l.Call(ctx, method, truth, n)
	if err != nil || r.Error != "" {
		t.Fatalf("%s: %v, %+v", method, err, r)
	}
	return r
}

// testCalls makes one call of each kind: the apps' records agree with the client's, and each proxy logs it.
func testCalls(t *testing.T, l *Lab) {
	const n = 4
	for method, want := range map[string]record.Record{
		rpc.Echo: {Sent: 1, Received: 1}, rpc.Fail: {Sent: 1, Status: int(codes.NotFound)},
		rpc.Collect: {Sent: n, Received: 1}, rpc.Expand: {Sent: 1, Received: n}, rpc.Talk: {Sent: n, Received: n},
	} {
		truth := "one-" + method
		got := call(t, l, method, truth, n)
		if got.RequestID == "" && method != rpc.Fail { // an answer without messages has no head but its trailers
			t.Errorf("%s: no request id", method)
		}
		want.Target, want.TruthID, want.RequestID = method, truth, got.RequestID
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("client (-want +got):\n%s", diff)
		}
		want.Sent, want.Received = want.Received, want.Sent
		lines := accesses(t, l, truth, 4)
		want.RequestID = lines[0].RequestID
		for _, pod := range []string{"frontend", "backend"} {
			if diff := cmp.Diff([]record.Record{want}, records(t, l, pod, truth)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", pod, diff)
			}
		}
		for _, a := range lines {
			if a.RequestID != want.RequestID || a.Code != http.StatusOK || a.Path != method {
				t.Errorf("%s %s logged %+v", a.Pod, a.Listener, a)
			}
		}
	}
}

// records are those of one pod whose truth id begins so.
func records(t *testing.T, l *Lab, pod, truth string) (found []record.Record) {
	t.Helper()
	for r, err := range l.Records(pod) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(r.TruthID, truth) {
			found = append(found, r)
		}
	}
	return found
}

// testCallLoad: what the load says that it did is what both apps say, call by call, whatever the calls on a connection.
func testCallLoad(t *testing.T, l *Lab) {
	for _, perConnection := range []int{0, 1, 3} {
		r, err := l.RPC(t.Context(), Load{Connections: 4, Streams: 16, Duration: time.Second, PerConnection: perConnection,
			Methods: []string{rpc.Echo, rpc.Fail, rpc.Collect, rpc.Expand, rpc.Talk}})
		if err != nil || r.Requests < 16 || r.Broken > 0 || r.P50 == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		countConnections(t, l, r, perConnection)
		said := records(t, l, "client", r.Run+"-")
		if len(said) != int(r.Requests) {
			t.Errorf("%d records of %d calls", len(said), r.Requests)
		}
		sortByTruth := func(list []record.Record) []record.Record {
			slices.SortFunc(list, func(a, b record.Record) int { return strings.Compare(a.TruthID, b.TruthID) })
			return list
		}
		for i := range said {
			said[i].Sent, said[i].Received, said[i].RequestID = said[i].Received, said[i].Sent, ""
		}
		for _, pod := range []string{"frontend", "backend"} {
			got := records(t, l, pod, r.Run+"-")
			for i := range got {
				got[i].RequestID = ""
			}
			if diff := cmp.Diff(sortByTruth(said), sortByTruth(got)); diff != "" {
				t.Errorf("%d calls on a connection, %s (-client +%s):\n%s", perConnection, pod, pod, diff)
			}
		}
	}
}

// TestApps asks apps that speak TLS themselves.
func TestApps(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarHAProxy, TLS: true, Records: true})
	client := l.Client()
	defer client.CloseIdleConnections()
	for name, app := range map[string]App{"gotls": AppTLS, "pytls": AppPython} {
		p, err := l.AddApp(t.Context(), name, app)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range []netip.Addr{p.V4, p.V6} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+netip.AddrPortFrom(addr, appPort).String()+"/tls?x=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Truth-Id", "tls "+addr.String())
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || string(body) != name+" ok\n" || resp.TLS.Version != tls.VersionTLS13 {
				t.Errorf("%s: %v: %q", name, err, body)
			}
			want := []record.Record{{TruthID: req.Header.Get("X-Truth-Id"), Target: "/tls", Status: http.StatusOK}}
			eventually(t, "the record of "+name, func() bool { return cmp.Equal(want, records(t, l, name, want[0].TruthID)) })
		}
	}
	if _, err := up(t, Options{Sidecar: SidecarHAProxy}).AddApp(t.Context(), "x", AppTLS); err == nil {
		t.Error("an app that speaks TLS without a certificate: no error")
	}
}

// TestStreams: what clients do besides requests, straight to an app and through a mesh.
func TestStreams(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarEnvoy})
	resp := get(t, l, "/?call=&events=3", nil)
	if want := "data: 0\n\ndata: 1\n\ndata: 2\n\n"; string(resp.Body) != want {
		t.Errorf("events: %q, want %q", resp.Body, want)
	}
	gw := strings.TrimPrefix(l.GatewayURL(), "http://")
	conn, err := l.Dial(t.Context(), "client", gw)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	const ask = "GET /?call= HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := io.WriteString(conn, ask); err != nil {
		t.Fatal(err)
	}
	head := readUntil(t, conn, "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(strings.ToLower(head), "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=") { // RFC 6455 section 1.3
		t.Errorf("answer %q", head)
	}
	if _, err := io.WriteString(conn, "\x81\x04ping"); err != nil {
		t.Fatal(err)
	}
	if got := readUntil(t, conn, "ping"); got != "\x81\x04ping" {
		t.Errorf("frame %q came back", got)
	}
}

func readUntil(t *testing.T, conn net.Conn, end string) string {
	t.Helper()
	var text []byte
	for !strings.HasSuffix(string(text), end) {
		b := make([]byte, 1)
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("%v after %q", err, text)
		}
		text = append(text, b...)
	}
	return string(text)
}
