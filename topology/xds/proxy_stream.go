package xds

import (
	"context"
	"maps"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/proxy"
)

// The types of a proxy's resources.
const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	routeType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// kind is a subscription, and what is held of it.
type kind struct {
	subscription
	set     func(name string, value []byte) error
	remove  func(name string)
	count   func() int
	changed bool // since the last Config
}

// held makes a kind of a type whose messages are M, that are kept as T. What is sent again as it was changes nothing.
func held[M proto.Message, T any](typeURL string, message func() M, compile func(M) *T, from *pool[T], into map[string]*T) *kind {
	k := &kind{subscription: subscription{typeURL: typeURL, versions: map[string]string{}}}
	digests := map[string]digest{}
	k.set = func(name string, value []byte) error {
		d := digestOf(value)
		if old, known := digests[name]; known && old == d {
			return nil
		}
		v := from.get(d)
		if v == nil {
			m := message()
			if err := proto.Unmarshal(value, m); err != nil {
				return err
			}
			v = compile(m)
			from.put(d, v)
		}
		into[name], digests[name], k.changed = v, d, true
		return nil
	}
	k.remove = func(name string) {
		delete(into, name)
		delete(digests, name)
		k.changed = true
	}
	k.count = func() int { return len(into) }
	return k
}

// proxyStream follows what one proxy is told: all clusters and listeners, and the endpoints and routes that they name.
type proxyStream struct {
	all   *proxies
	proxy *Proxy
	link  *link
	stop  context.CancelFunc
	asked uint64 // since when it is, CLOCK_MONOTONIC ns

	mu        sync.Mutex
	kinds     [4]*kind // clusters, listeners, endpoints, routes: in the order in which they are asked for
	clusters  map[string]*proxy.Cluster
	listeners map[string]*proxy.Listener
	endpoints map[string]*proxy.Endpoints
	routes    map[string]*proxy.Routes
	versions  *proxy.Versions // nil: nothing was told
	answered  bool            // routes came
	settled   bool            // the first state was there: what changes from then on is a change
	status    ProxyStatus
}

func newProxyStream(all *proxies, p *Proxy) *proxyStream {
	s := &proxyStream{
		all: all, proxy: p, asked: all.options.Clock(), status: ProxyStatus{Pod: p.Pod},
		clusters: map[string]*proxy.Cluster{}, listeners: map[string]*proxy.Listener{}, endpoints: map[string]*proxy.Endpoints{}, routes: map[string]*proxy.Routes{},
	}
	s.kinds = [...]*kind{
		held(clusterType, func() *cluster.Cluster { return &cluster.Cluster{} }, proxy.NewCluster, all.pools.clusters, s.clusters),
		held(listenerType, func() *listener.Listener { return &listener.Listener{} }, proxy.NewListener, all.pools.listeners, s.listeners),
		held(endpointType, func() *endpoint.ClusterLoadAssignment { return &endpoint.ClusterLoadAssignment{} }, proxy.NewEndpoints, all.pools.endpoints, s.endpoints),
		held(routeType, func() *route.RouteConfiguration { return &route.RouteConfiguration{} }, proxy.NewRoutes, all.pools.routes, s.routes),
	}
	for _, k := range s.kinds[2:] {
		k.names = map[string]bool{} // none yet: that is not all
	}
	return s
}

// session is one stream.
func (s *proxyStream) session(ctx context.Context) (heard bool, err error) {
	return s.link.talk(ctx, s.first(), s.answer)
}

// first asks for what is known to be there.
func (s *proxyStream) first() (out []*discovery.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kinds {
		if k.names == nil || len(k.names) > 0 {
			out = append(out, k.begin())
		}
	}
	out[0].Node = s.proxy.node(s.all.settings.ClusterID, s.all.options.Node)
	return out
}

// answer takes a response, and asks for what it names.
func (s *proxyStream) answer(r *discovery.DeltaDiscoveryResponse) (out []*discovery.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.status.Connected {
		s.status.Connected, s.status.Since, s.status.Problem = true, time.Now(), ""
	}
	k := &kind{} // it takes nothing
	for _, other := range s.kinds {
		if other.typeURL == r.TypeUrl {
			k = other
		}
	}
	answer, bad := k.update(r, k.set, k.remove)
	if bad > 0 {
		s.status.Refused += uint64(bad) //nolint:gosec // positive
		s.status.Problem = answer.ErrorDetail.Message
		s.all.options.Refused(bad)
		s.all.log.Warn("control plane sent a proxy what cannot be read; the last good state of it stays", "pod", s.proxy.Name, "namespace", s.proxy.Namespace, "resources", bad, "error", s.status.Problem)
	}
	out = append(out, answer)
	s.status.Updated = time.Now()
	s.all.wake()
	named := map[string]bool{}
	switch r.TypeUrl {
	case clusterType:
		for _, c := range s.clusters {
			if name := c.Service(); name != "" {
				named[name] = true
			}
		}
		k = s.kinds[2]
	case listenerType:
		for _, l := range s.listeners {
			l.Routes(func(name string) { named[name] = true })
		}
		k = s.kinds[3]
	default:
		s.answered = s.answered || r.TypeUrl == routeType
		return out
	}
	if more := k.want(named, k.remove); more != nil {
		out = append(out, more)
	}
	return out
}

// publish is what the proxy was told, up to now; nil: nothing was.
func (s *proxyStream) publish(at uint64) *proxy.Versions {
	s.mu.Lock()
	defer s.mu.Unlock()
	routing, any := false, false
	for i, k := range s.kinds {
		any = any || k.changed
		routing = routing || k.changed && i%2 == 1 // listeners and routes
		k.changed = false
	}
	switch {
	case !any:
		return s.versions
	case s.versions == nil && topology.First(at, s.asked) != topology.Moment{}:
		s.versions = proxy.First(s.config(), at)
	case routing && s.settled:
		s.versions = s.versions.Then(s.config(), at)
	default:
		s.versions = s.versions.With(s.config())
	}
	s.settled = s.settled || len(s.listeners) > 0 && (s.answered || len(s.kinds[3].names) == 0)
	return s.versions
}

func (s *proxyStream) config() *proxy.Config {
	return proxy.New(maps.Clone(s.listeners), maps.Clone(s.routes), maps.Clone(s.clusters), maps.Clone(s.endpoints))
}

func (s *proxyStream) now() ProxyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	for _, k := range s.kinds {
		out.Resources += k.count()
	}
	return out
}

// disconnected notes why. What the proxy was told stays.
func (s *proxyStream) disconnected(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Connected || s.status.Problem == "" {
		s.all.log.Warn("control plane tells nothing of a proxy; what it told stays", "pod", s.proxy.Name, "namespace", s.proxy.Namespace, "error", err)
	}
	if s.status.Connected {
		s.status.Connected, s.status.Since = false, time.Now()
	}
	s.status.Problem = err.Error()
}
