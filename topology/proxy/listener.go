package proxy

import (
	"net/netip"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Listener is a listener of a proxy.
type Listener struct {
	addrs     []netip.AddrPort
	bound     bool // it has a socket of its own
	hands     bool // it hands connections on to the listener of where they went before the redirect
	original  bool // its chains see where connections went before the redirect
	direction core.TrafficDirection
	opaque    bool // its chains are chosen by rules that are not read here
	inspects  inspectors
	byPort    map[uint16][]*chain // 0: for all other ports
	fallback  *chain
}

// inspectors are the listener filters that find out what a connection speaks.
type inspectors struct{ tls, http verdict }

// chain is a filter chain with what it takes.
type chain struct {
	prefixes  []netip.Prefix
	names     []string // TLS server names
	transport string
	protocols []string // ALPN, or what the inspector found
	sources   bool     // it asks who connects, which is not known here
	http      *manager
	tcp       *Cluster // of a chain without HTTP
}

// manager is an HTTP connection manager.
type manager struct {
	rds       string
	inline    *Routes
	opaque    bool // filters may change requests before they are routed
	stripSame bool // the port, if it is the listener's
	stripAny  bool
	stripDot  bool
	normal    bool // paths are brought into a normal form
}

// NewListener reads a resource.
func NewListener(l *listener.Listener) *Listener {
	out := &Listener{
		bound: l.GetBindToPort() == nil || l.GetBindToPort().GetValue(), direction: l.GetTrafficDirection(),
		hands: l.GetUseOriginalDst().GetValue(), opaque: l.GetFilterChainMatcher() != nil, byPort: map[uint16][]*chain{},
	}
	out.bound = out.bound && !unbound(l)
	addresses := []*core.Address{l.GetAddress()}
	for _, more := range l.GetAdditionalAddresses() {
		addresses = append(addresses, more.GetAddress())
	}
	for _, a := range addresses {
		if addr, ok := socket(a); ok {
			out.addrs = append(out.addrs, addr)
		}
	}
	for _, f := range l.GetListenerFilters() {
		out.listenerFilter(f)
	}
	for _, f := range l.GetFilterChains() {
		port := uint16(0)
		if p := f.GetFilterChainMatch().GetDestinationPort(); p != nil {
			port = uint16(min(p.GetValue(), 65535)) //nolint:gosec // just bounded
		}
		out.byPort[port] = append(out.byPort[port], chainOf(f))
	}
	if f := l.GetDefaultFilterChain(); f != nil {
		out.fallback = chainOf(f)
	}
	return out
}

func (l *Listener) listenerFilter(f *listener.ListenerFilter) {
	so := yes
	if f.GetFilterDisabled() != nil {
		so = maybe
	}
	switch kind(f.GetTypedConfig()) {
	case "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector":
		l.inspects.tls = so
	case "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector":
		l.inspects.http = so
	case "envoy.extensions.filters.listener.original_dst.v3.OriginalDst":
		l.original = true
	}
}

// kind is a configuration's type.
func kind(a *anypb.Any) string { return string(a.MessageName()) }

func chainOf(f *listener.FilterChain) *chain {
	m := f.GetFilterChainMatch()
	c := &chain{
		names: m.GetServerNames(), transport: m.GetTransportProtocol(), protocols: m.GetApplicationProtocols(),
		sources: len(m.GetSourcePrefixRanges()) > 0 || len(m.GetSourcePorts()) > 0 || len(m.GetDirectSourcePrefixRanges()) > 0 || m.GetSourceType() != listener.FilterChainMatch_ANY,
	}
	for _, r := range m.GetPrefixRanges() {
		if addr, err := netip.ParseAddr(r.GetAddressPrefix()); err == nil {
			if p, err := addr.Unmap().Prefix(int(min(r.GetPrefixLen().GetValue(), 128))); err == nil {
				c.prefixes = append(c.prefixes, p)
			}
		}
	}
	for _, filter := range f.GetFilters() {
		c.filter(filter.GetTypedConfig())
	}
	return c
}

func (c *chain) filter(config *anypb.Any) {
	switch kind(config) {
	case "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager":
		c.http = managerOf(config)
	case "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy":
		m := &tcp.TcpProxy{}
		if config.UnmarshalTo(m) == nil && m.GetCluster() != "" {
			c.tcp = named(m.GetCluster())
		}
	}
}

func managerOf(config *anypb.Any) *manager {
	m := &hcm.HttpConnectionManager{}
	if config.UnmarshalTo(m) != nil {
		return &manager{opaque: true}
	}
	out := &manager{
		rds: m.GetRds().GetRouteConfigName(), stripSame: m.GetStripMatchingHostPort(), stripAny: m.GetStripAnyHostPort(), stripDot: m.GetStripTrailingHostDot(),
		normal: m.GetNormalizePath().GetValue() || m.GetMergeSlashes() || m.GetPathNormalizationOptions() != nil ||
			m.GetPathWithEscapedSlashesAction() > hcm.HttpConnectionManager_KEEP_UNCHANGED,
		opaque: len(m.GetEarlyHeaderMutationExtensions()) > 0,
	}
	if inline := m.GetRouteConfig(); inline != nil {
		out.inline = NewRoutes(inline)
	} else if out.rds == "" {
		out.opaque = true // scoped routes
	}
	for _, f := range m.GetHttpFilters() {
		out.opaque = out.opaque || !neutral[kind(f.GetTypedConfig())]
	}
	return out
}

// neutral filters change nothing that a route may look at, or their choice stands in the routes.
var neutral = map[string]bool{
	"envoy.extensions.filters.http.router.v3.Router":                            true,
	"envoy.extensions.filters.http.fault.v3.HTTPFault":                          true,
	"envoy.extensions.filters.http.cors.v3.Cors":                                true,
	"envoy.extensions.filters.http.grpc_stats.v3.FilterConfig":                  true,
	"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb":                         true,
	"envoy.extensions.filters.http.rbac.v3.RBAC":                                true,
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit":           true,
	"envoy.extensions.filters.http.ratelimit.v3.RateLimit":                      true,
	"envoy.extensions.filters.http.compressor.v3.Compressor":                    true,
	"envoy.extensions.filters.http.decompressor.v3.Decompressor":                true,
	"envoy.extensions.filters.http.buffer.v3.Buffer":                            true,
	"envoy.extensions.filters.http.health_check.v3.HealthCheck":                 true,
	"envoy.extensions.filters.http.stateful_session.v3.StatefulSession":         true,
	"envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency": true,
	"envoy.extensions.filters.http.admission_control.v3.AdmissionControl":       true,
	"envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit":           true,
	"envoy.extensions.filters.http.set_filter_state.v3.Config":                  true,
	"envoy.extensions.filters.http.connect_authority.v3.Config":                 true,
	"envoy.extensions.filters.http.csrf.v3.CsrfPolicy":                          true,
	"envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec":             true,
	"istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig":                 true,
	"io.istio.http.peer_metadata.Config":                                        true,
	"stats.PluginConfig":                                                        true,
	"envoy.extensions.filters.http.grpc_http1_bridge.v3.Config":                 true,
	"envoy.extensions.filters.http.original_src.v3.OriginalSrc":                 true,
	"envoy.extensions.filters.http.tap.v3.Tap":                                  true,
}

// Routes names the route configurations that a listener asks for.
func (l *Listener) Routes(yield func(name string)) {
	for _, chains := range l.byPort {
		for _, c := range chains {
			c.routes(yield)
		}
	}
	if l.fallback != nil {
		l.fallback.routes(yield)
	}
}

func (c *chain) routes(yield func(name string)) {
	if c.http != nil && c.http.rds != "" {
		yield(c.http.rds)
	}
}
