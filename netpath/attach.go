package netpath

// AttachPoint is a namespace that is to be watched.
type AttachPoint struct {
	Netns uint32
	Name  string // of the namespace
	Links []Link // that get tc ingress and egress, where tracepoints do not do; the namespace's own, not to be changed
}

// AttachPoints says where to attach, the host first, then by name.
//
// Links: those that are up, of every kind that carries packets: lo, both sides of a veth, a bridge itself (for what ends on
// this node), physical devices, tunnels, VLANs, macvlan, tun. Not: links that are down (they get an event when they come
// up), ifb, dummy and monitors (no traffic between places), and the ports of a bond or team, whose packets the bond shows.
//
// Namespaces without a single such link but lo are left alone: nothing reaches them, so no request does (a service with
// PrivateNetwork, a pod that is still being set up).
func AttachPoints(s *State) []AttachPoint {
	var out []AttachPoint
	for _, n := range s.Sorted() {
		p, reached := AttachPoint{Netns: n.Inum, Name: n.Name}, false
		for i := range n.Links {
			l := &n.Links[i]
			if !attachable(n, l) {
				continue
			}
			p.Links = append(p.Links, *l)
			reached = reached || l.Kind != KindLoopback
		}
		if reached {
			out = append(out, p)
		}
	}
	return out
}

func attachable(n *Namespace, l *Link) bool {
	if !l.Up {
		return false
	}
	switch l.Kind {
	case "ifb", "dummy", "nlmon", "vcan", "vrf":
		return false
	}
	if master := n.Link(l.Master); l.Master != 0 && master != nil && (master.Kind == "bond" || master.Kind == "team") {
		return false
	}
	return true
}
