package netpath

import "net/netip"

// The numbers of the namespaces in fixture.
const (
	nsHost, nsFront, nsBack, nsRemote = 4026531833, 4026532001, 4026532002, 4026532003
)

// fixture is a node with a bridge br0 (2) whose ports 11 and 12 are the host ends of two pods' veths, eth0 (3), a VXLAN (4,
// port of br0) over eth0, a VLAN (5) on eth0 and a bond (6) with port 7; a second machine's namespace with its eth0 and a VXLAN; and in the
// back pod a macvlan (9) on the host's eth0.
func fixture() *State {
	host := &Namespace{Inum: nsHost, Name: "host", Host: true, BridgeNF: true, Forwards: true, Links: []Link{
		{Index: 1, Name: "lo", Kind: KindLoopback, Up: true, nsid: -1},
		{Index: 2, Name: "br0", Kind: KindBridge, Up: true, nsid: -1},
		{Index: 3, Name: "eth0", Kind: KindDevice, Up: true, nsid: -1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}},
		{Index: 4, Name: "vx0", Kind: "vxlan", Up: true, Master: 2, nsid: -1},
		{Index: 5, Name: "eth0.7", Kind: "vlan", Up: true, Parent: 3, PeerNetns: nsHost, nsid: -1},
		{Index: 6, Name: "bond0", Kind: "bond", Up: true, nsid: -1},
		{Index: 7, Name: "eth1", Kind: KindDevice, Up: true, Master: 6, nsid: -1},
		{Index: 8, Name: "ifb0", Kind: "ifb", Up: true, nsid: -1},
		{Index: 11, Name: "veth1", Kind: KindVeth, Up: true, Master: 2, Peer: 2, PeerNetns: nsFront, nsid: 0},
		{Index: 12, Name: "veth2", Kind: KindVeth, Up: true, Master: 2, Peer: 2, PeerNetns: nsBack, nsid: 1},
		{Index: 13, Name: "veth3", Kind: KindVeth, Peer: 14, nsid: 2},
	}}
	pod := func(inum uint32, name string, peer uint32) *Namespace {
		return &Namespace{Inum: inum, Name: name, Processes: 2, Pids: []int{int(inum % 1000), 5000}, Links: []Link{
			{Index: 1, Name: "lo", Kind: KindLoopback, Up: true, nsid: -1},
			{Index: 2, Name: "eth0", Kind: KindVeth, Up: true, Peer: peer, PeerNetns: nsHost, nsid: 0},
		}}
	}
	front, back := pod(nsFront, "frontend", 11), pod(nsBack, "backend", 12)
	front.Filter = Filter{
		Hooks:     []HookRules{{Hook: "OUTPUT", Family: "ip", Backend: "nft", Chains: 1, Rules: 1, Reached: 12}},
		Redirects: []uint16{15001, 15006}, Outbound: []uint16{15001},
	}
	back.Links = append(back.Links, Link{Index: 9, Name: "mac0", Kind: "macvlan", Parent: 3, PeerNetns: nsHost, nsid: 0})
	remote := &Namespace{Inum: nsRemote, Name: "pid:77 idle", Links: []Link{
		{Index: 1, Name: "lo", Kind: KindLoopback, Up: true, nsid: -1},
		{Index: 3, Name: "eth0", Kind: KindDevice, nsid: -1},
		{Index: 4, Name: "vx0", Kind: "vxlan", nsid: -1},
	}}
	return NewState([]*Namespace{host, front, back, remote}, nil)
}
