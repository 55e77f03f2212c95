package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/kube"
)

// TestKubernetes follows a real API server as the service account of charts/rbac.yaml, which has exactly the rules that there are in it.
func TestKubernetes(t *testing.T) {
	want(t)
	testKubernetes(t, begin(t, Options{Nodes: 1}))
}

func testKubernetes(t *testing.T, c *Cluster) {
	role, err := c.Rights()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), role); err != nil {
			t.Error(err)
		}
	})
	f := c.followAPI(t)
	begun := time.Now()
	f.await(t, "everything read", func(s kube.Status) bool { return s.Ready && s.Connected })
	t.Logf("ready after %v, %d objects", time.Since(begun).Round(time.Millisecond), f.Status().Objects)
	if s := f.Status(); len(s.Missing) > 0 || s.Problem != "" {
		t.Errorf("%+v", s)
	}
	backend := pod(t, c, Namespace, "app=backend,version=v1")
	w, ok := f.builder.Store(1).Lookup(netip.AddrPortFrom(backend.IP, 8080), 1)
	if !ok || w.Name != backend.Name || w.Service != "backend" || w.Revision != "v1" || w.UID != backend.UID || w.Node != nodeName(1) {
		t.Errorf("the backend's address is %+v's", w)
	}
	for _, missing := range []string{"endpointslices", "peerauthentications", "pods"} {
		less := strings.NewReplacer("["+missing+"]", "[nothing]", ", "+missing, "").Replace(role)
		if err := c.Apply(t.Context(), less); err != nil {
			t.Fatal(err)
		}
		f := c.followAPI(t)
		f.await(t, "a sentence on "+missing, func(s kube.Status) bool {
			return s.Ready && len(s.Missing) == 1 && strings.Contains(s.Missing[0], "resources: ["+missing+"], verbs: [list, watch]")
		})
		if err := c.Apply(t.Context(), role); err != nil {
			t.Fatal(err)
		}
		f.await(t, missing+" read", func(s kube.Status) bool { return s.Ready && len(s.Missing) == 0 })
	}
}

// apiFollower is a client of the API server that runs until the test ends.
type apiFollower struct {
	*kube.Client
	builder *topology.Builder
}

// followAPI follows the API server as the agent's service account.
func (c *Cluster) followAPI(t *testing.T) apiFollower {
	t.Helper()
	token, err := c.AgentToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	clients, err := kube.ConnectTo(&rest.Config{
		Host: fmt.Sprintf("https://%s:%s", nodeAddr(1), apiPort), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: path("pki", "ca.crt")}, Dial: c.dialNode(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	b := topology.NewBuilder("", uint64(time.Minute))
	f := kube.New(kube.Settings{ClusterID: "Kubernetes"}, clients, kube.Options{
		Node: nodeName(1), Builder: b, Clock: func() uint64 { return 1 }, Changed: func(*topology.Store) {}, Lost: func(string, uint64) {}, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return apiFollower{Client: f, builder: b}
}

func (f apiFollower) await(t *testing.T, what string, ok func(kube.Status) bool) {
	t.Helper()
	if err := await.Until(ctxWithin(t, 2*soon), func() bool { return ok(f.Status()) }); err != nil {
		t.Fatal(fmt.Errorf("wait for %s: %w: %+v", what, err, f.Status()))
	}
}
