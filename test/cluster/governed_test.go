package cluster

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/await"
)

// received is a request at a proxy: by its id, and its connection's peer.
type received struct {
	id   string
	peer netip.AddrPort
}

// testGoverned compares what the agent's journeys say of routes to what the proxies log of the same requests.
func (c *Cluster) testGoverned(t *testing.T, a *control.Client) {
	t.Helper()
	if _, err := c.SendLoad(ctxWithin(t, soon), Load{Requests: 50, Connections: 2, Path: "/warm"}); err != nil {
		t.Fatal(err)
	}
	pods, err := c.MeshPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = await.Until(ctxWithin(t, soon), func() bool { // the agent asks for what a proxy is told when it first sees a request at it
		return !slices.ContainsFunc(pods, func(p Pod) bool {
			rules, err := a.Routes(t.Context(), p.Namespace, p.Name)
			return err != nil || len(rules) == 0
		})
	})
	if err != nil {
		t.Fatalf("%v: not all proxies are followed", err)
	}
	if _, err := c.SendLoad(ctxWithin(t, soon), Load{Requests: 500, Connections: 4, Path: "/governed"}); err != nil {
		t.Fatal(err)
	}
	logged := map[received]Access{}
	var routes, clusters score
	unknown := map[string]int{}
	err = await.Until(ctxWithin(t, soon), func() bool {
		clear(logged)
		for _, p := range pods {
			for _, a := range lines(t, p, func(a Access) bool { return a.Path == "/governed" }) {
				logged[received{a.RequestID, a.DownstreamDirect.AddrPort}] = a
			}
		}
		routes, clusters = c.governed(t, logged, unknown)
		return routes.lines >= 750 // of 500 requests at three sidecars (the gateway's clients send no id) half; how many are joined is for others to test
	})
	t.Logf("%d lines of the proxies; of those with a journey: routes: %s; clusters: %s; unknown: %v", len(logged), routes.String(), clusters.String(), unknown)
	if err != nil || routes.wrong+clusters.wrong > 0 || routes.said < routes.lines*9/10 {
		t.Errorf("%v: too little is said, or wrong", err)
	}
}

// governed counts the exchanges of the agent's journeys that are in the access logs.
func (c *Cluster) governed(t *testing.T, logged map[received]Access, unknown map[string]int) (routes, clusters score) {
	t.Helper()
	log, err := os.ReadFile(path("logs", nodeName(1)+"-meshwatch.log"))
	if err != nil {
		t.Fatal(err)
	}
	clear(unknown)
	for line := range bytes.Lines(log) {
		j, err := report.Decode(line)
		if err != nil {
			continue
		}
		for _, e := range j.Exchanges {
			a, ok := logged[received{e.RequestID, e.Leg.Server.Peer}]
			if !ok || e.Leg.Server.Process != "envoy" {
				continue
			}
			route, cluster := "", ""
			if g := e.Governance; g != nil {
				route, cluster = g.Route, g.Cluster
				unknown[g.Unknown]++
			} else {
				unknown["nothing"]++
			}
			wrong := routes.add(route, a.Route)
			if wrong = clusters.add(cluster, a.Cluster) || wrong; wrong {
				t.Errorf("%+v is said to be %+v", a, e.Governance)
			}
		}
	}
	return routes, clusters
}
