package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/tree"
)

// The agent on a node of a real mesh, whose sidecars speak mutual TLS to each other: a request's legs are joined from the gateway to the
// last app, and named by what a real istiod says.
func TestMeshwatch(t *testing.T) {
	want(t)
	c := begin(t, Options{Nodes: 1})
	a := c.observe(t)
	ctx := ctxWithin(t, time.Minute)
	var last string
	err := await.Until(ctx, func() bool {
		s, err := a.Status(ctx)
		last = fmt.Sprintf("%+v %+v %v", s.Topology, s.TLS, err)
		return err == nil && s.Recording && s.Topology.Connected && s.Topology.Addresses > 3 &&
			slices.ContainsFunc(s.TLS, func(b probe.Binary) bool { return b.Writes && strings.HasSuffix(b.Path, "/envoy") })
	})
	if err != nil {
		t.Fatalf("%v: %s", err, last)
	}
	names := []string{"istio-ingressgateway", "frontend", "frontend", "backend", "backend"}
	var seen [][]string
	err = await.Until(ctx, func() bool {
		resp, err := c.GatewayClient().Get(c.GatewayURL())
		if err != nil {
			last = err.Error()
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body) //nolint:errcheck // what counts are journeys
		_ = resp.Body.Close()
		seen = c.callees(t)
		return slices.ContainsFunc(seen, func(got []string) bool { return isSubsequence(names, got) })
	})
	if err != nil {
		t.Errorf("%v: no journey through %v, only %v; %s", err, names, seen, last)
	}
}

// observe runs the agent on the first node until the cluster is taken down.
func (c *Cluster) observe(t *testing.T) *control.Client {
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
	istiod, err := c.Pod(context.Background(), "istio-system", "app=istiod")
	if err != nil {
		t.Fatal(err)
	}
	socket, file := filepath.Join(dir, "sock"), filepath.Join(dir, "agent.yaml")
	config := fmt.Sprintf("topology: {xds: {address: \"%s:15010\", security: plaintext}}\ncontrol: {socket: %s}\nmetrics: {listen: \"\"}\noutput: json\nbudget: {agent: 0, recorder: 0}\n",
		istiod.IP, socket)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.serve(1, "meshwatch", bin, "agent", "--config", file); err != nil {
		t.Fatal(err)
	}
	return control.NewClient(socket)
}

// callees are who was asked on each leg of each journey so far.
func (c *Cluster) callees(t *testing.T) (out [][]string) {
	t.Helper()
	log, err := os.ReadFile(path("logs", nodeName(1)+"-meshwatch.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		if !bytes.HasPrefix(line, []byte("{")) {
			continue
		}
		j, err := report.Decode(line)
		if err != nil {
			continue // not whole yet
		}
		var names []string
		for _, e := range j.Exchanges {
			names = append(names, e.Leg.Server.Workload.Name)
		}
		out = append(out, names)
	}
	return out
}

// isSubsequence says whether all words stand in a list, in order.
func isSubsequence(words, list []string) bool {
	for _, w := range list {
		if len(words) > 0 && strings.HasPrefix(w, words[0]) {
			words = words[1:]
		}
	}
	return len(words) == 0
}
