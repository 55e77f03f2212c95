package proxy

import (
	"slices"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Routes are a RouteConfiguration.
type Routes struct {
	exact    map[string]*virtualHost
	suffixes []wildcard // longest first
	prefixes []wildcard
	any      *virtualHost

	ignorePort bool
	parameters bool // of the path, from a semicolon on, do not count
	opaque     *virtualHost
}

type wildcard struct {
	text string
	host *virtualHost
}

type virtualHost struct {
	opaque  bool // nothing is known of its routes
	entries []*entry
}

// entry is a route with its conditions.
type entry struct {
	Route
	opaque  bool // its cluster is not known
	targets []*Cluster
	common  *Cluster // of several targets

	path       text
	headers    []header
	parameters []parameter
	grpc       bool
	unsure     bool // there are conditions that are not known
	never      bool
}

// NewRoutes reads a resource.
func NewRoutes(r *route.RouteConfiguration) *Routes {
	out := &Routes{exact: map[string]*virtualHost{}, ignorePort: r.GetIgnorePortInHostMatching(), parameters: r.GetIgnorePathParametersInPathMatching()}
	if r.GetVhds() != nil || r.GetVhostHeader() != "" {
		out.opaque = &virtualHost{opaque: true}
		return out
	}
	for _, v := range r.GetVirtualHosts() {
		host := hostOf(v, r)
		for _, domain := range v.GetDomains() {
			out.add(strings.ToLower(domain), host)
		}
	}
	longest := func(a, b wildcard) int { return len(b.text) - len(a.text) }
	slices.SortStableFunc(out.suffixes, longest)
	slices.SortStableFunc(out.prefixes, longest)
	return out
}

func (r *Routes) add(domain string, host *virtualHost) {
	switch {
	case domain == "*":
		r.any = host
	case strings.HasPrefix(domain, "*"):
		r.suffixes = append(r.suffixes, wildcard{domain[1:], host})
	case strings.HasSuffix(domain, "*"):
		r.prefixes = append(r.prefixes, wildcard{domain[:len(domain)-1], host})
	default:
		r.exact[domain] = host
	}
}

func hostOf(v *route.VirtualHost, r *route.RouteConfiguration) *virtualHost {
	host := &virtualHost{opaque: v.GetMatcher() != nil || v.GetRequireTls() != route.VirtualHost_NONE}
	for _, one := range v.GetRoutes() {
		host.entries = append(host.entries, entryOf(one, v, r))
	}
	return host
}

func entryOf(one *route.Route, v *route.VirtualHost, r *route.RouteConfiguration) *entry {
	m := one.GetMatch()
	e := &entry{
		Route:  Route{Name: one.GetName(), VirtualHost: v.GetName(), Resource: resource(istio(one.GetMetadata()).GetFields()["config"].GetStringValue())},
		path:   pathOf(m),
		grpc:   m.GetGrpc() != nil,
		unsure: m.GetTlsContext() != nil || len(m.GetDynamicMetadata()) > 0 || len(m.GetFilterState()) > 0 || len(m.ProtoReflect().GetUnknown()) > 0 || len(m.GetCookies()) > 0,
	}
	for _, h := range m.GetHeaders() {
		e.headers = append(e.headers, headerOf(h))
	}
	for _, p := range m.GetQueryParameters() {
		e.parameters = append(e.parameters, parameterOf(p))
	}
	if f := m.GetRuntimeFraction(); f != nil {
		share := fraction(f.GetDefaultValue())
		e.never = share == 0 && f.GetRuntimeKey() == ""
		e.unsure = e.unsure || share < 1 && !e.never
	}
	e.act(one, v, r)
	return e
}

func pathOf(m *route.RouteMatch) text {
	fold := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	switch p := m.GetPathSpecifier().(type) {
	case *route.RouteMatch_Prefix:
		if p.Prefix == "/" {
			return text{kind: textAny} // all paths begin so
		}
		return newText(textPrefix, p.Prefix, fold)
	case *route.RouteMatch_Path:
		return newText(textExact, p.Path, fold)
	case *route.RouteMatch_SafeRegex:
		return regexpOf(p.SafeRegex)
	case *route.RouteMatch_PathSeparatedPrefix:
		return newText(textPathPrefix, p.PathSeparatedPrefix, fold)
	case *route.RouteMatch_ConnectMatcher_:
		return newText(textExact, "", false) // no path is: CONNECT is not looked up
	}
	return text{}
}

// matches weighs all conditions: one that fails decides, whatever is not known of others.
func (e *entry) matches(q *query) verdict {
	if e.never {
		return no
	}
	all := e.path.matches(q.path)
	for i := 0; i < len(e.headers) && all != no; i++ {
		all = min(all, e.headers[i].matches(q))
	}
	for i := 0; i < len(e.parameters) && all != no; i++ {
		all = min(all, e.parameters[i].matches(q))
	}
	if e.grpc && all != no {
		all = min(all, q.grpc())
	}
	if e.unsure {
		all = min(all, maybe)
	}
	return all
}

// host is the virtual host of a request, in Envoy's order: the exact name, the longest suffix, the longest prefix, the default.
func (r *Routes) host(q *query) *virtualHost {
	if r.opaque != nil {
		return r.opaque
	}
	name := q.host
	if r.ignorePort {
		name = name[:portStart(name)]
	}
	if h := r.exact[name]; h != nil {
		return h
	}
	for _, w := range r.suffixes {
		if len(w.text) < len(name) && strings.HasSuffix(name, w.text) {
			return w.host
		}
	}
	for _, w := range r.prefixes {
		if len(w.text) < len(name) && strings.HasPrefix(name, w.text) {
			return w.host
		}
	}
	return r.any
}

// portStart is where the port begins in an authority, with its colon: its length if there is none.
func portStart(authority string) int {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.LastIndexByte(authority, ']') > i || i+1 == len(authority) {
		return len(authority)
	}
	if authority[0] != '[' && strings.IndexByte(authority, ':') != i {
		return len(authority) // an IPv6 address without brackets
	}
	for _, c := range []byte(authority[i+1:]) {
		if c < '0' || c > '9' {
			return len(authority)
		}
	}
	return i
}
