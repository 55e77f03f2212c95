package topology

import "slices"

// RootNamespace is Istio's: what PeerAuthentications without a selector say there is for the whole mesh.
const RootNamespace = "istio-system"

// Modes of PeerAuthentications, as Istio has them.
const (
	ModeStrict     = "STRICT"
	ModePermissive = "PERMISSIVE"
	modeUnset      = "UNSET"
)

// PeerRules are the PeerAuthentications of a Store, by namespace.
type PeerRules map[string][]*Resource

// PeerRules are those there are now.
func (s *Store) PeerRules() PeerRules {
	out := PeerRules{}
	for _, r := range s.Resources() {
		if r.Kind == "PeerAuthentication" {
			out[r.Namespace] = append(out[r.Namespace], r)
		}
	}
	return out
}

// Mode says how a workload is to take connections at its port, and which resource says so (zero: none does, it is the default). Empty: it
// is not sure, as labels are not known, or as several resources differ of which the oldest counts.
func (p PeerRules) Mode(e *Entry, port uint16) (mode string, by Ref) {
	var own, namespace []*Resource
	for _, r := range p[e.Workload.Namespace] {
		switch {
		case len(r.Selector) == 0:
			namespace = append(namespace, r)
		case e.Labels == nil:
			return "", Ref{}
		case selects(r.Selector, e.Labels):
			own = append(own, r)
		}
	}
	var root []*Resource
	if e.Workload.Namespace != RootNamespace {
		root = slices.DeleteFunc(slices.Clone(p[RootNamespace]), func(r *Resource) bool { return len(r.Selector) > 0 })
	}
	for i, level := range [...][]*Resource{own, namespace, root} {
		mode, by, sure := said(level, port, i == 0)
		if !sure || mode != modeUnset {
			return mode, by
		}
	}
	return ModePermissive, Ref{}
}

// said is what resources of one level say. ports: what they say of ports counts, which Istio's do with a selector only.
func said(level []*Resource, port uint16, ports bool) (mode string, by Ref, sure bool) {
	mode = modeUnset
	for _, r := range level {
		one := r.TLS
		if ports && len(r.PortTLS) > 0 {
			if port == 0 {
				return "", Ref{}, false
			}
			if special := r.PortTLS[port]; special != "" && special != modeUnset {
				one = special
			}
		}
		if one == "" {
			one = modeUnset
		}
		if by != (Ref{}) && one != mode {
			return "", Ref{}, false
		}
		mode, by = one, r.Ref
	}
	return mode, by, true
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}
