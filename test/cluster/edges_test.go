package cluster

import (
	"fmt"
	"slices"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/edges"
	"github.com/meshwatch/meshwatch/test/await"
)

// strays are a pod without a sidecar, one whose sidecar leaves its app's port alone and for which mutual TLS is not STRICT, and a service that nobody
// is behind.
const strays = `
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "lab.local/app:lab", imagePullPolicy: IfNotPresent, args: [--name=bare, --port=8080]}]
---
apiVersion: v1
kind: Pod
metadata: {name: open, namespace: demo, labels: {app: open}, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: "8080"}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "lab.local/app:lab", imagePullPolicy: IfNotPresent, args: [--name=open, --port=8080]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: demo}
spec: {selector: {matchLabels: {app: open}}, mtls: {mode: PERMISSIVE}}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: demo}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

// testEdges lets traffic pass the mesh by, and looks at what `meshwatch topology edges` says of it.
func (c *Cluster) testEdges(t *testing.T, a *Agent) {
	t.Helper()
	var open Pod
	apply(t, c, strays, func() error {
		for _, name := range [][2]string{{"default", "bare"}, {Namespace, "open"}} {
			if err := c.WaitFor(t.Context(), name[0], "condition=Ready", soon, "pod/"+name[1]); err != nil {
				return err
			}
		}
		open = pod(t, c, Namespace, "app=open")
		if who, err := a.Who(t.Context(), open.IP.String()); err != nil || who.Workload == nil {
			return fmt.Errorf("the agent does not know %s: %w", open.IP, err)
		}
		return nil
	})
	v1 := pod(t, c, Namespace, "app=backend,version=v1")
	curl := func(to Pod) error {
		_, err := c.Exec(t.Context(), "default", "bare", "app", "fortio", "curl", "-quiet", "-timeout=2s", "http://"+to.IP.String()+":8080/stray")
		return err
	}
	c.awaitEdge(t, a, &wantedEdge{"bare", open.Name, edges.Plain, []edges.Kind{edges.Excluded}, ""}, func() {
		if err := curl(open); err != nil {
			t.Error(err)
		}
	})
	c.awaitEdge(t, a, &wantedEdge{"bare", v1.Name, edges.Plain, []edges.Kind{edges.Plaintext}, ""}, func() {
		if err := curl(v1); err == nil {
			t.Error("a sidecar took clear text, where mutual TLS is STRICT")
		}
	})
	if _, err := c.Kubectl(t.Context(), nil, "--namespace="+Namespace, "delete", "pod/open", "--wait"); err != nil {
		t.Fatal(err)
	}
	if err := await.Until(ctxWithin(t, soon), func() bool {
		who, err := a.Who(t.Context(), open.IP.String())
		return err == nil && who.Workload == nil
	}); err != nil {
		t.Fatalf("%v: the agent does not hear that a pod has gone", err)
	}
	if err := await.Until(ctxWithin(t, soon), func() bool { return curl(open) != nil }); err != nil { // its containers may go a little later
		t.Error("a pod that has gone answers")
	}
	c.awaitEdge(t, a, &wantedEdge{"bare", open.IP.String(), edges.Unknown, []edges.Kind{edges.Stale}, ""}, func() { _ = curl(open) }) //nolint:errcheck // nobody answers
	c.checkEdges(t, a, open, v1)
}

// awaitEdge sends requests until there is an edge of them: one may be missed, as others who load the machine are recorded, too.
func (c *Cluster) awaitEdge(t *testing.T, a *Agent, wanted *wantedEdge, send func()) {
	t.Helper()
	if err := await.Until(ctxWithin(t, soon), func() bool {
		send()
		seen, err := a.Edges(t.Context())
		return err == nil && slices.ContainsFunc(seen.Edges, func(e control.Edge) bool { return wanted.is(&e) })
	}); err != nil {
		status, e1 := a.Ask(t.Context(), "status")
		paths, e2 := a.Ask(t.Context(), "path")
		t.Errorf("%v: no edge %+v: %s %s %v, %v", err, wanted, status, paths, e1, e2)
	}
}

// wantedEdge is one that there must be.
type wantedEdge struct {
	client, server string // workload, or address
	security       edges.Security
	kinds          []edges.Kind
	routed         string
}

func (w *wantedEdge) is(e *control.Edge) bool {
	server := e.Server.Workload
	if server == "" {
		server = e.Server.Addr.String()
	}
	var kinds []edges.Kind
	for _, f := range e.Findings {
		kinds = append(kinds, f.Kind)
	}
	return e.Client.Workload == w.client && server == w.server && e.Security == w.security && slices.Equal(kinds, w.kinds) && e.Routed == w.routed
}

func (c *Cluster) checkEdges(t *testing.T, a *Agent, open, v1 Pod) {
	t.Helper()
	gateway, frontend := pod(t, c, GatewayNamespace, "istio=ingressgateway"), pod(t, c, Namespace, "app=frontend")
	wanted := []wantedEdge{
		{gateway.Name, frontend.Name, edges.TLS, nil, "yes"},
		{frontend.Name, v1.Name, edges.TLS, nil, "yes"},
		{"bare", open.Name, edges.Plain, []edges.Kind{edges.Bypass, edges.Unsure}, ""}, // what its annotations and labels were is gone with it
		{"bare", v1.Name, edges.Plain, []edges.Kind{edges.Plaintext}, ""},
		{"bare", open.IP.String(), edges.Unknown, []edges.Kind{edges.Stale}, ""},
	}
	var seen control.Edges
	err := await.Until(ctxWithin(t, soon), func() (all bool) {
		var err error
		seen, err = a.Edges(t.Context())
		all = err == nil && slices.ContainsFunc(seen.Empty, func(r control.EmptyRoute) bool { return r.Cluster == "outbound|80||empty.demo.svc.cluster.local" })
		for i := range wanted {
			all = all && slices.ContainsFunc(seen.Edges, func(e control.Edge) bool { return wanted[i].is(&e) })
		}
		return all
	})
	text, e := a.Ask(t.Context(), "topology", "edges")
	t.Logf("%v\n%s", e, text)
	if err != nil {
		t.Errorf("%v: wanted are %+v, and a route without endpoint; there are %+v", err, wanted, seen.Empty)
	}
	for _, e := range seen.Edges {
		// a kubelet may probe a pod once more after it has gone from the API
		odd := e.Client.Workload == "bare" || e.Client.Host && e.Server.Addr == open.IP
		if len(e.Findings) > 0 && !odd {
			t.Errorf("nothing is odd about %+v", e)
		}
	}
}
