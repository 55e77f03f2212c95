package cluster

import (
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/tree"
)

// The agent on a node of a real mesh, whose sidecars speak mutual TLS to each other: a request's legs are joined from the gateway to the
// last app, and named by what a real istiod and a real API server say, which is one pod for both.
func TestMeshwatch(t *testing.T) {
	want(t)
	c := begin(t, Options{Nodes: 1})
	t.Run("journeys and topology", func(t *testing.T) { testMeshwatch(t, c) })
	t.Run("away and back", func(t *testing.T) { testAway(t, c) })
}

func testMeshwatch(t *testing.T, c *Cluster) {
	installGatewayAPI(t, c)
	a := c.observe(t)
	ctx := ctxWithin(t, time.Minute)
	if err := a.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := a.Status(ctx); err != nil || len(s.Kubernetes.Missing) > 0 {
		t.Errorf("%+v, %v", s.Kubernetes, err)
	}
	// the gateway's first leg has no id to be joined by: until the gateway was seen to keep what it is asked, journeys begin behind it
	through := "istio-ingressgateway, frontend tls, frontend, frontend, backend tls, backend"
	var last string
	var seen []string
	err := await.Until(ctx, func() bool {
		resp, err := c.GatewayClient().Get(c.GatewayURL())
		if err != nil {
			last = err.Error()
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body) //nolint:errcheck // what counts are journeys
		_ = resp.Body.Close()
		seen = a.callees(t)
		return slices.Contains(seen, through)
	})
	if err != nil {
		t.Errorf("%v: no journey through %s, only %q; %s", err, through, seen, last)
	}
	c.testGoverned(t, a)
	c.testGatewayRoute(t, a)
	c.testTopology(t, a)
	c.testEdges(t, a)
}

// testTopology asks as `meshwatch topology` does: who has an address, what is behind a service, and what a sidecar was told.
func (c *Cluster) testTopology(t *testing.T, a *Agent) {
	t.Helper()
	ctx := ctxWithin(t, time.Minute)
	pod, err := c.Pod(ctx, "demo", "app=frontend")
	if err != nil {
		t.Fatal(err)
	}
	who, err := a.Who(ctx, pod.IP.String())
	if err != nil || who.Workload == nil || who.Workload.Name != pod.Name || who.Workload.Service != "frontend" || who.Workload.Node != nodeName(1) {
		t.Errorf("who has %s: %+v, %v; want pod %s", pod.IP, who.Workload, err, pod.Name)
	}
	mesh, err := a.Mesh(ctx)
	if err != nil || !slices.ContainsFunc(mesh.Services, func(s control.Service) bool {
		return s.Host == "backend.demo.svc.cluster.local" && s.Workloads == 2 && len(s.Addresses) == 1
	}) {
		t.Errorf("no service backend with two workloads: %+v, %v", mesh.Services, err)
	}
	rules, err := a.Routes(ctx, "demo", pod.Name)
	if err != nil || !slices.ContainsFunc(rules, func(r control.Rule) bool {
		return slices.Contains(r.Domains, "backend.demo.svc.cluster.local") && r.Resource == "VirtualService demo/backend" && len(r.Clusters) == 2 && len(r.Empty) == 0
	}) {
		t.Errorf("no route to backend's two versions: %+v, %v", rules, err)
	}
}

// observe runs the agent on the first node until the test ends.
func (c *Cluster) observe(t *testing.T, captures ...string) *Agent {
	t.Helper()
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "meshwatch")
	build := exec.Command("go", "build", "-o", bin, "./cmd/meshwatch")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a, err := c.StartAgent(t.Context(), bin, dir, captures...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := a.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return a
}

// callees are who was asked on the legs of each journey so far, by the name of their spans.
func (a *Agent) callees(t *testing.T) (out []string) {
	t.Helper()
	for j, err := range a.Journeys() {
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range j.Exchanges {
			name := e.Leg.Server.Workload.Service
			if e.TLS {
				name += " tls"
			}
			names = append(names, name)
		}
		out = append(out, strings.Join(names, ", "))
	}
	return out
}
