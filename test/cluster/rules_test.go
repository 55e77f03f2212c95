package cluster

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
)

// rules are by path: what the frontend is asked for, it asks its backend for.
const rules = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: backend, namespace: demo}
spec:
  hosts: [backend.demo.svc.cluster.local, backend]
  http:
    - name: retry
      match: [{uri: {prefix: /rule-retry}}]
      retries: {attempts: 2, perTryTimeout: 2s, retryOn: 5xx, backoff: 10ms}
      route: [{destination: {host: backend.demo.svc.cluster.local, subset: v1}}]
    - name: timeout
      match: [{uri: {prefix: /rule-timeout}}]
      timeout: 0.3s
      retries: {attempts: 0}
      route: [{destination: {host: backend.demo.svc.cluster.local, subset: v1}}]
    - name: abort
      match: [{uri: {prefix: /rule-abort}}, {uri: {prefix: /first-abort}}] # the other is for waiting
      fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: backend.demo.svc.cluster.local, subset: v1}}]
    - name: delay
      match: [{uri: {prefix: /rule-delay}}]
      fault: {delay: {fixedDelay: 0.2s, percentage: {value: 100}}}
      route: [{destination: {host: backend.demo.svc.cluster.local, subset: v1}}]
    - name: other
      route: [{destination: {host: backend.demo.svc.cluster.local, subset: v2}}]
`

func testRules(t *testing.T, c *Cluster) {
	restore(t, c)
	if err := c.Apply(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	client := c.GatewayClient()
	defer client.CloseIdleConnections()
	frontend, v1 := pod(t, c, Namespace, "app=frontend"), pod(t, c, Namespace, "app=backend,version=v1")
	ctx := ctxWithin(t, soon)
	err := await.Until(ctx, func() bool { // 418 of the backend is 502 of the frontend
		_, err := get(ctx, client, c.GatewayURL()+"/first-abort", http.StatusBadGateway)
		return err == nil
	})
	if err != nil {
		t.Fatalf("wait for the rules: %v", err)
	}
	for _, r := range []rule{
		{"retry", "backend.status=503", http.StatusBadGateway, 503, "URX", 3, 3, 503, 0},
		{"timeout", "backend.sleep=2s", http.StatusBadGateway, 504, "UT", 1, 1, 0, 300 * time.Millisecond},
		{"abort", "", http.StatusBadGateway, 418, "FI", 0, 0, 0, 0},
		{"delay", "", http.StatusOK, 200, "DI", 1, 1, 200, 200 * time.Millisecond},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := get(t.Context(), client, c.GatewayURL()+"/rule-"+r.name+"?"+r.query, r.status); err != nil {
				t.Fatal(err)
			}
			r.check(t, frontend, v1)
		})
	}
}

// rule is a request, and what the access logs must say of it.
type rule struct {
	name, query     string
	status          int // of the frontend
	code            int // of the backend in the frontend's log
	flags           string
	attempts, lines int // at the caller, and lines at the callee
	calleeCode      int
	least           time.Duration
}

// check waits for the lines of the rule's request, the last of its path.
func (r rule) check(t *testing.T, frontend, backend Pod) {
	t.Helper()
	var caller, callee []Access
	ours := func(a Access) bool { return strings.HasPrefix(a.Path, "/rule-"+r.name) }
	err := await.Until(ctxWithin(t, soon), func() bool {
		caller = lines(t, frontend, func(a Access) bool { return ours(a) && !a.Inbound() })
		callee = lines(t, backend, func(a Access) bool { return ours(a) && a.Inbound() })
		return len(caller) > 0 && len(callee) >= r.lines
	})
	if err != nil {
		t.Fatalf("wait for the access log: %v: %+v %+v", err, caller, callee)
	}
	got := caller[len(caller)-1]
	if got.Code != r.code || !strings.Contains(got.Flags, r.flags) || got.Attempts != r.attempts || len(callee) != r.lines {
		t.Errorf("caller: code %d, flags %s, %d attempts, %d lines at the callee; want %d, %s, %d, %d",
			got.Code, got.Flags, got.Attempts, len(callee), r.code, r.flags, r.attempts, r.lines)
	}
	const early = 5 * time.Millisecond // of Envoy's timers
	if took := time.Duration(got.DurationMS) * time.Millisecond; took < r.least-early {
		t.Errorf("it took %s, want %s at least", took, r.least)
	}
	for _, a := range callee {
		if a.RequestID != got.RequestID || a.Code != r.calleeCode {
			t.Errorf("callee: code %d, request %s; want %d, %s", a.Code, a.RequestID, r.calleeCode, got.RequestID)
		}
	}
}
