package meshwatch

import (
	"maps"
	"slices"
	"sync"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/proxy"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// told is a control plane that can be asked what proxies are told.
type told interface {
	Follow([]xds.Proxy)
	Lookup(xds.Pod, *proxy.Request, uint64) proxy.Answer
	Proxies() []xds.ProxyStatus
}

// governor asks what the proxies of this node are told at which requests are seen: from the first request on, and as long as the
// topology has their pods. The first journeys of a proxy say nothing of routes.
type governor struct {
	client told

	mu      sync.Mutex
	pods    map[xds.Pod]*topology.Entry // of the topology
	proxies map[xds.Pod]xds.Proxy       // that are followed
}

func newGovernor(client told) *governor {
	return &governor{client: client, pods: map[xds.Pod]*topology.Entry{}, proxies: map[xds.Pod]xds.Proxy{}}
}

// Govern says what governed a request that a workload's proxy received.
func (g *governor) Govern(w *journey.Workload, r *proxy.Request, at uint64) proxy.Answer {
	pod := xds.Pod{Namespace: w.Namespace, Name: w.Name}
	g.follow(pod, r.Direction == proxy.Gateway)
	return g.client.Lookup(pod, r, at)
}

func (g *governor) follow(pod xds.Pod, gateway bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, followed := g.proxies[pod]; followed {
		return
	}
	if e := g.pods[pod]; e != nil && len(e.Addresses) > 0 {
		g.proxies[pod] = proxyOf(pod, e, gateway)
		g.client.Follow(slices.Collect(maps.Values(g.proxies)))
	}
}

func proxyOf(pod xds.Pod, e *topology.Entry, gateway bool) xds.Proxy {
	return xds.Proxy{Pod: pod, Addr: e.Addresses[0], Gateway: gateway, Account: e.Workload.Account}
}

// learned takes a new topology.
func (g *governor) learned(s *topology.Store) {
	pods := map[xds.Pod]*topology.Entry{}
	for _, e := range s.Entries() {
		pods[xds.Pod{Namespace: e.Workload.Namespace, Name: e.Workload.Name}] = e
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pods = pods
	changed := false
	for pod, p := range g.proxies {
		e := pods[pod]
		if e == nil || len(e.Addresses) == 0 {
			delete(g.proxies, pod)
			changed = true
		} else if now := proxyOf(pod, e, p.Gateway); now.Addr != p.Addr || now.Account != p.Account {
			g.proxies[pod] = now
			changed = true
		}
	}
	if changed {
		g.client.Follow(slices.Collect(maps.Values(g.proxies)))
	}
}

// state is how it stands with all of them.
func (g *governor) state() *control.Proxies {
	out := &control.Proxies{}
	for _, s := range g.client.Proxies() {
		out.Followed++
		out.Resources += s.Resources
		if s.Connected {
			out.Connected++
		}
		if s.Problem != "" {
			out.Problem = s.Pod.Namespace + "/" + s.Pod.Name + ": " + s.Problem
		}
	}
	return out
}
