package meshwatch

import (
	"maps"
	"slices"
	"strconv"
	"strings"
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
	store   *topology.Store
	pods    map[xds.Pod]*topology.Entry // of the topology
	proxies map[xds.Pod]xds.Proxy       // that are followed
	routes  map[*proxy.Route]*proxy.Route
}

// maxRoutes is how many answers of ofGatewayAPI are remembered.
const maxRoutes = 10_000

func newGovernor(client told) *governor {
	return &governor{client: client, pods: map[xds.Pod]*topology.Entry{}, proxies: map[xds.Pod]xds.Proxy{}}
}

// Govern says what governed a request that a workload's proxy received.
func (g *governor) Govern(w *journey.Workload, r *proxy.Request, at uint64) proxy.Answer {
	pod := xds.Pod{Namespace: w.Namespace, Name: w.Name}
	g.follow(pod, r.Direction == proxy.Gateway)
	a := g.client.Lookup(pod, r, at)
	a.Route = g.named(a.Route)
	return a
}

// named is a route with the resource that defines it, where that is of the Gateway API.
func (g *governor) named(r *proxy.Route) *proxy.Route {
	if r == nil || r.Resource != (proxy.Resource{}) {
		return r
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.routes[r]; known != nil {
		return known
	}
	if g.routes == nil || len(g.routes) >= maxRoutes {
		g.routes = map[*proxy.Route]*proxy.Route{}
	}
	out := r
	if by := ofGatewayAPI(r.Name, g.store); by != (proxy.Resource{}) {
		with := *r
		with.Resource, out = by, &with
	}
	g.routes[r] = out
	return out
}

// rules are those that a proxy was told of, with what defines them; none of a nil Config.
func (g *governor) rules(c *proxy.Config) []proxy.Rule {
	g.mu.Lock()
	store := g.store
	g.mu.Unlock()
	out := c.Rules()
	for i := range out {
		if r := &out[i].Route; r.Resource == (proxy.Resource{}) {
			r.Resource = ofGatewayAPI(r.Name, store)
		}
	}
	return out
}

// ofGatewayAPI is the HTTPRoute or GRPCRoute of a route that istiod made of it. Metadata do not tell: they name a VirtualService that istiod made
// of all that there are for a host. But the route is called NAMESPACE.NAME.POSITION, unless its rule has a name, and the API server knows which of the
// two kinds there is.
func ofGatewayAPI(route string, s *topology.Store) (found proxy.Resource) {
	namespace, rest, _ := strings.Cut(route, ".")
	end := strings.LastIndexByte(rest, '.')
	if end < 0 {
		return found
	}
	if _, err := strconv.ParseUint(rest[end+1:], 10, 16); err != nil {
		return found
	}
	for _, kind := range [...]string{topology.HTTPRoute, topology.GRPCRoute} {
		switch ref := (topology.Ref{Kind: kind, Namespace: namespace, Name: rest[:end]}); {
		case s.Resource(ref) == nil:
		case found != proxy.Resource{}:
			return proxy.Resource{} // either
		default:
			found = proxy.Resource(ref)
		}
	}
	return found
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
	g.store, g.pods, g.routes = s, pods, nil
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
