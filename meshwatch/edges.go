package meshwatch

import (
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/edges"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/topology/proxy"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// edgesKeep is for how long an edge that is not seen any more is kept when there is no room.
const edgesKeep = uint64(time.Hour)

// began notes that a connection was seen. It is of the loop.
func (a *Agent) began(f *bpf.Flight, b join.Bytes, by join.Opener) {
	if c, ok := a.observer.Connection(f, b, by); ok {
		a.edges.Add(&c)
	}
}

// Edges are who talks to whom, beside what is configured.
func (a *Agent) Edges() control.Edges {
	rules := map[xds.Pod][]proxy.Rule{}
	if a.governor != nil {
		for _, p := range a.xds.Proxies() {
			rules[p.Pod] = a.governor.rules(a.xds.Config(p.Pod))
		}
	}
	judged := edges.Judge(a.edges.List(), edges.Mesh{Store: a.names.Store(), Hosts: hostsOf(rules)})
	out := control.Edges{Edges: make([]control.Edge, 0, len(judged)), Empty: emptyOf(rules)}
	for i := range judged {
		e := &judged[i]
		out.Edges = append(out.Edges, control.Edge{Judged: *e, First: a.clock.Wall(e.Edge.First), Last: a.clock.Wall(e.Edge.Last)})
	}
	return out
}

// hostsOf are the services that each followed proxy has routes to.
func hostsOf(rules map[xds.Pod][]proxy.Rule) func(pod string) map[string]bool {
	all := map[string]map[string]bool{}
	for pod, list := range rules {
		if len(list) == 0 {
			continue // it was told nothing yet
		}
		hosts := map[string]bool{}
		for i := range list {
			for _, cluster := range list[i].Clusters {
				hosts[cluster[strings.LastIndex(cluster, "|")+1:]] = true
			}
		}
		all[pod.Namespace+"/"+pod.Name] = hosts
	}
	return func(pod string) map[string]bool { return all[pod] }
}

// emptyOf are routes to clusters of which a proxy was told that they have no endpoint.
func emptyOf(rules map[xds.Pod][]proxy.Rule) []control.EmptyRoute {
	out := []control.EmptyRoute{}
	for pod, list := range rules {
		for i := range list {
			for _, cluster := range list[i].Empty {
				r := ruleOf(&list[i])
				out = append(out, control.EmptyRoute{Pod: pod.Namespace + "/" + pod.Name, Table: r.Table, Domains: r.Domains, Route: r.Name, Cluster: cluster, Resource: r.Resource})
			}
		}
	}
	control.SortEmpty(out)
	return out
}
