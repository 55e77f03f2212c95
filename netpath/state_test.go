package netpath

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResolve(t *testing.T) {
	s := fixture()
	for _, n := range s.Sorted() {
		for i := range n.Links {
			netns, ifindex, ok := s.Resolve(Low(n.Inum), Low(n.Links[i].Index))
			if netns != n.Inum || ifindex != n.Links[i].Index || !ok {
				t.Errorf("Resolve(%s, %s) = %d, %d, %v", n.Name, n.Links[i].Name, netns, ifindex, ok)
			}
		}
		if netns, ifindex, ok := s.Resolve(Low(n.Inum), 0); netns != n.Inum || ifindex != 0 || !ok {
			t.Errorf("Resolve(%s, 0) = %d, %d, %v", n.Name, netns, ifindex, ok)
		}
	}
	if netns, ifindex, ok := s.Resolve(Low(nsBack), 77); netns != nsBack || ifindex != 0 || ok {
		t.Errorf("unknown link: %d, %d, %v, want only the namespace", netns, ifindex, ok)
	}
	if netns, _, ok := s.Resolve(Low(nsBack)+1000, 1); netns != 0 || ok {
		t.Errorf("unknown namespace: %d, %v", netns, ok)
	}
	if len(s.Conflicts()) != 0 {
		t.Errorf("conflicts %v", s.Conflicts())
	}
}

func TestLowIsTheRecordersForm(t *testing.T) {
	for _, inum := range []uint32{nsHost, nsFront, 4026531840, 4026531840 + 1<<14 - 1} {
		if want := uint16((inum - 0xF0000000) & 0x3fff); Low(inum) != want { //nolint:gosec // 14 bits
			t.Errorf("Low(%d) = %d, want %d", inum, Low(inum), want)
		}
	}
}

func TestResolveRefusesConflicts(t *testing.T) {
	const twin = nsFront + 1<<14
	a := &Namespace{Inum: nsFront, Name: "a", Links: []Link{{Index: 1}, {Index: 2}}}
	b := &Namespace{Inum: twin, Name: "b", Links: []Link{{Index: 2}}}
	c := &Namespace{Inum: nsBack, Name: "c", Links: []Link{{Index: 3}, {Index: 4}, {Index: 3 + 1<<14}}}
	s := NewState([]*Namespace{a, b, c}, nil)
	if netns, _, ok := s.Resolve(Low(nsFront), 1); netns != 0 || ok {
		t.Errorf("conflicting namespaces: %d, %v, want 0, false", netns, ok)
	}
	if netns, ifindex, ok := s.Resolve(Low(nsBack), 3); netns != nsBack || ifindex != 0 || ok {
		t.Errorf("conflicting links: %d, %d, %v, want only the namespace", netns, ifindex, ok)
	}
	if _, ifindex, ok := s.Resolve(Low(nsBack), 4); ifindex != 4 || !ok {
		t.Errorf("link beside a conflict: %d, %v", ifindex, ok)
	}
	want := []Conflict{{Netns: []uint32{nsFront, twin}}, {Netns: []uint32{nsBack}, Ifindex: []uint32{3, 3 + 1<<14}}}
	if diff := cmp.Diff(want, s.Conflicts()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestGoneNamespacesYieldToLiveOnes(t *testing.T) {
	gone := &Namespace{Inum: nsFront, Name: "gone", Links: []Link{{Index: 2, Name: "eth0"}}}
	s := NewState(nil, []*Namespace{gone})
	if netns, ifindex, ok := s.Resolve(Low(nsFront), 2); netns != nsFront || ifindex != 2 || !ok {
		t.Errorf("a namespace just gone: %d, %d, %v", netns, ifindex, ok)
	}
	if got := s.Describe(nsFront, 2, HookIngress); got != "gone eth0 ingress" {
		t.Errorf("described as %q", got)
	}
	live := &Namespace{Inum: nsFront + 1<<14, Name: "live", Links: []Link{{Index: 3}}}
	s = NewState([]*Namespace{live}, []*Namespace{gone})
	if netns, _, ok := s.Resolve(Low(nsFront), 3); netns != live.Inum || !ok {
		t.Errorf("the live one: %d, %v", netns, ok)
	}
	if netns, _, ok := s.Resolve(Low(nsFront), 2); netns == gone.Inum || ok {
		t.Errorf("the gone one's link under the live one's bits: %d, %v, want false", netns, ok)
	}
	if len(s.Conflicts()) != 0 {
		t.Errorf("conflicts %v, want none with gone ones", s.Conflicts())
	}
}

func TestDescribe(t *testing.T) {
	s := fixture()
	for _, c := range []struct {
		netns, ifindex uint32
		hook           Hook
		want           string
	}{
		{nsFront, 2, HookEgress, "frontend eth0 egress"},
		{nsHost, 11, HookIngress, "host veth1 ingress"},
		{nsHost, 2, HookForward, "host iptables FORWARD"},
		{nsFront, 0, HookOutput, "frontend iptables OUTPUT"},
		{nsFront, 0, HookRetransmit, "frontend retransmit"},
		{nsFront, 77, HookEgress, "frontend link 77 egress"},
		{99, 7, HookIngress, "netns 99 link 7 ingress"},
		{nsFront, 0, 200, "frontend hook 200"},
	} {
		if got := s.Describe(c.netns, c.ifindex, c.hook); got != c.want {
			t.Errorf("Describe(%d, %d, %s) = %q, want %q", c.netns, c.ifindex, c.hook, got, c.want)
		}
	}
}

func TestNameOf(t *testing.T) {
	for _, c := range []struct {
		mounts  []string
		host    bool
		process string
		want    string
	}{
		{nil, false, "pid:7 nginx", "pid:7 nginx"},
		{nil, true, "pid:1 init", "host"},
		{[]string{"/run/netns/cni-1"}, false, "pid:7 pause", "cni-1"},
		{[]string{"/run/docker/netns/ab12"}, false, "", "ab12"},
		{[]string{"/run/docker/netns/default"}, true, "", "host"},
		{[]string{"/proc/1/root/run/netns/node"}, true, "", "node"},
		{[]string{"/run/docker/netns/ab12", "/run/netns/web"}, false, "", "web"},
	} {
		if got := nameOf(c.mounts, c.host, c.process); got != c.want {
			t.Errorf("nameOf(%q, %v, %q) = %q, want %q", c.mounts, c.host, c.process, got, c.want)
		}
	}
}

func TestAttachPoints(t *testing.T) {
	got := map[string][]string{}
	for _, p := range AttachPoints(fixture()) {
		for _, l := range p.Links {
			got[p.Name] = append(got[p.Name], l.Name)
		}
	}
	want := map[string][]string{ // not: eth1, which bond0 shows; veth3, which is down; ifb0; a namespace with nothing but lo
		"host":     {"lo", "br0", "eth0", "vx0", "eth0.7", "bond0", "veth1", "veth2"},
		"frontend": {"lo", "eth0"},
	}
	if diff := cmp.Diff(want, map[string][]string{"host": got["host"], "frontend": got["frontend"]}); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if len(got["pid:77 idle"]) != 0 {
		t.Errorf("attaches to %v of a namespace with nothing but lo", got["pid:77 idle"])
	}
}

func TestSelect(t *testing.T) {
	s := fixture()
	for word, want := range map[string][]string{
		"":             {"host", "backend", "frontend", "pid:77 idle"},
		"frontend":     {"frontend"},
		"*end":         {"backend", "frontend"},
		"4026532002":   {"backend"},
		"5000":         {"backend", "frontend"},
		"nothing":      nil,
		"[bad pattern": nil,
	} {
		var got []string
		for _, n := range s.Select(word) {
			got = append(got, n.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Select(%q): -want +got\n%s", word, diff)
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := fixture().Table(&out, "*end"); err != nil {
		t.Fatal(err)
	}
	want := `backend (inode 4026532002, 2 processes)
  LINK     KIND     STATE  MTU  MASTER  OTHER END   ADDRESSES
  1: lo    lo       up     0                        
  2: eth0  veth     up     0            host veth2  
  9: mac0  macvlan  down   0            host eth0   

frontend (inode 4026532001, 2 processes)
  LINK     KIND  STATE  MTU  MASTER  OTHER END   ADDRESSES
  1: lo    lo    up     0                        
  2: eth0  veth  up     0            host veth1  
  RULES AT  FAMILY  BACKEND  BASE CHAINS  RULES  WITH JUMPS
  OUTPUT    ip      nft      1            1      12
  redirects to local ports 15001, 15006
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestNamespaceAsJSON(t *testing.T) {
	n := fixture().Named("frontend")
	data, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var back Namespace
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	want := *n
	want.Links = append([]Link(nil), n.Links...)
	for i := range want.Links {
		want.Links[i].nsid = 0
	}
	if diff := cmp.Diff(want, back, cmp.AllowUnexported(Link{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
