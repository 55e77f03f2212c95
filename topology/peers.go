package topology

import (
	"maps"
	"slices"
)

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
// is not sure, as its labels or the port are not known, or as several resources differ of which the oldest counts; by is then one of those that
// may count and say STRICT (zero: none does).
func (p PeerRules) Mode(e *Entry, port uint16) (mode string, by Ref) {
	may := p.may(e, port)
	for _, a := range may[1:] {
		if a.mode == may[0].mode {
			continue
		}
		for _, a := range may {
			if a.mode == ModeStrict {
				return "", a.by
			}
		}
		return "", Ref{}
	}
	return may[0].mode, may[0].by
}

// answer is what a resource says.
type answer struct {
	mode string
	by   Ref
}

// may is all that may count for a workload at its port; it is sure if it is all of one mode.
func (p PeerRules) may(e *Entry, port uint16) []answer {
	var own, others []*Resource
	for _, r := range p[e.Workload.Namespace] {
		switch {
		case len(r.Selector) == 0:
			others = append(others, r)
		case r.Namespace != RootNamespace && (e.Labels == nil || selects(r.Selector, e.Labels)): // those of the root with a selector count nowhere
			own = append(own, r)
		}
	}
	levels := [][]*Resource{own, others}
	if e.Workload.Namespace != RootNamespace {
		levels = append(levels, slices.DeleteFunc(slices.Clone(p[RootNamespace]), func(r *Resource) bool { return len(r.Selector) > 0 }))
	}
	out := first(levels, port)
	if len(own) > 0 && e.Labels == nil { // none of them may be its own
		out = append(out, first(levels[1:], port)...)
	}
	return out
}

// first is what the first level with a resource says, whichever of it is the oldest; where that leaves it open, the next.
func first(levels [][]*Resource, port uint16) (out []answer) {
	if len(levels) == 0 {
		return []answer{{mode: ModePermissive}}
	}
	if len(levels[0]) == 0 {
		return first(levels[1:], port)
	}
	for _, r := range levels[0] {
		for _, mode := range r.modes(port) {
			if mode == modeUnset || mode == "" {
				out = append(out, first(levels[1:], port)...)
			} else {
				out = append(out, answer{mode, r.Ref})
			}
		}
	}
	return out
}

// modes are what a PeerAuthentication may say of a port, which is 0 if it is not known. What it says of ports counts with a selector only.
func (r *Resource) modes(port uint16) []string {
	special := r.PortTLS[port]
	switch {
	case len(r.Selector) == 0 || len(r.PortTLS) == 0:
	case port == 0:
		return append(slices.Sorted(maps.Values(r.PortTLS)), r.TLS)
	case special != "" && special != modeUnset:
		return []string{special}
	}
	return []string{r.TLS}
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}
