package cluster

import (
	"fmt"
	"testing"

	"github.com/meshwatch/meshwatch/test/await"
)

// testGoverned compares what the agent's journeys say of routes to what the proxies log of the same requests.
func (c *Cluster) testGoverned(t *testing.T, a *Agent) {
	t.Helper()
	if _, err := c.SendLoad(ctxWithin(t, soon), Load{Requests: 50, Connections: 2, Path: "/warm"}); err != nil {
		t.Fatal(err)
	}
	pods, err := c.MeshPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.WaitFollowed(ctxWithin(t, soon), pods); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SendLoad(ctxWithin(t, soon), Load{Requests: 500, Connections: 4, Path: "/governed"}); err != nil {
		t.Fatal(err)
	}
	var logged map[Received]Logged
	var g governed
	err = await.Until(ctxWithin(t, soon), func() bool {
		logged, err = ReceivedBy(pods, func(a Access) string {
			if a.Path != "/governed" {
				return ""
			}
			return a.RequestID
		})
		if err != nil {
			t.Fatal(err)
		}
		g = a.governed(t, logged)
		return g.routes.Lines >= 750 // of 500 requests at three sidecars (the gateway's clients send no id) half; how many are joined is for others to test
	})
	t.Logf("%d lines of the proxies; of those with a journey: routes: %s; clusters: %s; unknown: %v", len(logged), g.routes.String(), g.clusters.String(), g.unknown)
	for _, why := range g.wrong[:min(len(g.wrong), 20)] {
		t.Error(why)
	}
	if err != nil || g.routes.Said < g.routes.Lines*9/10 {
		t.Errorf("%v: too little is said", err)
	}
}

// governed is what journeys say of the lines of access logs.
type governed struct {
	routes, clusters Score
	unknown          map[string]int // why, by reason
	wrong            []string
}

// governed compares the agent's journeys so far to access logs.
func (a *Agent) governed(t *testing.T, logged map[Received]Logged) governed {
	t.Helper()
	g := governed{unknown: map[string]int{}}
	for j, err := range a.Journeys() {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range j.Exchanges {
			line, ok := logged[Received{e.RequestID, e.Leg.Server.Peer}]
			if !ok || e.Leg.Server.Process != "envoy" {
				continue
			}
			route, cluster := "", ""
			if said := e.Governance; said != nil {
				route, cluster = said.Route, said.Cluster
				g.unknown[said.Unknown]++
			} else {
				g.unknown["nothing"]++
			}
			wrong := g.routes.Add(route, line.Route)
			if wrong = g.clusters.Add(cluster, line.Cluster) || wrong; wrong {
				g.wrong = append(g.wrong, fmt.Sprintf("%+v is said to be %+v", line.Access, e.Governance))
			}
		}
	}
	return g
}
