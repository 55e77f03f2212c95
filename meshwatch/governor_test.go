package meshwatch

import (
	"net/netip"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/proxy"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// asked is a control plane that notes who is followed.
type asked struct {
	calls   int
	follows []xds.Proxy
	route   *proxy.Route
}

func (a *asked) Follow(all []xds.Proxy) { a.calls, a.follows = a.calls+1, all }

func (a *asked) Lookup(xds.Pod, *proxy.Request, uint64) proxy.Answer {
	if a.route != nil {
		return proxy.Answer{Route: a.route}
	}
	return proxy.Answer{Why: proxy.NoRoutes}
}

func (a *asked) Proxies() []xds.ProxyStatus {
	return []xds.ProxyStatus{{Connected: true, Resources: 7}, {Pod: xds.Pod{Namespace: "demo", Name: "x"}, Problem: "refused"}}
}

func TestGovernor(t *testing.T) {
	a := &asked{}
	g := newGovernor(a)
	b := topology.NewBuilder("", 0)
	set := func(addr string) {
		b.Set("front", topology.Entry{Workload: topology.Workload{Name: "front-1", Namespace: "demo", Account: "front"}, Addresses: []netip.Addr{netip.MustParseAddr(addr)}}, topology.Moment{})
		g.learned(b.Store(0))
	}
	set("10.0.0.1")
	w := &journey.Workload{Name: "front-1", Namespace: "demo"}
	for range 3 {
		if got := g.Govern(w, &proxy.Request{Direction: proxy.Gateway}, 1); got.Why != proxy.NoRoutes {
			t.Errorf("%+v", got)
		}
		g.Govern(&journey.Workload{Name: "nobody", Namespace: "demo"}, &proxy.Request{}, 1)
	}
	want := xds.Proxy{Pod: xds.Pod{Namespace: "demo", Name: "front-1"}, Addr: netip.MustParseAddr("10.0.0.1"), Gateway: true, Account: "front"}
	if a.calls != 1 || len(a.follows) != 1 || a.follows[0].Pod != want.Pod || a.follows[0].Addr != want.Addr || !a.follows[0].Gateway || a.follows[0].Account != "front" {
		t.Errorf("%d calls, %+v", a.calls, a.follows)
	}
	g.learned(b.Store(0)) // as it was
	set("10.0.0.2")
	if a.calls != 2 || a.follows[0].Addr != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("%d calls, %+v", a.calls, a.follows)
	}
	if s := *g.state(); s != (control.Proxies{Followed: 2, Connected: 1, Resources: 7, Problem: "demo/x: refused"}) {
		t.Errorf("%+v", s)
	}
	b.Remove("front", topology.Moment{})
	g.learned(b.Store(0))
	if a.calls != 3 || len(a.follows) != 0 {
		t.Errorf("%d calls, %+v", a.calls, a.follows)
	}
}

// A route of the Gateway API has the resource that the API server has under the name that the route's name has in it.
func TestGatewayRoutes(t *testing.T) {
	b := topology.NewBuilder("", 0)
	for _, ref := range []topology.Ref{
		{Kind: topology.HTTPRoute, Namespace: "demo", Name: "shop"}, {Kind: topology.HTTPRoute, Namespace: "demo", Name: "shop.v2"}, {Kind: topology.HTTPRoute, Namespace: "demo", Name: "both"},
		{Kind: topology.GRPCRoute, Namespace: "demo", Name: "cart"}, {Kind: topology.GRPCRoute, Namespace: "demo", Name: "both"}, {Kind: "VirtualService", Namespace: "demo", Name: "virtual"},
	} {
		b.SetResource(topology.Resource{Ref: ref})
	}
	a := &asked{}
	g := newGovernor(a)
	g.learned(b.Store(0))
	given := proxy.Resource{Kind: "VirtualService", Namespace: "demo", Name: "x"}
	for _, c := range []struct {
		name        string
		given, want proxy.Resource
	}{
		{"demo.shop.0", proxy.Resource{}, proxy.Resource{Kind: topology.HTTPRoute, Namespace: "demo", Name: "shop"}},
		{"demo.shop.v2.12", proxy.Resource{}, proxy.Resource{Kind: topology.HTTPRoute, Namespace: "demo", Name: "shop.v2"}},
		{"demo.cart.1", proxy.Resource{}, proxy.Resource{Kind: topology.GRPCRoute, Namespace: "demo", Name: "cart"}},
		{"demo.shop.0", given, given},
		{name: "demo.both.0"}, {name: "demo.virtual.0"}, {name: "demo.shop.x"}, {name: "demo.shop"}, {name: "demo"}, {name: "other.shop.0"}, {name: ""},
	} {
		a.route = &proxy.Route{Name: c.name, Resource: c.given, VirtualHost: "h"}
		got := g.Govern(&journey.Workload{}, &proxy.Request{}, 1).Route
		if got.Resource != c.want || got.Name != c.name || got.VirtualHost != "h" || a.route.Resource != c.given {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if again := g.Govern(&journey.Workload{}, &proxy.Request{}, 1).Route; again != got {
			t.Errorf("%s: not remembered", c.name)
		}
	}
	a.route = &proxy.Route{Name: "demo.shop.0"}
	g.Govern(&journey.Workload{}, &proxy.Request{}, 1)
	b.RemoveResource(topology.Ref{Kind: topology.HTTPRoute, Namespace: "demo", Name: "shop"})
	g.learned(b.Store(0))
	if got := g.Govern(&journey.Workload{}, &proxy.Request{}, 1).Route.Resource; got != (proxy.Resource{}) {
		t.Errorf("one that is gone: %+v", got)
	}
	a.route = nil
	if got := g.Govern(&journey.Workload{}, &proxy.Request{}, 1); got.Route != nil {
		t.Errorf("%+v", got)
	}
}
