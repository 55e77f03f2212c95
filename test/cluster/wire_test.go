package cluster

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/wire"
)

// oneRequestEach makes frontend's sidecar connect anew for each request to backend.
const oneRequestEach = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: backend, namespace: demo}
spec:
  host: backend.demo.svc.cluster.local
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
`

func testWire(t *testing.T, c *Cluster) {
	restore(t, c)
	backend := pod(t, c, Namespace, "app=backend,version=v1")
	if err := c.Apply(t.Context(), oneRequestEach); err != nil {
		t.Fatal(err)
	}
	client := c.GatewayClient()
	defer client.CloseIdleConnections()
	const secret, enough = "meshwatch-secret", 5
	ctx := ctxWithin(t, 2*soon)
	// From when on the rule holds is not known: record until there are enough new connections.
	var conversations []wire.Conversation
	var all []*wire.Stream
	err := await.Until(ctx, func() bool {
		capture, err := c.Capture(backend)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 * enough {
			if _, err := get(ctx, client, c.GatewayURL()+"/"+secret+"?backend.body=100", http.StatusOK); err != nil {
				t.Error(err)
			}
		}
		streams, err := capture.Stop()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, streams...)
		conversations = append(conversations, toPod(streams, backend)...)
		return len(conversations) >= enough
	})
	if err != nil {
		t.Fatalf("wait for connections: %v, there are %d", err, len(conversations))
	}
	probes := nodeEnd(backend)
	for _, s := range all { // also of connections that began before
		if s.From.Addr() != probes && s.To.Addr() != probes && (strings.Contains(string(s.Data), secret) || strings.Contains(string(s.Data), "HTTP/1.1")) {
			t.Errorf("%s → %s: clear text is on the wire", s.From, s.To)
		}
	}
	for _, v := range conversations {
		h, err := wire.ParseTLS(v.Client.Data, v.Server.Data)
		if err != nil {
			t.Error(err)
		} else if h.Version != tls.VersionTLS13 || h.SNI != "outbound_.80_.v1_.backend.demo.svc.cluster.local" || !slices.Contains(h.ALPN, "istio") {
			t.Errorf("version %x, SNI %s, ALPN %q", h.Version, h.SNI, h.ALPN)
		}
	}
	t.Logf("%d new connections, all TLS 1.3", len(conversations))
}

// nodeEnd is the address from which the node sends probes to a pod.
func nodeEnd(p Pod) netip.Addr {
	node, _ := nodeNumber(p.Node) //nolint:errcheck // then there is nothing to leave out
	return podNet(node).Addr().Next()
}

// toPod leaves out the node's probes, which come from no pod.
func toPod(streams []*wire.Stream, p Pod) []wire.Conversation {
	return slices.DeleteFunc(wire.Conversations(streams, p.IP), func(v wire.Conversation) bool { return v.Client.From.Addr() == nodeEnd(p) })
}

func testStrict(t *testing.T, c *Cluster) {
	backend := pod(t, c, Namespace, "app=backend,version=v1")
	client := c.GatewayClient() // from the node: no sidecar, so clear text
	defer client.CloseIdleConnections()
	_, err := get(t.Context(), client, "http://"+backend.IP.String()+":8080/", http.StatusOK)
	if err == nil {
		t.Fatal("a request in clear text from outside the mesh was answered")
	}
	if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "connection reset") {
		t.Errorf("a request in clear text ended with %v, want a reset", err)
	}
}
