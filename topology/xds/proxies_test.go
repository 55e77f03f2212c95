package xds

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshwatch/meshwatch/topology/proxy"
)

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func socketAt(ip string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: ip, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port}}}}
}

// listenerOf is a gateway's at port 80 with these routes.
func listenerOf(t testing.TB, routes string) *listener.Listener {
	m := &hcm.HttpConnectionManager{RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{RouteConfigName: routes}}}
	return &listener.Listener{Name: "l", Address: socketAt("0.0.0.0", 80), FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{Name: "http", ConfigType: &listener.Filter_TypedConfig{TypedConfig: pack(t, m)}}}}}}
}

// routesOf is a route to a cluster, for everything.
func routesOf(name, route1, to string) *route.RouteConfiguration {
	return &route.RouteConfiguration{Name: name, VirtualHosts: []*route.VirtualHost{{Name: "h", Domains: []string{"*"}, Routes: []*route.Route{{
		Name: route1, Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
		Action: &route.Route_Route{Route: &route.RouteAction{ClusterSpecifier: &route.RouteAction_Cluster{Cluster: to}}},
	}}}}}
}

func clusterOf(name, service string) *cluster.Cluster {
	return &cluster.Cluster{Name: name, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS}, EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{ServiceName: service}}
}

func endpointsOf(service, ip string) *endpoint.ClusterLoadAssignment {
	return &endpoint.ClusterLoadAssignment{ClusterName: service, Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: []*endpoint.LbEndpoint{{
		HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: socketAt(ip, 8080)}},
	}}}}}
}

// snapshot is all that a proxy is told.
func snapshot(t testing.TB, version, routes, routeName string) *cache.Snapshot {
	t.Helper()
	s, err := cache.NewSnapshot(version, map[string][]types.Resource{
		clusterType: {clusterOf("outbound|80||a", "a")}, endpointType: {endpointsOf("a", "10.0.0.1")},
		listenerType: {listenerOf(t, routes)}, routeType: {routesOf(routes, routeName, "outbound|80||a")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// onePod is a gateway, and the id that it has as a node.
func onePod(name string) (Proxy, string) {
	p := Proxy{Pod: Pod{"shop", name}, Addr: netip.MustParseAddr("10.0.0.7"), Gateway: true, Account: "a", Labels: map[string]string{"app": "x"}, Metadata: map[string]string{"ENABLE_HBONE": "true"}}
	return p, "router~10.0.0.7~" + name + ".shop~shop.svc.cluster.local"
}

// governed is the name of the route of a request, and its cluster.
func (f *following) governed(p Proxy, upstream string) string {
	r := &proxy.Request{Direction: proxy.Gateway, Local: netip.MustParseAddrPort("10.0.0.7:80"), Authority: "a", Method: "GET", Path: "/"}
	if upstream != "" {
		r.Upstream = netip.MustParseAddrPort(upstream)
	}
	a := f.Config(p.Pod).Lookup(r)
	if a.Route == nil {
		return "-" + string(a.Why)
	}
	if a.Cluster == nil {
		return a.Route.Name
	}
	return a.Route.Name + " " + a.Cluster.Name
}

// counter counts connections.
type counter struct{ conns atomic.Int64 }

func (c *counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *counter) HandleRPC(context.Context, stats.RPCStats)                         {}
func (c *counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *counter) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, begins := s.(*stats.ConnBegin); begins {
		c.conns.Add(1)
	}
}

// A control plane that knows nothing of Istio: each proxy is told its own, on one connection; one that is gone is forgotten; after the
// control plane was away only what changed is sent.
func TestProxies(t *testing.T) {
	snapshots := cache.NewSnapshotCache(true, cache.IDHash{}, nil)
	conns := &counter{}
	p := newPlaneOf(t, snapshots, nil, grpc.StatsHandler(conns))
	a, idA := onePod("a")
	b, idB := onePod("b")
	set := func(id string, s *cache.Snapshot) {
		if err := snapshots.SetSnapshot(context.Background(), id, s); err != nil {
			t.Fatal(err)
		}
	}
	set(idA, snapshot(t, "1", "ra", "first"))
	set(idB, snapshot(t, "1", "rb", "other"))
	f := follow(t, plain(p))
	f.Follow([]Proxy{a, b})
	f.await("both", func() bool {
		return f.governed(a, "10.0.0.1:8080") == "first outbound|80||a" && f.governed(b, "") == "other outbound|80||a"
	})
	f.await("endpoints", func() bool { return f.governed(a, "10.0.0.2:8080") == "-contradicted" })
	set(idA, snapshot(t, "2", "ra2", "second"))
	f.await("a change", func() bool { return f.governed(a, "") == "second outbound|80||a" })
	if got := f.Lookup(a.Pod, &proxy.Request{Direction: proxy.Gateway, Local: netip.MustParseAddrPort("10.0.0.7:80"), Authority: "a", Method: "GET", Path: "/"}, f.Clock()); got.Why != proxy.Changing {
		t.Errorf("just after a change: %+v %s", got.Route, got.Why)
	}
	if n := conns.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	p.down()
	f.await("lost", func() bool { return !slices.ContainsFunc(f.Proxies(), func(s ProxyStatus) bool { return s.Connected }) })
	if got := f.governed(b, ""); got != "other outbound|80||a" {
		t.Errorf("while it is away: %s", got)
	}
	before, _ := p.seen()
	set(idB, snapshot(t, "3", "rb", "third"))
	p.up()
	f.await("back", func() bool { return f.governed(b, "") == "third outbound|80||a" })
	requests, _ := p.seen()
	held := map[string]int{}
	for _, r := range requests[len(before):] {
		if r.ResponseNonce == "" {
			held[r.TypeUrl] += len(r.InitialResourceVersions)
		}
		if r.ErrorDetail != nil {
			t.Errorf("refused: %s", r.ErrorDetail.Message)
		}
	}
	if held[clusterType] != 2 || held[listenerType] != 2 || held[endpointType] != 2 || held[routeType] != 2 {
		t.Errorf("held: %v", held)
	}
	b.Labels = map[string]string{"app": "y"}
	f.Follow([]Proxy{b})
	f.await("one", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		all := f.Proxies()
		return f.Config(a.Pod) == nil && len(all) == 1 && all[0].Connected && slices.Contains(p.closed, idA) && slices.Contains(p.closed, idB)
	})
	f.await("the other again", func() bool { return f.governed(b, "") == "third outbound|80||a" })
}

// script is a control plane that says what a test wants, when it wants.
type script struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	t        *testing.T
	requests chan *discovery.DeltaDiscoveryRequest // of the proxy p
	say      chan *discovery.DeltaDiscoveryResponse
}

func (s *script) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	switch node := first.Node.Id; {
	case strings.Contains(node, "~refused.shop~"):
		return status.Error(codes.PermissionDenied, "authorization failed: no identities matched shop/a")
	case !strings.Contains(node, "~p.shop~"):
		<-stream.Context().Done()
		return nil
	}
	s.requests <- first
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			s.requests <- r
		}
	}()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case r := <-s.say:
			if err := stream.Send(r); err != nil {
				return err
			}
		}
	}
}

// serve runs it until the test ends.
func (s *script) serve() Settings {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) }) // ends with Stop
	s.t.Cleanup(func() { g.Stop(); serving.Wait() })
	return Settings{Address: l.Addr().String(), Security: Plaintext}
}

// heard is the next request, in short: type, what is asked for and no more, nonce, error.
func (s *script) heard(want string) *discovery.DeltaDiscoveryRequest {
	s.t.Helper()
	select {
	case r := <-s.requests:
		got := r.TypeUrl[strings.LastIndexByte(r.TypeUrl, '.')+1:]
		if len(r.ResourceNamesSubscribe)+len(r.ResourceNamesUnsubscribe) > 0 {
			got += fmt.Sprintf(" +%v -%v", r.ResourceNamesSubscribe, r.ResourceNamesUnsubscribe)
		}
		if r.ResponseNonce != "" {
			got += " ack " + r.ResponseNonce
		}
		if r.ErrorDetail != nil {
			got += " error"
		}
		if got != want {
			s.t.Errorf("heard %q, want %q: %v", got, want, r.ErrorDetail)
		}
		return r
	case <-time.After(10 * time.Second):
		s.t.Fatalf("never heard %q", want)
		return nil
	}
}

func response(t *testing.T, nonce string, of string, removed []string, resources ...proto.Message) *discovery.DeltaDiscoveryResponse {
	r := &discovery.DeltaDiscoveryResponse{Nonce: nonce, TypeUrl: of, RemovedResources: removed}
	for _, m := range resources {
		r.Resources = append(r.Resources, &discovery.Resource{Name: cache.GetResourceName(m), Version: nonce, Resource: pack(t, m)})
	}
	return r
}

// What is asked for follows what is named; what is bad is refused by name; who is refused does not disturb the others.
func TestProxyStream(t *testing.T) {
	s := &script{t: t, requests: make(chan *discovery.DeltaDiscoveryRequest, 100), say: make(chan *discovery.DeltaDiscoveryResponse)}
	f := follow(t, s.serve())
	p, id := onePod("p")
	refused, _ := onePod("refused")
	f.Follow([]Proxy{p, refused})
	first := s.heard("Cluster")
	meta := first.Node.Metadata.AsMap()
	if first.Node.Id != id || meta["NAMESPACE"] != "shop" || meta["SERVICE_ACCOUNT"] != "a" || meta["LABELS"].(map[string]any)["app"] != "x" || meta["ENABLE_HBONE"] != "true" {
		t.Errorf("%v", first.Node)
	}
	s.heard("Listener")
	s.say <- response(t, "1", clusterType, nil, clusterOf("outbound|80||a", "a"), clusterOf("outbound|80||b", "b"))
	s.heard("Cluster ack 1")
	s.heard("ClusterLoadAssignment +[a b] -[]")
	s.say <- response(t, "2", listenerType, nil, listenerOf(t, "r"))
	s.heard("Listener ack 2")
	s.heard("RouteConfiguration +[r] -[]")
	s.say <- response(t, "3", routeType, nil, routesOf("r", "one", "outbound|80||a"), routesOf("unasked", "x", "y"))
	s.heard("RouteConfiguration ack 3")
	s.say <- response(t, "4", endpointType, nil, endpointsOf("a", "10.0.0.1"), endpointsOf("b", "10.0.0.2"))
	s.heard("ClusterLoadAssignment ack 4")
	f.await("the route", func() bool { return f.governed(p, "10.0.0.1:8080") == "one outbound|80||a" })

	bad := response(t, "5", routeType, nil, routesOf("r", "two", "outbound|80||b"))
	bad.Resources[0].Resource.Value = []byte{0x0a, 0xff}
	s.say <- bad
	if r := s.heard("RouteConfiguration ack 5 error"); !strings.Contains(r.ErrorDetail.GetMessage(), `1 resources cannot be read: "r"`) {
		t.Errorf("%v", r.ErrorDetail)
	}
	s.say <- response(t, "6", clusterType, []string{"outbound|80||b"})
	s.heard("Cluster ack 6")
	s.heard("ClusterLoadAssignment +[] -[b]")
	s.say <- response(t, "7", endpointType, nil, endpointsOf("b", "10.0.0.2")) // it was on its way
	s.heard("ClusterLoadAssignment ack 7")
	s.say <- response(t, "8", listenerType, nil, listenerOf(t, "r2"))
	s.heard("Listener ack 8")
	s.heard("RouteConfiguration +[r2] -[r]")
	f.await("no routes yet", func() bool { return f.governed(p, "") == "-no-routes" })
	s.say <- response(t, "9", "type.googleapis.com/x.Other", nil)
	s.heard("Other ack 9 error")
	f.await("the states", func() bool {
		var of [2]ProxyStatus
		for _, s := range f.Proxies() {
			if s.Pod == p.Pod {
				of[0] = s
			} else {
				of[1] = s
			}
		}
		return of[0].Connected && of[0].Resources == 3 && of[0].Refused == 2 && !of[1].Connected && strings.Contains(of[1].Problem, "no identities matched shop/a")
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refused != 2 {
		t.Errorf("%d losses", f.refused)
	}
}

// same gives all proxies one snapshot.
type same struct{}

func (same) ID(*core.Node) string { return "all" }

// 30 pods on a node, in a mesh of 1,000 services and 10,000 workloads, one of which changes.
func TestManyProxies(t *testing.T) {
	const pods, services, workloads = 30, 1000, 10
	resources := map[string][]types.Resource{listenerType: {listenerOf(t, "r")}}
	routes := &route.RouteConfiguration{Name: "r"}
	for i := range services {
		name := fmt.Sprintf("outbound|80||service-%d.shop.svc.cluster.local", i)
		e := endpointsOf(name, "10.0.0.1")
		for j := range workloads {
			e.Endpoints[0].LbEndpoints = append(e.Endpoints[0].LbEndpoints, endpointsOf("", fmt.Sprintf("10.%d.%d.%d", 1+j, i/250, i%250)).Endpoints[0].LbEndpoints[0])
		}
		v := routesOf("", "default", name).VirtualHosts[0]
		v.Name, v.Domains = name, []string{fmt.Sprintf("service-%d.shop", i), fmt.Sprintf("service-%d.shop.svc", i), fmt.Sprintf("service-%d.shop.svc.cluster.local", i)}
		routes.VirtualHosts = append(routes.VirtualHosts, v)
		resources[clusterType], resources[endpointType] = append(resources[clusterType], clusterOf(name, name)), append(resources[endpointType], e)
	}
	resources[routeType] = []types.Resource{routes}
	snapshots := cache.NewSnapshotCache(true, same{}, nil)
	set := func(version string) {
		s, err := cache.NewSnapshot(version, resources)
		if err != nil {
			t.Fatal(err)
		}
		if err := snapshots.SetSnapshot(context.Background(), "all", s); err != nil {
			t.Fatal(err)
		}
	}
	set("1")
	p := newPlaneOf(t, snapshots, nil)
	heap := func() float64 {
		p.forget()
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	f := follow(t, plain(p))
	before := heap()
	goroutines := runtime.NumGoroutine()
	var all []Proxy
	for i := range pods {
		one, _ := onePod(fmt.Sprintf("p%d", i))
		all = append(all, one)
	}
	start := time.Now()
	f.Follow(all)
	ready := func(endpoint string) bool {
		for _, one := range all {
			c := f.Config(one.Pod)
			r := &proxy.Request{Direction: proxy.Gateway, Local: netip.MustParseAddrPort("10.0.0.7:80"), Authority: "service-999.shop", Method: "GET", Path: "/", Upstream: netip.MustParseAddrPort(endpoint)}
			if c.Len() != 2*services+2 || c.Lookup(r).Cluster == nil {
				return false
			}
		}
		return true
	}
	f.await("all", func() bool { return ready("10.1.3.249:8080") })
	took := time.Since(start)
	full := heap()
	resources[endpointType][services-1] = endpointsOf(fmt.Sprintf("outbound|80||service-%d.shop.svc.cluster.local", services-1), "10.99.0.1")
	set("2")
	f.await("the change", func() bool { return ready("10.99.0.1:8080") })
	t.Logf("%d proxies, %d clusters, %d endpoints: ready in %v, client and server take %.1f MB more", pods, services, services*workloads, took.Round(time.Millisecond), full-before)
	f.Follow(nil)
	f.await("none", func() bool { return len(f.Proxies()) == 0 && runtime.NumGoroutine() <= goroutines })
}
