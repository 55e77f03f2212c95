// Package topology knows who is behind an address. This version has one source, a file (docs/topology-file.md); every
// source makes a Store.
package topology

import "net/netip"

// The roles a workload can be given. Sidecars are found by their process, not by their address: they share the
// workload's.
const (
	RoleUnknown = "" // not said
	RoleApp     = "app"
	RoleGateway = "gateway"
	RoleClient  = "client" // outside the mesh
)

// Workload is who is behind an address.
type Workload struct {
	Name      string
	Namespace string // Kubernetes namespace
	Service   string // service.name of the workload's own spans
	Node      string
	Role      string // one of the Role constants
}

// Store is a state of the topology. It never changes: any number of goroutines may read it, a new state is a new Store.
// A nil Store knows nobody.
type Store struct {
	byAddr map[netip.Addr]Workload // unmapped, without zone
}

// ByAddr is the workload with this address; 4-in-6 addresses are their IPv4 address, a zone is ignored. Constant time.
func (s *Store) ByAddr(addr netip.Addr) (Workload, bool) {
	if s == nil {
		return Workload{}, false
	}
	w, ok := s.byAddr[addr.Unmap().WithZone("")]
	return w, ok
}

// Len is the number of addresses known.
func (s *Store) Len() int {
	if s == nil {
		return 0
	}
	return len(s.byAddr)
}
