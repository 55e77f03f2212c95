package topology

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Ref names a resource of Istio or of the Gateway API.
type Ref struct {
	Kind      string `json:"kind"` // as Kubernetes has it; the Gateway API's Gateway is a KubernetesGateway
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Kinds of the Gateway API. Its Gateway is called otherwise here, as Istio has one of the same name.
const (
	KubernetesGateway = "KubernetesGateway"
	HTTPRoute         = "HTTPRoute"
	GRPCRoute         = "GRPCRoute"
)

// Resource is what matters of one that says how requests go. It does not change.
type Resource struct {
	Ref
	Hosts     []string          `json:"hosts,omitempty"`     // that it is about
	Gateways  []string          `json:"gateways,omitempty"`  // that it is bound to
	Selector  map[string]string `json:"selector,omitempty"`  // labels of the workloads that it is about; none: all of its namespace
	Routes    []Route           `json:"routes,omitempty"`    // of a VirtualService or HTTPRoute, in order
	Subsets   []Subset          `json:"subsets,omitempty"`   // of a DestinationRule
	TLS       string            `json:"tls,omitempty"`       // of a PeerAuthentication or DestinationRule: the mode
	PortTLS   map[uint16]string `json:"port_tls,omitempty"`  // of a PeerAuthentication: where a port has another
	Ports     []uint16          `json:"ports,omitempty"`     // of a Gateway or ServiceEntry
	Addresses []string          `json:"addresses,omitempty"` // of a ServiceEntry: virtual; of a WorkloadEntry: its own
	Detail    string            `json:"detail,omitempty"`    // what else is worth a word: "resolution DNS", "connect timeout 5s"
}

// Route is one rule of a VirtualService or HTTPRoute.
type Route struct {
	Name         string        `json:"name,omitempty"`
	Match        []string      `json:"match,omitempty"` // any of them; none: every request
	Destinations []Destination `json:"destinations,omitempty"`
	Timeout      time.Duration `json:"timeout_ns,omitempty"`
	Attempts     int           `json:"retry_attempts,omitempty"`
	TryTimeout   time.Duration `json:"per_try_timeout_ns,omitempty"`
	RetryOn      string        `json:"retry_on,omitempty"`
	Delay        time.Duration `json:"fault_delay_ns,omitempty"`
	DelayShare   float64       `json:"fault_delay_share,omitempty"` // of the requests, 0 to 1
	Abort        string        `json:"fault_abort,omitempty"`       // HTTP status, or gRPC status by name
	AbortShare   float64       `json:"fault_abort_share,omitempty"`
	Detail       string        `json:"detail,omitempty"` // redirect, direct response, mirror
}

// Destination is where a Route sends requests.
type Destination struct {
	Host   string `json:"host"`
	Subset string `json:"subset,omitempty"`
	Port   uint16 `json:"port,omitempty"`
	Weight int    `json:"weight,omitempty"`
}

// Subset is of a DestinationRule: the workloads with these labels.
type Subset struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// SetResource adds a resource or replaces the one of its Ref. The Builder owns it from then on.
func (b *Builder) SetResource(r Resource) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resources[r.Ref] = &r
}

// RemoveResource forgets the resource.
func (b *Builder) RemoveResource(ref Ref) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.resources, ref)
}

// Resource is the one of this Ref, nil: there is none now. It is the Store's.
func (s *Store) Resource(ref Ref) *Resource {
	if s == nil {
		return nil
	}
	return s.resources[ref]
}

// Resources are those there are now, by kind, namespace and name. They are the Store's.
func (s *Store) Resources() []*Resource {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(s.resources), func(x, y *Resource) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
}
