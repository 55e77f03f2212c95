// Package topology knows who is behind an address, and who was. A source (a file, docs/topology-file.md; a control plane, package
// xds) tells a Builder what it learns, the Builder makes Stores.
package topology

import (
	"cmp"
	"net/netip"
	"slices"
)

// The roles a workload can be given. Sidecars are found by their process, not by their address: they share the
// workload's.
const (
	RoleUnknown = "" // not said
	RoleApp     = "app"
	RoleGateway = "gateway"
	RoleClient  = "client" // outside the mesh
)

// KindPod is the Workload.Kind of pods.
const KindPod = "Pod"

// Workload is who is behind an address.
type Workload struct {
	Name      string // the pod's, WorkloadEntry's or ServiceEntry's
	Namespace string // Kubernetes namespace
	Kind      string // of the object that Name is of, empty: not said
	UID       string // of that object, in Kubernetes
	Service   string // service.name of the workload's own spans; in a mesh its canonical name
	Node      string
	Role      string // one of the Role constants

	ServiceNamespace string // service.namespace of the workload's own spans, empty: Namespace
	Version          string // service.version of the workload's own spans, empty: Revision

	Revision string // canonical revision
	Account  string // service account
	Cluster  string // Istio's id of its Kubernetes cluster
	Network  string // Istio's: addresses are unique in one
	Region   string
	Zone     string
}

// Service is what clients ask for by name.
type Service struct {
	Name      string
	Namespace string
	Host      string // fully qualified
	Addresses []VIP  // none: headless, or a host outside
	Ports     []Port
}

// VIP is a virtual address in an Istio network.
type VIP struct {
	Network string
	Addr    netip.Addr
}

// Port is a service's port and where its workloads listen for it.
type Port struct{ Service, Target uint16 }

// Entry is a workload as a source has it.
type Entry struct {
	Workload  Workload
	Addresses []netip.Addr
	Ports     []uint16 // on which it listens for its services
	Services  []string // namespace/host of each
	Shared    bool     // it is in its node's network namespace, and has its node's addresses
	Unhealthy bool     // it gets no requests
	// Labels are the pod's or the WorkloadEntry's; nil: not known.
	Labels map[string]string
	// Excludes are what its sidecar leaves alone, by the annotation's name after traffic.sidecar.istio.io/: excludeInboundPorts → 9090.
	Excludes map[string]string
}

// Moment is when a source learned something. In CLOCK_MONOTONIC ns, as all times of this package.
type Moment struct {
	At    uint64
	Since uint64 // it may have been so from then on: sources learn late
}

// Lateness is how much later than it happened a source that is connected tells of a change, at most: istiod holds changes back
// for 10 s (PILOT_DEBOUNCE_MAX) when there are many.
const Lateness = uint64(10e9)

// First is when what a source says first was so: always, unless it comes so late that somebody else may have had the addresses since
// the source was first asked. Then it counts from now on, and nobody is sure to have had them before.
func First(now, asked uint64) Moment {
	if now-min(asked, now) <= Lateness {
		return Moment{}
	}
	return Moment{At: now}
}

// version is who had an address from a time on, until the next version.
type version struct {
	from   uint64
	since  uint64
	owners []*owner // none: nobody known
}

// owner is an entry under its name in a source. It does not change.
type owner struct {
	name string
	Entry
}

// Store is a state of the topology. It never changes: any number of goroutines may read it, a new state is a new Store.
// A nil Store knows nobody.
type Store struct {
	byAddr   map[netip.Addr][]version // unmapped, without zone; oldest first
	owned    int                      // addresses that somebody has now
	owners   []*owner
	services []*Service
	byVIP    map[netip.Addr][]*Service

	resources map[Ref]*Resource
	serial    uint64 // of its Builder
}

// After says whether this Store was made after the other one of the same Builder, which may be nil.
func (s *Store) After(other *Store) bool { return other == nil || s.serial > other.serial }

// Lookup is the workload that had this address at a time, as far as that is sure. 4-in-6 addresses are their IPv4 address, a
// zone is ignored. Nobody is known before a source told of the first one, and while the address may already have belonged to
// the next one. Where several have the address, or one in its node's network namespace, the port on which they listen
// decides. No allocation.
func (s *Store) Lookup(addr netip.AddrPort, at uint64) (*Workload, bool) {
	if o := s.find(addr, at); o != nil {
		return &o.Workload, true
	}
	return nil, false
}

// Entry is all that is now known of the workload that Lookup finds, nil: it finds none. It looks at all entries, and allocates nothing.
func (s *Store) Entry(addr netip.AddrPort, at uint64) *Entry {
	found := s.find(addr, at)
	if found == nil {
		return nil
	}
	for _, o := range s.owners {
		if o.name == found.name { // what Lookup does not look at may have changed since it has the address
			return &o.Entry
		}
	}
	return &found.Entry
}

func (s *Store) find(addr netip.AddrPort, at uint64) *owner {
	if s == nil {
		return nil
	}
	versions := s.byAddr[plain(addr.Addr())]
	i := len(versions) - 1
	for i >= 0 && versions[i].from > at {
		i--
	}
	if i < 0 {
		return nil
	}
	o := versions[i].owner(addr.Port())
	if o == nil {
		return nil
	}
	for _, later := range versions[i+1:] {
		if later.since <= at && later.brings(versions[i].owners) {
			return nil
		}
	}
	return o
}

// owner is who listens there; nil where that is not sure.
func (v *version) owner(port uint16) (found *owner) {
	if len(v.owners) == 1 && !v.owners[0].Shared {
		return v.owners[0]
	}
	for _, o := range v.owners {
		if o.Workload.Network != v.owners[0].Workload.Network || o.Workload.Cluster != v.owners[0].Workload.Cluster {
			return nil // the port says nothing of the network
		}
		if !o.listens(port) {
			continue
		}
		if found != nil {
			return nil
		}
		found = o
	}
	return found
}

func (o *owner) listens(port uint16) bool {
	for _, p := range o.Ports {
		if p == port {
			return true
		}
	}
	return false
}

// brings says whether somebody has the address who is not among those before.
func (v *version) brings(before []*owner) bool {
	for _, o := range v.owners {
		known := false
		for _, b := range before {
			known = known || b.name == o.name
		}
		if !known {
			return true
		}
	}
	return false
}

// Has says whether anybody has or lately had the address.
func (s *Store) Has(addr netip.Addr) bool {
	return s != nil && len(s.byAddr[plain(addr)]) > 0
}

// Gone says whether an address was somebody's, as far as is remembered, and was nobody's at a time.
func (s *Store) Gone(addr netip.Addr, at uint64) bool {
	if s == nil {
		return false
	}
	versions := s.byAddr[plain(addr)]
	i := len(versions) - 1
	for i >= 0 && versions[i].from > at {
		i--
	}
	return i >= 0 && len(versions[i].owners) == 0
}

// ServicesAt are the services with this virtual address.
func (s *Store) ServicesAt(addr netip.Addr) []*Service {
	if s == nil {
		return nil
	}
	return s.byVIP[plain(addr)]
}

// Behind is how many workloads are now behind a service. It looks at all entries.
func (s *Store) Behind(service *Service) (n int) {
	name := service.Namespace + "/" + service.Host
	for _, o := range s.owners {
		if slices.Contains(o.Services, name) {
			n++
		}
	}
	return n
}

// Entries are the workloads there are now, by namespace and name. They are the Store's.
func (s *Store) Entries() []*Entry {
	if s == nil {
		return nil
	}
	out := make([]*Entry, len(s.owners))
	for i, o := range s.owners {
		out[i] = &o.Entry
	}
	slices.SortFunc(out, func(x, y *Entry) int {
		return cmp.Or(cmp.Compare(x.Workload.Namespace, y.Workload.Namespace), cmp.Compare(x.Workload.Name, y.Workload.Name))
	})
	return out
}

// Services are those there are now, by namespace and host. They are the Store's.
func (s *Store) Services() []*Service {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(slices.Values(s.services), func(x, y *Service) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Host, y.Host))
	})
}

// Len is the number of addresses that somebody has now.
func (s *Store) Len() int {
	if s == nil {
		return 0
	}
	return s.owned
}

func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }
