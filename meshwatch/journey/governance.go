package journey

import "time"

// Governance is what the configuration of a proxy says of a request that it received. Empty fields are not known, or there is no such
// thing; Unknown says why something is not known.
type Governance struct {
	Route       string   `json:"route,omitempty"`
	VirtualHost string   `json:"virtual_host,omitempty"`
	Defined     Resource `json:"defined,omitzero"` // what has the route, such as a VirtualService
	Policy      *Policy  `json:"policy,omitempty"` // nil: not known
	Cluster     string   `json:"cluster,omitempty"`
	Subset      string   `json:"subset,omitempty"`
	Service     string   `json:"service,omitempty"`    // host of the service that was asked for
	Destination Resource `json:"destination,omitzero"` // what has the rules for the cluster, such as a DestinationRule
	Unknown     string   `json:"unknown,omitempty"`    // docs/topology.md has the reasons
}

// Resource is an object of the mesh's configuration.
type Resource struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is namespace/name, empty for none.
func (r Resource) String() string {
	if r == (Resource{}) {
		return ""
	}
	return r.Namespace + "/" + r.Name
}

// Policy is what a route does to requests, as configured.
type Policy struct {
	Timeout    time.Duration `json:"timeout_ns"`            // 0: none
	RetryOn    string        `json:"retry_on,omitempty"`    // Envoy's conditions; empty: none is repeated
	Retries    uint32        `json:"retries"`               // attempts after the first, at most
	PerTry     time.Duration `json:"per_try_timeout_ns"`    // 0: the whole timeout
	Mirrors    []string      `json:"mirrors,omitempty"`     // clusters that get a copy of all requests or some
	Delay      time.Duration `json:"fault_delay_ns"`        //
	DelayShare float64       `json:"fault_delay_share"`     // of requests, 0 to 1
	Abort      uint32        `json:"fault_abort,omitempty"` // status
	AbortShare float64       `json:"fault_abort_share"`     // likewise
	Local      string        `json:"answered_by,omitempty"` // the proxy itself: redirect, response
}
