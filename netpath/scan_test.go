package netpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshwatch/meshwatch/test/leaks"
)

// TestScanOfANode reads a real node: a bridge with two pods, a VXLAN, a macvlan and a pair inside one namespace.
func TestScanOfANode(t *testing.T) {
	privileged(t, "ip")
	leaks.None(t)
	makeNode(t, "node")
	makePod(t, "node", "a", "10.9.0.2/24")
	makePod(t, "node", "b", "10.9.0.3/24")
	run(t, "ip -n {node} link add x1 type veth peer name x2")
	run(t, "ip -n {node} link add vx0 type vxlan id 7 dstport 4789 local 127.0.0.1")
	run(t, "ip -n {node} link add mac0 link x1 type macvlan")
	run(t, "ip -n {node} link set mac0 netns {a}")
	run(t, "ip netns exec {node} sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=0")
	s, counts, err := Scan()
	if err != nil {
		t.Fatal(err)
	}
	node, a := s.Named(netnsName("node")), s.Named(netnsName("a"))
	if node == nil || a == nil {
		t.Fatalf("namespaces not found; counts %+v", counts)
	}
	if !node.Forwards || node.BridgeNF || a.Forwards || !a.BridgeNF {
		t.Errorf("node forwards %v, bridge-nf %v; a forwards %v, bridge-nf %v", node.Forwards, node.BridgeNF, a.Forwards, a.BridgeNF)
	}
	type link struct{ Name, Kind, Master, OtherEnd string }
	describe := func(n *Namespace) (out []link) {
		for i := range n.Links {
			l := &n.Links[i]
			if l.Kind != "ip6tnl" && l.Kind != "sit" && l.Kind != "ipip" {
				out = append(out, link{l.Name, l.Kind, s.linkName(n, n.Inum, l.Master), s.otherEnd(n, l)})
			}
		}
		return out
	}
	sorted := cmpopts.SortSlices(func(x, y link) bool { return x.Name < y.Name })
	want := []link{
		{"lo", "lo", "", ""}, {"br0", "bridge", "", ""},
		{"h-a", "veth", "br0", netnsName("a") + " eth0"}, {"h-b", "veth", "br0", netnsName("b") + " eth0"},
		{"x1", "veth", "", "x2"}, {"x2", "veth", "", "x1"}, {"vx0", "vxlan", "", ""},
	}
	if diff := cmp.Diff(want, describe(node), sorted); diff != "" {
		t.Errorf("node: -want +got\n%s", diff)
	}
	want = []link{
		{"lo", "lo", "", ""}, {"eth0", "veth", "", netnsName("node") + " h-a"}, {"mac0", "macvlan", "", netnsName("node") + " x1"},
	}
	if diff := cmp.Diff(want, describe(a), sorted); diff != "" {
		t.Errorf("a: -want +got\n%s", diff)
	}
	if got := a.Links[1].Addrs; len(got) == 0 || got[0].String() != "10.9.0.2/24" {
		t.Errorf("a's addresses %v", got)
	}
}

// TestPeersAreNotConfused has pairs whose ends have the same indexes everywhere: only the namespaces' numbers tell them apart.
func TestPeersAreNotConfused(t *testing.T) {
	privileged(t, "ip")
	for _, n := range []string{"p", "q", "r", "s"} {
		makeNetns(t, n)
	}
	for _, pair := range [][2]string{{"p", "q"}, {"r", "s"}} {
		run(t, "ip -n {"+pair[0]+"} link add v0 index 70 type veth peer name v1 index 70 netns {"+pair[1]+"}")
	}
	s, counts, err := Scan()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"p", "q"}, {"q", "p"}, {"r", "s"}, {"s", "r"}} {
		from, to := s.Named(netnsName(c[0])), s.Named(netnsName(c[1]))
		if got := from.Link(70).PeerNetns; got != to.Inum {
			t.Errorf("%s's peer is in %d, want %s (%d); counts %+v", c[0], got, c[1], to.Inum, counts)
		}
	}
}

func TestDoRunsInside(t *testing.T) {
	privileged(t, "ip")
	leaks.None(t)
	makeNetns(t, "in")
	s, _, err := Scan()
	if err != nil {
		t.Fatal(err)
	}
	n := s.Named(netnsName("in"))
	link := func() (inum uint32) {
		text, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		inum, _ = parseNetLink([]byte(text))
		return inum
	}
	before := link()
	if err := n.Do(func() error {
		if got := link(); got != n.Inum {
			t.Errorf("inside %d, want %d", got, n.Inum)
		}
		return os.ErrClosed
	}); err != os.ErrClosed { //nolint:errorlint // it must come back as it is
		t.Errorf("error %v, want f's", err)
	}
	for _, thread := range []string{"/proc/thread-self", "/proc/self/task/*"} {
		links, err := filepath.Glob(thread + "/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links { // a thread that ended meanwhile has no link
			if text, err := os.Readlink(l); err == nil && text != fmt.Sprintf("net:[%d]", before) {
				t.Errorf("afterwards %s is in %s, want %d", l, text, before)
			}
		}
	}
	wrong := *n
	wrong.Inum++
	if err := wrong.Do(func() error { return nil }); !errors.Is(err, ErrGone) {
		t.Errorf("another namespace at its path: error %v, want ErrGone", err)
	}
	run(t, "ip netns del {in}")
	if err := n.Do(func() error { t.Error("ran in a namespace that is gone"); return nil }); err == nil {
		t.Error("no error for a namespace that is gone")
	} else if !errors.Is(err, ErrGone) {
		t.Errorf("error %v, want ErrGone", err)
	}
}

// TestAReusedNumberDoesNotMislead has a namespace number that was learned for one pod and is another's by now.
func TestAReusedNumberDoesNotMislead(t *testing.T) {
	node := &Namespace{Inum: 1, Links: []Link{{Index: 11, Kind: KindVeth, Peer: 2, nsid: 0}}}
	old := &Namespace{Inum: 2, Links: []Link{{Index: 2, Kind: KindVeth, Peer: 10, nsid: 0}}}
	got, err := resolvePeers(map[uint32]*Namespace{1: node, 2: old}, node, map[int32]uint32{0: 2})
	if err != nil {
		t.Fatal(err)
	}
	if got.Links[0].PeerNetns != 0 {
		t.Errorf("resolved to %d, whose link names another end", got.Links[0].PeerNetns)
	}
	pod := &Namespace{Inum: 2, Links: []Link{{Index: 2, Kind: KindVeth, Peer: 11, nsid: 0}}}
	got, err = resolvePeers(map[uint32]*Namespace{1: node, 2: pod}, node, map[int32]uint32{0: 2})
	if err != nil || got.Links[0].PeerNetns != 2 || node.Links[0].PeerNetns != 0 {
		t.Errorf("resolved to %d, original to %d (%v), want 2 and 0", got.Links[0].PeerNetns, node.Links[0].PeerNetns, err)
	}
}
