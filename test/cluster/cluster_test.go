package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
)

// want says whether the tests that build clusters run: they take minutes, so `make test` leaves them to `make test-cluster`.
func want(t *testing.T) {
	t.Helper()
	if os.Getenv("MESHWATCH_TEST_CLUSTER") != "1" {
		t.Skip("builds clusters: run make test-cluster")
	}
	if err := Missing(); err != nil {
		t.Fatal(err)
	}
}

// running ends when the tests are interrupted.
var running, interrupt = context.WithCancel(context.Background())

// TestMain takes the cluster down, too, when the tests are interrupted, which ends them without their cleanups.
func TestMain(m *testing.M) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		interrupt()
		fmt.Fprintln(os.Stderr, s, Down(context.Background()))
		os.Exit(1)
	}()
	os.Exit(m.Run())
}

// begin builds a cluster for a test, and takes it down after it. The machine must be as it was before, and no proxy may have
// refused what istiod told it.
func begin(t *testing.T, opts Options) *Cluster {
	t.Helper()
	before := empty(t)
	c, err := Up(running, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		refused(t)
		if err := Down(context.Background()); err != nil {
			t.Error(err)
		}
		unchanged(t, before)
	})
	return c
}

// empty returns the machine without a cluster: what one left that was killed earlier would be missed after the test. One that
// somebody builds meanwhile stays.
func empty(t *testing.T) Snapshot {
	t.Helper()
	unlock, err := lock(running)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if c, err := Open(); err == nil {
		t.Fatalf("a cluster is up (%+v); tests have their own, take it down first: make cluster-down", c.Options)
	}
	if err := down(running); err != nil {
		t.Fatal(err)
	}
	before, err := TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	return before
}

// unchanged checks that the machine is as it was. What goes by itself within seconds was somebody else's: nobody is left to
// remove what the cluster leaves.
func unchanged(t *testing.T, before Snapshot) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon) // the test's own ends before its cleanups
	defer cancel()
	var left []string
	_ = await.Until(ctx, func() bool { //nolint:errcheck // left says it
		after, err := TakeSnapshot()
		if err != nil {
			t.Fatal(err)
		}
		left = before.Diff(after)
		return len(left) == 0
	})
	for _, line := range left {
		t.Errorf("left is %s", line)
	}
}

// refused looks for configuration that a proxy did not take, in what istiod says, which it returns.
func refused(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(path("n*", "pods", "istio-system_istiod-*", "discovery", "*.log"))
	if err != nil || len(files) == 0 {
		t.Errorf("find istiod's logs: %v, there are %d", err, len(files))
	}
	var said strings.Builder
	for _, file := range files {
		log, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		said.Write(log)
	}
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "ACK ERROR") {
			t.Errorf("a proxy refused its configuration: %s", line)
		}
	}
	return said.String()
}

// soon is how long a test waits for something that takes a second or two.
const soon = 30 * time.Second

func ctxWithin(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestCluster proves the lab on two nodes, one of each cgroup layout.
func TestCluster(t *testing.T) {
	want(t)
	c := begin(t, Options{Nodes: 2})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Cluster)
	}{
		{"injection", testInjection},
		{"mutual TLS on the wire", testWire},
		{"clear text is refused", testStrict},
		{"service addresses across nodes", testServices},
		{"access logs of both ends", testAccessLogs},
		{"rules of virtual services", testRules},
		{"exec", testExec},
		{"cgroup layouts", testLayouts},
		{"tokens expire", testTokens},
		{"istiod dies", testIstiod},
		{"a pod freezes", testFreeze},
		{"a node is drained", testDrain},
		{"up again", testAgain},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

func pod(t *testing.T, c *Cluster, namespace, selector string) Pod {
	t.Helper()
	p, err := c.Pod(t.Context(), namespace, selector)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func testInjection(t *testing.T, c *Cluster) {
	pods, err := c.Pods(t.Context(), Namespace, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(pods) != 3 {
		t.Errorf("%d pods, want 3", len(pods))
	}
	for _, p := range pods {
		if !slices.Equal(p.Containers, []string{"istio-proxy", "app"}) {
			t.Errorf("pod %s has containers %v, want istio-proxy before app", p.Name, p.Containers)
		}
		if ns, err := p.Netns(); err != nil || !exists(ns) {
			t.Errorf("pod %s: network namespace %s, %v", p.Name, ns, err)
		}
		for _, program := range []string{"app", "pilot-agent", "envoy"} {
			if _, err := p.Process(program); err != nil {
				t.Error(err)
			}
		}
	}
	if !strings.Contains(refused(t), "ADS: new delta connection") {
		t.Error("istiod does not log proxies' connections, and so not what they refuse")
	}
}

// apply applies a manifest for the time of a test, and waits until istiod has sent what follows from it: condition.
func apply(t *testing.T, c *Cluster, manifest string, condition func() error) {
	t.Helper()
	if err := c.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), manifest); err != nil {
			t.Error(err)
		}
	})
	var last error
	if err := await.Until(ctxWithin(t, soon), func() bool { last = condition(); return last == nil }); err != nil {
		t.Fatalf("wait for a manifest to take effect: %v: %v", err, last)
	}
}

// restore applies the demo's own objects again, which a test has changed.
func restore(t *testing.T, c *Cluster) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.installApps(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// plain is a server outside of the mesh, on the last node, of an image that the test brings.
const plain = `
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: default, labels: {app: plain}}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "lab.local/plain:test", imagePullPolicy: IfNotPresent, args: [--name=plain, --port=8080]}]
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: default}
spec: {selector: {app: plain}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

func testServices(t *testing.T, c *Cluster) {
	img, err := c.describe("app")
	if err != nil {
		t.Fatal(err)
	}
	img.Name = "lab.local/plain:test"
	file := filepath.Join(t.TempDir(), "plain.tar")
	if err := errors.Join(WriteImage(file, img), c.Load(t.Context(), file)); err != nil {
		t.Fatal(err)
	}
	client := c.GatewayClient()
	defer client.CloseIdleConnections()
	var service struct{ Spec struct{ ClusterIP string } }
	apply(t, c, plain, func() error {
		if err := c.Get(t.Context(), &service, "service/plain", "--namespace=default"); err != nil {
			return err
		}
		_, err := get(t.Context(), client, "http://"+service.Spec.ClusterIP+"/", http.StatusOK) // from node n1 to a pod on n2
		return err
	})
	// By name, through CoreDNS and a service address, from a pod on the first node that has a sidecar.
	v1 := pod(t, c, Namespace, "app=backend,version=v1")
	out, err := c.Exec(t.Context(), Namespace, v1.Name, "app", "fortio", "curl", "-quiet", "http://plain.default.svc.cluster.local/")
	if err != nil || !strings.Contains(string(out), "plain ok") {
		t.Errorf("by name from %s: %v: %s", v1.Name, err, out)
	}
	if p := pod(t, c, "default", "app=plain"); p.Node == v1.Node {
		t.Errorf("both pods are on node %s", p.Node)
	}
	if out, err := c.Run(t.Context(), 2, "iptables-save", "--table=nat"); err != nil || !strings.Contains(string(out), "default/plain:http") {
		t.Errorf("kube-proxy's rules on node n2 do not have the service: %v", err)
	}
}

func testAccessLogs(t *testing.T, c *Cluster) {
	const requests = 1000
	loaded, err := c.SendLoad(t.Context(), Load{Requests: requests, Connections: 8, Path: "/access-logs"})
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Codes[http.StatusOK] != requests {
		t.Fatalf("answers by status: %v, want %d of 200", loaded.Codes, requests)
	}
	pods, err := c.MeshPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ours := func(a Access) bool { return a.Path == "/access-logs" }
	var callers, callees []Access
	err = await.Until(ctxWithin(t, soon), func() bool {
		callers, callees, err = Collect(pods, ours)
		return err != nil || len(callers) >= 2*requests && len(callees) >= 2*requests
	})
	if err != nil {
		t.Fatalf("wait for access logs: %v: %d lines of callers, %d of callees", err, len(callers), len(callees))
	}
	matched, lost := Match(callers, callees)
	if matched != 2*requests || len(lost) > 0 || len(callees) != 2*requests {
		t.Errorf("%d of %d lines of callers have their line at the callee (%d lines), lost %d, such as %+v",
			matched, len(callers), len(callees), len(lost), lost[:min(1, len(lost))])
	}
	versions := map[string]int{}
	for _, a := range append(callers, callees...) {
		if strings.Contains(a.Cluster, "|v") {
			versions[strings.Split(a.Cluster, "|")[2]]++
		}
		if a.Inbound() && (a.DownstreamTLS != "TLSv1.3" || !strings.HasPrefix(a.DownstreamPeer, "spiffe://cluster.local/ns/")) {
			t.Fatalf("an app's sidecar took a request by %q from %q", a.DownstreamTLS, a.DownstreamPeer)
		}
	}
	if versions["v1"] < requests/4 || versions["v2"] < requests/4 || versions["v1"]+versions["v2"] != requests {
		t.Errorf("requests by version of backend: %v, want about as many", versions)
	}
}

func lines(t *testing.T, p Pod, choose func(Access) bool) []Access {
	t.Helper()
	var chosen []Access
	for a, err := range p.AccessLog() {
		if err != nil {
			t.Fatal(err)
		}
		if choose(a) {
			chosen = append(chosen, a)
		}
	}
	return chosen
}
