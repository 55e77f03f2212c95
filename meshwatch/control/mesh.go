package control

import (
	"net/netip"
	"time"

	"github.com/meshwatch/meshwatch/topology"
)

// Mesh is what the topology has.
type Mesh struct {
	Workloads []Workload           `json:"workloads"` // by namespace and name
	Services  []Service            `json:"services"`  // by namespace and host
	Resources []*topology.Resource `json:"resources"` // of Istio and the Gateway API; by kind, namespace and name
}

// Workload is who is behind addresses.
type Workload struct {
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name"`
	Kind      string            `json:"kind,omitempty"`
	Service   string            `json:"service,omitempty"` // service.name of its own spans
	Version   string            `json:"version,omitempty"`
	Role      string            `json:"role,omitempty"`
	Account   string            `json:"service_account,omitempty"`
	Node      string            `json:"node,omitempty"`
	Region    string            `json:"region,omitempty"`
	Zone      string            `json:"zone,omitempty"`
	Cluster   string            `json:"cluster,omitempty"`
	Network   string            `json:"network,omitempty"`
	Addresses []netip.Addr      `json:"addresses,omitempty"`
	Services  []string          `json:"services,omitempty"`     // namespace/host of each that it is behind
	Ports     []uint16          `json:"ports,omitempty"`        // on which it listens for these
	Shared    bool              `json:"host_network,omitempty"` // it has its node's addresses
	Unhealthy bool              `json:"unhealthy,omitempty"`    // it gets no requests
	Excludes  map[string]string `json:"excludes,omitempty"`     // what its sidecar leaves alone, by annotation
}

// Service is what clients ask for by name.
type Service struct {
	Namespace string       `json:"namespace,omitempty"`
	Name      string       `json:"name"`
	Host      string       `json:"host"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // virtual; none: headless, or outside
	Ports     []Port       `json:"ports,omitempty"`
	Workloads int          `json:"workloads"` // behind it; 0 and a port: nobody answers
}

// Port is a service's, and where its workloads listen for it.
type Port struct {
	Service uint16 `json:"service"`
	Target  uint16 `json:"target,omitempty"`
}

// Who says whose an address is.
type Who struct {
	Address  string    `json:"address"`
	Workload *Workload `json:"workload,omitempty"` // nil: nobody's as far as is known, or not sure
	Services []Service `json:"services,omitempty"` // with this virtual address
	Known    bool      `json:"known"`              // somebody has it, or lately had
}

// Rule is a route as a proxy was told of it.
type Rule struct {
	Table    string        `json:"table"` // the route configuration
	Domains  []string      `json:"domains"`
	Name     string        `json:"name,omitempty"`
	Path     string        `json:"path,omitempty"`            // exact, prefix* or ~regular expression
	More     int           `json:"more_conditions,omitempty"` // on headers and parameters
	Clusters []string      `json:"clusters,omitempty"`
	Empty    []string      `json:"clusters_without_endpoint,omitempty"`
	Timeout  time.Duration `json:"timeout_ns,omitempty"`
	Retries  uint32        `json:"retries,omitempty"`
	RetryOn  string        `json:"retry_on,omitempty"`
	Fault    string        `json:"fault,omitempty"`    // for people
	Resource string        `json:"resource,omitempty"` // that defined it: kind namespace/name
}
