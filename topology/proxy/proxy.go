// Package proxy says by which route, to which cluster and under which rules an Envoy relayed a request, from the configuration that a
// control plane gave it. Nothing here does I/O. What is not sure is not said: a wrong label is worse than none.
package proxy

import (
	"net/netip"
	"time"
)

// Direction is which of a proxy's listeners took a request.
type Direction uint8

// The directions.
const (
	Outbound Direction = iota // a sidecar's, for the app beside it
	Inbound                   // a sidecar's, to the app beside it
	Gateway                   // of a listener that is bound to its port
)

// Presence is what is known of a header.
type Presence uint8

// What can be known of a header. The zero value: nothing.
const (
	Unknown Presence = iota
	Absent
	Present
)

// Request is what is known of a request as the proxy received it.
type Request struct {
	Direction Direction
	Local     netip.AddrPort // what the client connected to, before any redirect
	TLS       bool           // the downstream connection
	SNI       string         // of its handshake; empty: not known
	Protocol  string         // http/1.0, http/1.1 or http/2; empty: not known
	Authority string         // Host or :authority, as sent
	Method    string
	Path      string // the target as sent, with its query
	NoQuery   bool   // the query was cut off, if there was one
	// Header is a header's value, by its name in lower case; several of a name are joined by commas. nil: none is known.
	Header   func(name string) (string, Presence)
	Upstream netip.AddrPort // whom the proxy asked; zero: not known, or nobody
}

// Answer is what governed a request. It is the Config's: nobody changes it.
type Answer struct {
	Route   *Route   // nil: not sure, or none
	Cluster *Cluster // nil: not sure, or none
	Why     Reason   // something is missing; empty: all is said
}

// Reason is why something is not said. Of low cardinality.
type Reason string

// The reasons.
const (
	NoConfig     Reason = "no-config"    // nothing is (yet) known of the proxy
	NoListener   Reason = "no-listener"  // none of the proxy's takes such a connection
	NoHTTP       Reason = "no-http"      // the listener passes bytes on
	NoRoutes     Reason = "no-routes"    // not (yet) received
	NoMatch      Reason = "no-match"     // no virtual host or route: the proxy answers 404
	Filter       Reason = "filter"       // a filter may change the request before it is routed
	Path         Reason = "path"         // the proxy may read the path in another form than it was sent
	Condition    Reason = "condition"    // a condition of a route cannot be decided from what is known
	Listeners    Reason = "listeners"    // several filter chains may have taken it, and they differ
	Weights      Reason = "weights"      // which of a route's clusters it was
	Changing     Reason = "changing"     // the proxy was told something else around that time
	Contradicted Reason = "contradicted" // the route's cluster has no such endpoint
)

// Unsaid are the reasons for which less is said than the proxy itself knew: all but NoHTTP and NoMatch, which are how it was.
func Unsaid() []Reason {
	return []Reason{NoConfig, NoListener, NoRoutes, Filter, Path, Condition, Listeners, Weights, Changing, Contradicted}
}

// Route is a route of a virtual host. Empty fields of one that stands for several possible ones are not known.
type Route struct {
	Name        string
	VirtualHost string
	Resource    Resource // that defined it, such as a VirtualService
	Policy      *Policy  // nil: not known
}

// Policy is what a route does to requests beside sending them on. A request's own x-envoy-… headers may override timeout and retries.
type Policy struct {
	Timeout time.Duration // for the whole response; 0: none
	Retry   *Retry        // nil: none
	Mirrors []Mirror
	Fault   *Fault // nil: none
	Local   string // "redirect", "response": the proxy answers by itself; else empty
}

// Retry is when and how often a request is repeated.
type Retry struct {
	On     string        // Envoy's conditions, separated by commas
	Most   uint32        // attempts after the first
	PerTry time.Duration // 0: the route's timeout
}

// Mirror is a cluster that gets a copy.
type Mirror struct {
	Cluster string
	Share   float64 // of requests, 0 to 1
}

// Fault is what is injected.
type Fault struct {
	Delay      time.Duration
	DelayShare float64 // of requests, 0 to 1
	Abort      uint32  // HTTP status
	AbortShare float64
}

// Cluster is whom a route sends requests to. Its name is empty where several are possible, with what they have in common.
type Cluster struct {
	Name     string
	Port     uint16   // of the service; inbound the pod's
	Subset   string   // of a DestinationRule
	Host     string   // the service's
	Resource Resource // such as a DestinationRule

	service string // its endpoints' name; empty: they are not told by EDS
	fixed   *Endpoints
}

// Resource is an object of Istio's configuration.
type Resource struct {
	Kind      string // such as VirtualService
	Namespace string
	Name      string
}

// Config is a proxy's configuration. It never changes, so any number of goroutines may use it. A nil Config knows nothing.
type Config struct {
	listeners listeners
	routes    map[string]*Routes
	clusters  map[string]*Cluster
	endpoints map[string]*Endpoints
}

// New makes a Config of resources by their names, which it owns from then on. Endpoints are by the cluster's name in EDS.
func New(l map[string]*Listener, r map[string]*Routes, c map[string]*Cluster, e map[string]*Endpoints) *Config {
	return &Config{listeners: index(l), routes: r, clusters: c, endpoints: e}
}

// Len is the number of resources.
func (c *Config) Len() int {
	if c == nil {
		return 0
	}
	return c.listeners.count + len(c.routes) + len(c.clusters) + len(c.endpoints)
}

// Lookup says what governed a request. It allocates only where several routes or listeners are possible.
func (c *Config) Lookup(r *Request) Answer {
	if c == nil {
		return Answer{Why: NoConfig}
	}
	var room [maxChains]*chain
	chains, sure := c.listeners.chains(r, room[:0])
	if len(chains) == 0 {
		return Answer{Why: NoListener}
	}
	if !sure {
		return Answer{Why: Listeners}
	}
	var so possible
	for _, ch := range chains {
		so.add(c.through(ch, r), Listeners)
	}
	return so.Answer
}

// possible is what all answers that may be have in common.
type possible struct {
	Answer
	some bool
}

// add takes one more. One that the endpoint speaks against is none, unless there is no other.
func (p *possible) add(a Answer, why Reason) {
	switch {
	case !p.some || p.Why == Contradicted:
		p.Answer, p.some = a, true
	case a.Why != Contradicted:
		p.Answer = p.and(a, why)
	}
}

// through is the answer if this chain took the request.
func (c *Config) through(ch *chain, r *Request) Answer {
	if ch.http == nil {
		return Answer{Cluster: c.cluster(ch.tcp), Why: NoHTTP}
	}
	h := ch.http
	if h.opaque {
		return Answer{Why: Filter}
	}
	routes := h.inline
	if routes == nil {
		if routes = c.routes[h.rds]; routes == nil {
			return Answer{Why: NoRoutes}
		}
	}
	q, ok := h.query(r)
	if !ok {
		return Answer{Why: Path}
	}
	return c.route(routes, &q)
}

// route finds the first route that matches, or what all that may be it have in common.
func (c *Config) route(routes *Routes, q *query) Answer {
	host := routes.host(q)
	if host == nil {
		return Answer{Why: NoMatch}
	}
	if host.opaque {
		return Answer{Why: Condition}
	}
	var so possible
	for _, e := range host.entries {
		is := e.matches(q)
		if is == no {
			continue
		}
		so.add(c.decide(e, q), Condition)
		if is == yes {
			return so.Answer
		}
	}
	switch {
	case !so.some:
		return Answer{Why: NoMatch}
	case !q.Upstream.IsValid(): // or none of them was
		return Answer{Why: Condition}
	}
	return so.Answer
}

// decide is the answer if this route was taken: it chooses among its clusters.
func (c *Config) decide(e *entry, q *query) Answer {
	answer := Answer{Route: &e.Route}
	upstream := q.Upstream
	switch {
	case e.opaque:
		answer.Why = Weights
	case len(e.targets) == 0:
	case len(e.targets) == 1:
		cl := c.cluster(e.targets[0])
		if upstream.IsValid() && c.has(cl, upstream) == no {
			return Answer{Why: Contradicted}
		}
		answer.Cluster = cl
	default:
		answer.Cluster, answer.Why = c.choose(e, upstream)
		if answer.Why == Contradicted {
			answer.Route = nil
		}
	}
	return answer
}

// choose is the one of several clusters that has the endpoint that was asked.
func (c *Config) choose(e *entry, upstream netip.AddrPort) (*Cluster, Reason) {
	if !upstream.IsValid() {
		return e.common, Weights
	}
	var found *Cluster
	for _, t := range e.targets {
		cl := c.cluster(t)
		switch c.has(cl, upstream) {
		case maybe:
			return e.common, Weights
		case yes:
			if found != nil {
				return e.common, Weights
			}
			found = cl
		}
	}
	if found == nil {
		return nil, Contradicted
	}
	return found, ""
}

// cluster is the one that is meant. What its name tells is known even before the cluster is.
func (c *Config) cluster(named *Cluster) *Cluster {
	if named == nil {
		return nil
	}
	if known := c.clusters[named.Name]; known != nil {
		return known
	}
	return named
}

// has says whether an address is an endpoint of a cluster.
func (c *Config) has(cl *Cluster, addr netip.AddrPort) verdict {
	e := cl.fixed
	if e == nil {
		if cl.service == "" {
			return maybe
		}
		if e = c.endpoints[cl.service]; e == nil {
			return maybe
		}
	}
	return e.has(addr)
}

// and is what two possible answers have in common.
func (a Answer) and(b Answer, why Reason) Answer {
	if a == b {
		return a
	}
	out := Answer{Route: bothRoutes(a.Route, b.Route), Cluster: both(a.Cluster, b.Cluster), Why: why}
	if a.Why == b.Why && a.Route.same(out.Route) && b.Route.same(out.Route) && a.Cluster.same(b.Cluster) {
		out.Why = a.Why // they differ in nothing that is said
	}
	return out
}

func (r *Route) same(o *Route) bool {
	if r == nil || o == nil {
		return r == o
	}
	return r.Name == o.Name && r.VirtualHost == o.VirtualHost && r.Resource == o.Resource && r.Policy.equal(o.Policy)
}

func (c *Cluster) same(o *Cluster) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.Name == o.Name && c.Host == o.Host
}

func bothRoutes(a, b *Route) *Route {
	if a == nil || b == nil {
		return nil
	}
	if a == b {
		return a
	}
	out := Route{}
	if a.Name == b.Name {
		out.Name = a.Name
	}
	if a.VirtualHost == b.VirtualHost {
		out.VirtualHost = a.VirtualHost
	}
	if a.Resource == b.Resource {
		out.Resource = a.Resource
	}
	if a.Policy.equal(b.Policy) {
		out.Policy = a.Policy
	}
	if out == (Route{}) {
		return nil
	}
	return &out
}

// both is what two clusters have in common.
func both(a, b *Cluster) *Cluster {
	switch {
	case a == nil || b == nil:
		return nil
	case a == b || a.Name == b.Name && a.Name != "":
		return a
	case a.Host == "" || a.Host != b.Host:
		return nil
	}
	out := &Cluster{Host: a.Host}
	if a.Port == b.Port {
		out.Port = a.Port
	}
	if a.Subset == b.Subset {
		out.Subset = a.Subset
	}
	if a.Resource == b.Resource {
		out.Resource = a.Resource
	}
	return out
}
