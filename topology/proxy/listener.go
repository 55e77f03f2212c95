package proxy

import (
	"net/netip"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxChains is how many filter chains are weighed when it is not known which one took a connection: those of TLS servers whose
// name was not seen.
const maxChains = 8

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

// listeners are a proxy's, by how they are found.
type listeners struct {
	count   int
	bound   map[uint16]*Listener         // with a socket of their own; those of one port on several addresses: opaque
	handed  map[netip.AddrPort]*Listener // that others hand on to
	hands   *Listener                    // a sidecar's outbound one
	inbound *Listener                    // a sidecar's, for all ports
}

func index(all map[string]*Listener) listeners {
	out := listeners{count: len(all), bound: map[uint16]*Listener{}, handed: map[netip.AddrPort]*Listener{}}
	for _, l := range all {
		if l.bound && l.hands {
			out.hands = l
		}
		if l.bound && l.original && l.direction == core.TrafficDirection_INBOUND {
			out.inbound = l
		}
		for _, a := range l.addrs {
			if !l.bound {
				out.handed[a] = l
			} else if other := out.bound[a.Port()]; other != nil && other != l {
				out.bound[a.Port()] = &Listener{opaque: true}
			} else {
				out.bound[a.Port()] = l
			}
		}
	}
	return out
}

// find is the listener that took a request; nil: none.
func (ls *listeners) find(r *Request) *Listener {
	to := unmap(r.Local)
	switch r.Direction {
	case Gateway:
		return ls.bound[to.Port()]
	case Inbound:
		if l := ls.bound[to.Port()]; l != nil && l.direction == core.TrafficDirection_INBOUND {
			return l
		}
		return ls.inbound
	}
	if ls.hands == nil || ls.hands.opaque {
		return ls.hands
	}
	for _, a := range [...]netip.AddrPort{to, netip.AddrPortFrom(netip.IPv4Unspecified(), to.Port()), netip.AddrPortFrom(netip.IPv6Unspecified(), to.Port())} {
		if l := ls.handed[a]; l != nil {
			return l
		}
	}
	return ls.hands
}

// chains are those that may have taken a request. sure is false if others may, too.
func (ls *listeners) chains(r *Request, room []*chain) (out []*chain, sure bool) {
	l := ls.find(r)
	if l == nil {
		return nil, true
	}
	if l.opaque {
		return append(room, nil), false
	}
	among := l.byPort[r.Local.Port()]
	if among == nil || r.Local.Port() == 0 {
		among = l.byPort[0]
	}
	return l.narrow(among, r, room)
}

// mismatch is the rank of a chain that does not take a connection.
const mismatch = -1

// narrow goes through Envoy's criteria in its order: of those chains that agree with the connection only the most specific ones
// go on to the next. Where it is not known whether they agree, all do.
func (l *Listener) narrow(among []*chain, r *Request, room []*chain) (out []*chain, sure bool) {
	addr, seen := r.Local.Addr().Unmap(), l.inspects.seen(r)
	near, name := mismatch, mismatch
	for _, c := range among {
		near = max(near, c.near(addr))
	}
	for _, c := range among {
		if c.near(addr) == near {
			name = max(name, c.named(r, seen))
		}
	}
	if near == mismatch || name == mismatch {
		among = nil
	}
	for _, c := range among {
		if c.near(addr) != near || c.named(r, seen) != name {
			continue
		}
		if len(room) == maxChains {
			return append(room[:0], c), false
		}
		room = append(room, c)
	}
	transport := seen != maybe
	protocol := seen == no && (l.inspects.http == no || l.inspects.http == yes && r.Protocol != "")
	if transport {
		room = most(room, func(c *chain) int { return c.rankTransport(seen) })
	}
	if protocol {
		room = most(room, func(c *chain) int { return c.rankProtocol(r.Protocol, l.inspects.http) })
	}
	names := seen == no || seen == yes && r.SNI != ""
	certain := slices.ContainsFunc(room, func(c *chain) bool {
		return !c.sources && (transport || c.transport == "") && (protocol || len(c.protocols) == 0) && (names || len(c.names) == 0)
	})
	if !certain && l.fallback != nil {
		room = append(room, l.fallback)
	}
	return room, true
}

// seen says whether a listener sees that a connection is TLS.
func (i inspectors) seen(r *Request) verdict {
	if !r.TLS {
		return no
	}
	return i.tls
}

// most keeps the chains of the highest rank.
func most(chains []*chain, rank func(*chain) int) []*chain {
	best := mismatch
	for _, c := range chains {
		best = max(best, rank(c))
	}
	out := chains[:0]
	for _, c := range chains {
		if best != mismatch && rank(c) == best {
			out = append(out, c)
		}
	}
	return out
}

// near ranks by destination: the longest prefix.
func (c *chain) near(addr netip.Addr) int {
	if len(c.prefixes) == 0 {
		return 0
	}
	best := mismatch
	for _, p := range c.prefixes {
		if p.Contains(addr) {
			best = max(best, p.Bits()+1)
		}
	}
	return best
}

// named ranks by the TLS server's name: the very name, the longest end of it, none. All are the same where it is not known.
func (c *chain) named(r *Request, seen verdict) int {
	switch {
	case seen == maybe || seen == yes && r.SNI == "" || len(c.names) == 0:
		return 0
	case seen == no:
		return mismatch
	}
	const exact = 1 << 16
	best := mismatch
	for _, name := range c.names {
		if name == r.SNI {
			return exact
		}
		if end, ok := strings.CutPrefix(name, "*"); ok && strings.HasSuffix(r.SNI, end) {
			best = max(best, len(name))
		}
	}
	return best
}

func (c *chain) rankTransport(seen verdict) int {
	is := "raw_buffer"
	if seen == yes {
		is = "tls"
	}
	switch c.transport {
	case is:
		return 1
	case "":
		return 0
	}
	return mismatch
}

// rankProtocol ranks by what the HTTP inspector found in clear text.
func (c *chain) rankProtocol(protocol string, inspected verdict) int {
	if len(c.protocols) == 0 {
		return 0
	}
	if protocol == "http/2" {
		protocol = "h2c"
	}
	if inspected == yes && slices.Contains(c.protocols, protocol) {
		return 1
	}
	return mismatch
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
