package meshwatch

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/topology/proxy"
	"github.com/meshwatch/meshwatch/topology/xds"
)

func TestRulesOfEdges(t *testing.T) {
	a, b, quiet := xds.Pod{Namespace: "demo", Name: "a"}, xds.Pod{Namespace: "demo", Name: "b"}, xds.Pod{Namespace: "demo", Name: "quiet"}
	rules := map[xds.Pod][]proxy.Rule{
		b:     {{Table: "80", Domains: []string{"x"}, Clusters: []string{"outbound|80||x", "outbound|80|v1|y"}, Empty: []string{"outbound|80|v1|y"}, Route: proxy.Route{Name: "r", Resource: proxy.Resource{Kind: "VirtualService", Namespace: "demo", Name: "x"}}}},
		a:     {{Table: "81", Domains: []string{"z"}, Clusters: []string{"outbound|81||z"}, Empty: []string{"outbound|81||z"}}},
		quiet: {},
	}
	want := []control.EmptyRoute{
		{Pod: "demo/a", Table: "81", Domains: []string{"z"}, Cluster: "outbound|81||z"},
		{Pod: "demo/b", Table: "80", Domains: []string{"x"}, Route: "r", Cluster: "outbound|80|v1|y", Resource: "VirtualService demo/x"},
	}
	if d := cmp.Diff(want, emptyOf(rules)); d != "" {
		t.Error(d)
	}
	hosts := hostsOf(rules)
	if h := hosts("demo/b"); !h["x"] || !h["y"] || h["z"] {
		t.Errorf("%v", h)
	}
	if hosts("demo/quiet") != nil || hosts("demo/none") != nil {
		t.Error("something is known of a proxy that was told nothing")
	}
}
