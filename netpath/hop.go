package netpath

// Class says whose time a hop is, as far as the datapath alone tells. The words are those of journey.Class.
type Class string

// The classes of hops.
const (
	ClassNode    Class = "node"
	ClassNetwork Class = "network"
	ClassUnknown Class = "unknown"
)

// HopName is what the interval between two neighbouring stamps is called. Name is of low cardinality: it holds no name of
// a link or namespace.
type HopName struct {
	Name  string
	Kind  string // iptables, loopback, veth, bridge, forward, tunnel, wire, retransmit, drop, reset, vlan, …, other
	Class Class
}

func iptables(chains string) HopName { return HopName{"iptables " + chains, "iptables", ClassNode} }

// localHops are intervals inside one namespace that cross no link. Where a hook is not attached, the interval holds more
// than one chain, and its name says so.
var localHops = [hookCount][hookCount]HopName{
	HookOutput: {
		HookPostrouting: iptables("OUTPUT"),
		HookEgress:      iptables("OUTPUT+POSTROUTING"),
	},
	HookPostrouting: {
		HookEgress: iptables("POSTROUTING"),
	},
	HookIngress: {
		HookForward:     iptables("PREROUTING"),
		HookInput:       iptables("PREROUTING"),
		HookDelivered:   iptables("PREROUTING+INPUT"),
		HookPostrouting: iptables("PREROUTING+FORWARD"),
	},
	HookInput: {
		HookDelivered: iptables("INPUT"),
	},
	HookForward: {
		HookPostrouting: iptables("FORWARD"),
		HookEgress:      iptables("FORWARD+POSTROUTING"),
	},
}

// The hops that are not rules.
var (
	hopLoopback   = HopName{"loopback", "loopback", ClassNode}
	hopVeth       = HopName{"veth", "veth", ClassNode}
	hopBridge     = HopName{"bridge", "bridge", ClassNode}
	hopForward    = HopName{"forwarding", "forward", ClassNode}
	hopEncap      = HopName{"tunnel", "tunnel", ClassNode}
	hopTunnel     = HopName{"tunnel", "tunnel", ClassNetwork}
	hopWire       = HopName{"wire", "wire", ClassNetwork}
	hopRetransmit = HopName{"retransmission wait", "retransmit", ClassNetwork}
)

// Hop names the interval between two neighbouring stamps of one flight. Unknown pairs get an honest "<hook> to <hook>".
// It does not allocate for the usual pairs.
func (s *State) Hop(from, to Place) HopName {
	switch to.Hook {
	case HookRetransmit, HookOutput: // sent again: until then the sender waited
		return hopRetransmit
	case HookDrop, HookReset:
		return HopName{from.Hook.String() + " to " + to.Hook.String(), to.Hook.String(), ClassUnknown}
	}
	if from.Hook >= hookCount || to.Hook >= hookCount {
		return generic(from, to)
	}
	if from.Netns == 0 || to.Netns == 0 { // places that Resolve did not know: nothing says that they are one
		return generic(from, to)
	}
	a, b := s.Link(from.Netns, from.Ifindex), s.Link(to.Netns, to.Ifindex)
	if from.Netns == to.Netns {
		if hop := localHops[from.Hook][to.Hook]; hop.Name != "" {
			return withBridge(hop, from, to, a, b)
		}
	}
	switch {
	case to.Hook == HookEgress && from.Hook == HookIngress && from.Netns == to.Netns:
		return through(a, b)
	case from.Hook == to.Hook && (to.Hook == HookEgress || to.Hook == HookIngress):
		return s.stacked(from, to, a, b)
	case leaves(from.Hook) && arrives(to.Hook):
		return s.crossing(from, to, a, b)
	}
	return generic(from, to)
}

func generic(from, to Place) HopName {
	return HopName{from.Hook.String() + " to " + to.Hook.String(), "other", ClassUnknown}
}

// withBridge says where the bridge's work is in the interval too: from or to one of its ports, rules and bridge are not
// told apart, whether the rules are the bridge's (br_netfilter) or the host's.
func withBridge(hop HopName, from, to Place, a, b *Link) HopName {
	switch {
	case from.Hook == HookIngress && a != nil && a.Master != 0:
		hop.Name = "bridge + " + hop.Name
	case to.Hook == HookEgress && b != nil && b.Master != 0:
		hop.Name += " + bridge"
	}
	return hop
}

// through is from one link's ingress to another's egress in one namespace.
func through(a, b *Link) HopName {
	switch {
	case a != nil && b != nil && a.Master != 0 && a.Master == b.Master:
		return hopBridge
	default:
		return hopForward
	}
}

// stacked is between the same hook of two links, one above the other: a bridge and its port, a VLAN and its device.
func (s *State) stacked(from, to Place, a, b *Link) HopName {
	if a == nil || b == nil || from.Netns == to.Netns && a.Index == b.Index {
		return generic(from, to)
	}
	upper, lower, upperNetns, lowerNetns := a, b, from.Netns, to.Netns // a packet goes down on egress, up on ingress
	if to.Hook == HookIngress {
		upper, lower, upperNetns, lowerNetns = b, a, to.Netns, from.Netns
	}
	switch {
	case lower.Master == upper.Index && upperNetns == lowerNetns:
		if upper.Kind == KindBridge {
			return hopBridge
		}
		return HopName{upper.Kind, upper.Kind, ClassNode}
	case upper.Tunnel():
		return hopEncap
	case upper.Parent == lower.Index && s.parentNetns(upper, upperNetns) == lowerNetns:
		return HopName{upper.Kind, upper.Kind, ClassNode}
	}
	return generic(from, to)
}

func (s *State) parentNetns(l *Link, netns uint32) uint32 {
	if l.PeerNetns != 0 {
		return l.PeerNetns
	}
	return netns
}

func leaves(h Hook) bool {
	return h == HookOutput || h == HookPostrouting || h == HookForward || h == HookEgress
}

func arrives(h Hook) bool {
	return h == HookIngress || h == HookForward || h == HookInput || h == HookDelivered
}

// crossing is from the sending side of a link to the receiving side of its other end, with the rules on both sides whose
// hooks are not attached.
func (s *State) crossing(from, to Place, a, b *Link) HopName {
	hop, ok := s.medium(from, to, a, b)
	if !ok {
		return generic(from, to)
	}
	if from.Hook != HookEgress {
		hop.Name = localHops[from.Hook][HookEgress].Name + " + " + hop.Name
	}
	if to.Hook != HookIngress {
		hop.Name += " + " + localHops[HookIngress][to.Hook].Name
	}
	return hop
}

// medium is what lies between a link's egress and the ingress at which the packet was seen next.
func (s *State) medium(from, to Place, a, b *Link) (HopName, bool) {
	is := func(l *Link, kind string) bool { return l != nil && l.Kind == kind }
	isLoopback := func(l *Link, ifindex uint32) bool { return ifindex == 0 || is(l, KindLoopback) }
	switch {
	case from.Netns == to.Netns && isLoopback(a, from.Ifindex) && isLoopback(b, to.Ifindex):
		return hopLoopback, true // where no hook knew a link, too: what one namespace sends itself goes by lo
	case a != nil && a.Tunnel() || b != nil && b.Tunnel():
		return hopTunnel, true
	case pair(a, from.Netns, b, to.Netns):
		return hopVeth, true
	case s.bridged(a, b), s.atBridge(a, to.Netns), s.atBridge(b, from.Netns):
		return hopBridge, true
	case is(a, KindDevice), is(b, KindDevice):
		return hopWire, true
	}
	return HopName{}, false
}

// pair says whether two places are the ends of one veth; where only one link is known, its peer's namespace decides.
func pair(a *Link, aNetns uint32, b *Link, bNetns uint32) bool {
	switch {
	case a != nil && b != nil:
		return a.paired() && a.Peer == b.Index && a.PeerNetns == bNetns
	case a != nil:
		return a.paired() && a.PeerNetns == bNetns
	case b != nil:
		return b.paired() && b.PeerNetns == aNetns
	}
	return false
}

// bridged says whether the other ends of two veths are ports of one bridge, whose own hooks were not seen.
func (s *State) bridged(a, b *Link) bool {
	if a == nil || b == nil || !a.paired() || !b.paired() || a.PeerNetns != b.PeerNetns {
		return false
	}
	pa, pb := s.Link(a.PeerNetns, a.Peer), s.Link(b.PeerNetns, b.Peer)
	return pa != nil && pb != nil && pa.Master != 0 && pa.Master == pb.Master
}

// atBridge says whether a link's other end is a port of a bridge in this namespace. Its devices' hooks were not seen, as while the depth
// changes.
func (s *State) atBridge(l *Link, netns uint32) bool {
	if l == nil || !l.paired() || l.PeerNetns != netns {
		return false
	}
	port := s.Link(netns, l.Peer)
	return port != nil && port.Master != 0
}
