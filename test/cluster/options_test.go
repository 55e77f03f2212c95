package cluster

import (
	"bufio"
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/tree"
	"github.com/meshwatch/meshwatch/test/wire"
)

// TestTransparent: TPROXY, DNS capture and HTTP/2 between sidecars, at once.
func TestTransparent(t *testing.T) {
	want(t)
	c := begin(t, Options{Nodes: 1, TPROXY: true, DNSCapture: true, H2Upgrade: true})
	client := c.GatewayClient()
	defer client.CloseIdleConnections()
	if _, err := get(t.Context(), client, c.GatewayURL()+"/transparent", http.StatusOK); err != nil {
		t.Fatal(err)
	}
	frontend := pod(t, c, Namespace, "app=frontend")
	var seen []Access
	err := await.Until(ctxWithin(t, soon), func() bool {
		pods, err := c.Pods(t.Context(), Namespace, "app=backend")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			seen = append(seen, lines(t, p, func(a Access) bool { return a.Inbound() && a.Path == "/transparent" })...)
		}
		return len(seen) > 0
	})
	if err != nil {
		t.Fatalf("wait for the backend's access log: %v", err)
	}
	if a := seen[0]; a.UpstreamLocal.Addr() != frontend.IP || a.DownstreamDirect.Addr() != frontend.IP {
		t.Errorf("the backend's app is called from %s by %s, want both to be the frontend, %s", a.UpstreamLocal, a.DownstreamDirect, frontend.IP)
	}
	if a := seen[0]; a.Protocol != "HTTP/2" {
		t.Errorf("the sidecars talk %s", a.Protocol)
	}
	testCapturedDNS(t, c, frontend)
}

// outside is a name that only sidecars know: a cluster's DNS has no service entries.
const outside = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: demo}
spec:
  hosts: [outside.example]
  addresses: [240.0.0.9]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  workloadSelector: {labels: {app: backend, version: v1}}
`

func testCapturedDNS(t *testing.T, c *Cluster, frontend Pod) {
	apply(t, c, outside, func() error {
		_, err := c.Exec(t.Context(), Namespace, frontend.Name, "app", "fortio", "curl", "-quiet", "http://outside.example/")
		return err
	})
}

// TestTunnels: sidecars reach each other by HBONE alone.
func TestTunnels(t *testing.T) {
	want(t)
	c := begin(t, Options{Nodes: 1, HBONE: true})
	backend := pod(t, c, Namespace, "app=backend,version=v1")
	capture, err := c.Capture(backend)
	if err != nil {
		t.Fatal(err)
	}
	// A new frontend makes new tunnels. The old one must be gone: requests that still go there fail as it ends.
	old := pod(t, c, Namespace, "app=frontend")
	if _, err := c.Kubectl(t.Context(), nil, "--namespace="+Namespace, "rollout", "restart", "deployment/frontend"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitRollout(t.Context(), Namespace, "deployment/frontend"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(t.Context(), Namespace, "delete", soon, "pod/"+old.Name); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	const requests = 200
	loaded, err := c.SendLoad(t.Context(), Load{Requests: requests, Connections: 4, Path: "/tunnels"})
	if err != nil || loaded.Codes[http.StatusOK] != requests {
		t.Fatalf("send load: %v, answers by status %v", err, loaded.Codes)
	}
	streams, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	frontend := pod(t, c, Namespace, "app=frontend")
	const tunnelPort = 15008
	var tunnels int
	for _, s := range streams {
		if s.From.Addr() == frontend.IP && s.To.Port() != tunnelPort {
			t.Errorf("%s → %s is not a tunnel", s.From, s.To)
		}
	}
	for _, v := range toPod(streams, backend) {
		h, err := wire.ParseTLS(v.Client.Data, v.Server.Data)
		if err != nil {
			t.Error(err)
		} else if !slices.Equal(h.ALPN, []string{"h2"}) || h.SNI != "" {
			t.Errorf("a tunnel has SNI %q, ALPN %q", h.SNI, h.ALPN)
		}
		tunnels++
	}
	if tunnels == 0 {
		t.Error("no tunnel was made")
	}
	testTunnelLogs(t, c, frontend, requests)
}

// testTunnelLogs: the ends' lines match by id; neither knows the connection.
func testTunnelLogs(t *testing.T, c *Cluster, frontend Pod, requests int) {
	backends, err := c.Pods(t.Context(), Namespace, "app=backend")
	if err != nil {
		t.Fatal(err)
	}
	ours := func(a Access) bool { return a.Path == "/tunnels" }
	var lost int
	err = await.Until(ctxWithin(t, soon), func() bool {
		ids := map[string]bool{}
		for _, p := range backends {
			for _, a := range lines(t, p, ours) {
				ids[a.RequestID] = true
			}
		}
		lost = requests
		for _, a := range lines(t, frontend, func(a Access) bool { return ours(a) && !a.Inbound() }) {
			if ids[a.RequestID] && !a.UpstreamLocal.IsValid() {
				lost--
			}
		}
		return lost == 0
	})
	if err != nil {
		t.Errorf("%d of %d lines of the frontend have none at a backend: %v", lost, requests, err)
	}
}

// TestCrash: what a builder leaves that is killed half way is removed completely.
func TestCrash(t *testing.T) {
	want(t)
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "cluster")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin, "./test/cluster/cmd/cluster")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before := empty(t)
	for _, c := range []struct {
		phase  string
		signal syscall.Signal
	}{{"API server", syscall.SIGKILL}, {"API server", syscall.SIGINT}, {"node n2", syscall.SIGKILL}} { // the images of a node; all of two nodes
		said := crash(t, bin, root, c.phase, c.signal)
		if _, err := Open(); err == nil {
			t.Error("half a cluster passes for one that is ready")
		}
		if left := exists(stateDir); left != (c.signal == syscall.SIGKILL) {
			t.Errorf("after %s the state is there: %t", c.signal, left)
		}
		if c.signal == syscall.SIGINT {
			if !strings.Contains(said, "interrupt") {
				t.Errorf("after %s the builder did not say what it was about: %s", c.signal, said)
			}
		} else if err := Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		unchanged(t, before)
	}
	if err := Down(context.Background()); err != nil {
		t.Errorf("taking down what is not there: %v", err)
	}
}

// crash starts to build a cluster, sends the builder a signal after a phase, and returns what it said after that.
func crash(t *testing.T, bin, root, phase string, signal syscall.Signal) string {
	t.Helper()
	cmd := exec.Command(bin, "up", "--nodes=2")
	cmd.Dir = root
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctxWithin(t, 2*partWithin), func() { _ = cmd.Process.Kill() })
	defer stop()
	said, reached := bufio.NewScanner(out), false
	for !reached && said.Scan() {
		reached = strings.Contains(said.Text(), "cluster: "+phase)
	}
	if !reached {
		t.Errorf("the builder ended before phase %q", phase)
	}
	_ = cmd.Process.Signal(signal)
	var last strings.Builder
	for said.Scan() {
		last.WriteString(said.Text() + "\n")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the builder came to its end")
	}
	return last.String()
}
