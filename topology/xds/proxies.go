package xds

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshwatch/meshwatch/topology/proxy"
)

// Pod names one.
type Pod struct{ Namespace, Name string }

// Proxy is an Envoy of this node, as its control plane must be told of it. istiod finds its services by the pod's name, in the
// cluster of Settings.ClusterID; while it does not know the pod, by Labels.
type Proxy struct {
	Pod
	Addr     netip.Addr
	Gateway  bool   // it is a gateway's, not a sidecar
	Account  string // service account
	Labels   map[string]string
	Metadata map[string]string // more of its bootstrap's, such as ENABLE_HBONE: each ISTIO_META_… of its environment, without that
	Domain   string            // of the Kubernetes cluster; empty: cluster.local
}

func (p *Proxy) equal(o *Proxy) bool {
	return p.Pod == o.Pod && p.Addr == o.Addr && p.Gateway == o.Gateway && p.Account == o.Account && p.Domain == o.Domain &&
		maps.Equal(p.Labels, o.Labels) && maps.Equal(p.Metadata, o.Metadata)
}

// node says who asks, as the proxy itself does.
func (p *Proxy) node(clusterID, nodeName string) *core.Node {
	kind, domain := "sidecar", p.Domain
	if p.Gateway {
		kind = "router"
	}
	if domain == "" {
		domain = "cluster.local"
	}
	labels := map[string]any{}
	for k, v := range p.Labels {
		labels[k] = v
	}
	meta := map[string]any{}
	for k, v := range p.Metadata {
		meta[k] = v
	}
	maps.Copy(meta, map[string]any{
		"NAME": p.Name, "NAMESPACE": p.Namespace, "SERVICE_ACCOUNT": p.Account, "CLUSTER_ID": clusterID, "NODE_NAME": nodeName, "LABELS": labels, "INSTANCE_IPS": p.Addr.String(),
	})
	values, err := structpb.NewStruct(meta)
	if err != nil {
		values = nil // no UTF-8: the API has no such names
	}
	return &core.Node{
		Id:            fmt.Sprintf("%s~%s~%s.%s~%s.svc.%s", kind, p.Addr, p.Name, p.Namespace, p.Namespace, domain),
		Cluster:       p.Name + "." + p.Namespace,
		Metadata:      values,
		UserAgentName: "meshwatch",
	}
}

// publishEvery is the time between two looks at what changed: each makes new Configs.
const publishEvery = time.Second

// ProxyStatus is how it stands with what a proxy is told.
type ProxyStatus struct {
	Pod       Pod
	Connected bool
	Since     time.Time // connected or lost; zero: never
	Updated   time.Time // the last resource came or went
	Resources int
	Refused   uint64 // resources that could not be read
	Problem   string // why it is not connected, or what was last refused
}

// proxies follows what the control plane tells the proxies of this node, on a stream for each.
type proxies struct {
	*link
	options Options
	pools   pools
	changed chan struct{} // proxies or their configuration
	configs atomic.Pointer[map[Pod]*proxy.Versions]

	mu      sync.Mutex
	wanted  map[Pod]*Proxy
	streams map[Pod]*proxyStream
	links   map[string]*link // by the identity with which is asked
}

func newProxies(l *link, o Options) *proxies {
	return &proxies{link: l, options: o, pools: newPools(), changed: make(chan struct{}, 1), wanted: map[Pod]*Proxy{}, streams: map[Pod]*proxyStream{}, links: map[string]*link{}}
}

// Follow says which proxies are on this node. Those that are no more are forgotten, also when another has come under its name.
func (c *Client) Follow(all []Proxy) {
	p := c.proxies
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = map[Pod]*Proxy{}
	for _, one := range all {
		p.wanted[one.Pod] = &one
	}
	p.wake()
}

// Config is what a proxy is told, as far as it is known; nil: nothing is.
func (c *Client) Config(pod Pod) *proxy.Config { return c.proxies.of(pod).Now() }

// Lookup says what governed a proxy's request at a time. It costs a look-up in a map, and the Config's own.
func (c *Client) Lookup(pod Pod, r *proxy.Request, at uint64) proxy.Answer {
	return c.proxies.of(pod).Lookup(r, at)
}

func (p *proxies) of(pod Pod) *proxy.Versions {
	if all := p.configs.Load(); all != nil {
		return (*all)[pod]
	}
	return nil
}

// Proxies is how it stands with each, in no order.
func (c *Client) Proxies() (out []ProxyStatus) {
	p := c.proxies
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams {
		out = append(out, s.now())
	}
	return out
}

func (p *proxies) wake() {
	select {
	case p.changed <- struct{}{}:
	default: // it will be seen
	}
}

// run keeps a stream for each proxy that is wanted, and gives out their Configs, until ctx ends.
func (p *proxies) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		}
		p.reconcile(ctx, &running)
		p.publish()
		select {
		case <-ctx.Done():
			return
		case <-time.After(publishEvery):
		}
	}
}

// reconcile ends the streams of proxies that are gone or changed, and begins those of new ones.
func (p *proxies) reconcile(ctx context.Context, running *sync.WaitGroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pod, s := range p.streams {
		if now := p.wanted[pod]; now == nil || !now.equal(s.proxy) {
			s.stop()
			delete(p.streams, pod)
		}
	}
	maps.DeleteFunc(p.links, func(_ string, l *link) bool { return !p.uses(l) })
	for pod, wanted := range p.wanted {
		if p.streams[pod] != nil {
			continue
		}
		s := newProxyStream(p, wanted)
		s.link = p.linkOf(wanted)
		p.streams[pod] = s
		ctx, cancel := context.WithCancel(ctx)
		s.stop = cancel
		running.Go(func() { s.link.follow(ctx, s.session, s.disconnected) })
	}
}

func (p *proxies) uses(l *link) bool {
	for _, s := range p.streams {
		if s.link == l {
			return true
		}
	}
	return false
}

// linkOf is the connection for a proxy: everybody's, or one with its account's certificate.
func (p *proxies) linkOf(one *Proxy) *link {
	if p.settings.Security != MTLS || p.settings.TrustDomain == "" || one.Account == "" {
		return p.link
	}
	as := fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", p.settings.TrustDomain, one.Namespace, one.Account)
	l := p.links[as]
	if l == nil {
		l = newLink(p.settings, p.log, as)
		l.pause = p.pause
		p.links[as] = l
	}
	return l
}

// publish replaces the Configs by those of the streams that there are.
func (p *proxies) publish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[Pod]*proxy.Versions{}
	for pod, s := range p.streams {
		if v := s.publish(p.options.Clock()); v != nil {
			all[pod] = v
		}
	}
	p.configs.Store(&all)
}
