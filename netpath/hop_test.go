package netpath

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHop(t *testing.T) {
	s := fixture()
	at := func(h Hook, netns, ifindex uint32) Place { return Place{h, netns, ifindex} }
	node := func(name, kind string) HopName { return HopName{name, kind, ClassNode} }
	rules := func(name string) HopName { return node(name, "iptables") }
	for _, c := range []struct {
		what     string
		from, to Place
		want     HopName
	}{
		{"output", at(HookOutput, nsFront, 0), at(HookPostrouting, nsFront, 0), rules("iptables OUTPUT")},
		{"postrouting", at(HookPostrouting, nsFront, 2), at(HookEgress, nsFront, 2), rules("iptables POSTROUTING")},
		{"no postrouting hook", at(HookOutput, nsFront, 0), at(HookEgress, nsFront, 2), rules("iptables OUTPUT+POSTROUTING")},
		{"loopback", at(HookEgress, nsFront, 1), at(HookIngress, nsFront, 1), node("loopback", "loopback")},
		{"loopback without ingress", at(HookEgress, nsFront, 1), at(HookInput, nsFront, 0), node("loopback + iptables PREROUTING", "loopback")},
		{"loopback without egress", at(HookPostrouting, nsFront, 0), at(HookIngress, nsFront, 1), node("iptables POSTROUTING + loopback", "loopback")},
		{"loopback, netfilter alone", at(HookPostrouting, nsFront, 0), at(HookInput, nsFront, 0),
			node("iptables POSTROUTING + loopback + iptables PREROUTING", "loopback")},
		{"veth up", at(HookEgress, nsFront, 2), at(HookIngress, nsHost, 11), node("veth", "veth")},
		{"veth down", at(HookEgress, nsHost, 12), at(HookIngress, nsBack, 2), node("veth", "veth")},
		{"veth to a hook without link", at(HookEgress, nsHost, 12), at(HookInput, nsBack, 0), node("veth + iptables PREROUTING", "veth")},
		{"pods with no hook in the host", at(HookEgress, nsFront, 2), at(HookIngress, nsBack, 2), node("bridge", "bridge")},
		{"rules of the bridge alone, from a pod", at(HookEgress, nsFront, 2), at(HookForward, nsHost, 2), node("bridge + iptables PREROUTING", "bridge")},
		{"rules of the bridge alone, to a pod", at(HookPostrouting, nsHost, 2), at(HookDelivered, nsBack, 2),
			node("iptables POSTROUTING + bridge + iptables PREROUTING+INPUT", "bridge")},
		{"bridged prerouting", at(HookIngress, nsHost, 11), at(HookForward, nsHost, 2), rules("bridge + iptables PREROUTING")},
		{"routed prerouting", at(HookIngress, nsHost, 3), at(HookForward, nsHost, 3), rules("iptables PREROUTING")},
		{"from the bridge up", at(HookIngress, nsHost, 11), at(HookIngress, nsHost, 2), node("bridge", "bridge")},
		{"from the bridge down", at(HookEgress, nsHost, 2), at(HookEgress, nsHost, 12), node("bridge", "bridge")},
		{"forward", at(HookForward, nsHost, 2), at(HookPostrouting, nsHost, 2), rules("iptables FORWARD")},
		{"to a bridge port", at(HookPostrouting, nsHost, 2), at(HookEgress, nsHost, 12), rules("iptables POSTROUTING + bridge")},
		{"to the bridge", at(HookPostrouting, nsHost, 2), at(HookEgress, nsHost, 2), rules("iptables POSTROUTING")},
		{"port to port", at(HookIngress, nsHost, 11), at(HookEgress, nsHost, 12), node("bridge", "bridge")},
		{"port to another link", at(HookIngress, nsHost, 11), at(HookEgress, nsHost, 3), node("forwarding", "forward")},
		{"input", at(HookIngress, nsBack, 2), at(HookInput, nsBack, 2), rules("iptables PREROUTING")},
		{"no input hook", at(HookIngress, nsBack, 2), at(HookDelivered, nsBack, 2), rules("iptables PREROUTING+INPUT")},
		{"delivered", at(HookInput, nsBack, 2), at(HookDelivered, nsBack, 2), rules("iptables INPUT")},
		{"wire out", at(HookEgress, nsHost, 3), at(HookIngress, nsRemote, 3), HopName{"wire", "wire", ClassNetwork}},
		{"encapsulated", at(HookEgress, nsHost, 4), at(HookEgress, nsHost, 3), node("tunnel", "tunnel")},
		{"decapsulated", at(HookIngress, nsHost, 3), at(HookIngress, nsHost, 4), node("tunnel", "tunnel")},
		{"tunnel", at(HookEgress, nsHost, 4), at(HookIngress, nsRemote, 4), HopName{"tunnel", "tunnel", ClassNetwork}},
		{"into the tunnel", at(HookIngress, nsHost, 11), at(HookEgress, nsHost, 4), node("bridge", "bridge")},
		{"vlan", at(HookEgress, nsHost, 5), at(HookEgress, nsHost, 3), node("vlan", "vlan")},
		{"bond", at(HookIngress, nsHost, 7), at(HookIngress, nsHost, 6), node("bond", "bond")},
		{"macvlan across namespaces", at(HookEgress, nsBack, 9), at(HookEgress, nsHost, 3), node("macvlan", "macvlan")},
		{"sent again", at(HookEgress, nsFront, 2), at(HookOutput, nsFront, 0), HopName{"retransmission wait", "retransmit", ClassNetwork}},
		{"retransmit", at(HookForward, nsHost, 2), at(HookRetransmit, nsFront, 0), HopName{"retransmission wait", "retransmit", ClassNetwork}},
		{"drop", at(HookForward, nsHost, 2), at(HookDrop, nsHost, 0), HopName{"forward to drop", "drop", ClassUnknown}},
		{"reset", at(HookDelivered, nsBack, 2), at(HookReset, nsBack, 0), HopName{"delivered to reset", "reset", ClassUnknown}},
		{"unknown link", at(HookEgress, nsFront, 77), at(HookIngress, nsBack, 78), HopName{"egress to ingress", "other", ClassUnknown}},
		{"unknown namespace", at(HookEgress, 1, 2), at(HookInput, 2, 0), HopName{"egress to input", "other", ClassUnknown}},
		{"unresolved", at(HookEgress, 0, 0), at(HookIngress, 0, 0), HopName{"egress to ingress", "other", ClassUnknown}},
		{"unresolved rules", at(HookInput, 0, 0), at(HookDelivered, 0, 0), HopName{"input to delivered", "other", ClassUnknown}},
		{"twice", at(HookIngress, nsHost, 3), at(HookIngress, nsHost, 3), HopName{"ingress to ingress", "other", ClassUnknown}},
		{"odd order", at(HookDelivered, nsBack, 2), at(HookInput, nsBack, 2), HopName{"delivered to input", "other", ClassUnknown}},
		{"no such hook", at(200, nsBack, 2), at(201, nsBack, 2), HopName{"hook 200 to hook 201", "other", ClassUnknown}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if diff := cmp.Diff(c.want, s.Hop(c.from, c.to)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestHopNamesFewThings checks what metrics rely on: whatever the places, there are few names.
func TestHopNamesFewThings(t *testing.T) {
	s := fixture()
	names := map[string]bool{}
	for from := range Hook(hookCount + 1) {
		for to := range Hook(hookCount + 1) {
			for _, a := range s.Sorted() {
				for _, b := range s.Sorted() {
					for i := range uint32(15) {
						for j := range uint32(15) {
							names[s.Hop(Place{from, a.Inum, i}, Place{to, b.Inum, j}).Name] = true
						}
					}
				}
			}
		}
	}
	if len(names) > 200 {
		t.Errorf("%d hop names, want at most 200", len(names))
	}
}

func BenchmarkHop(b *testing.B) {
	s := fixture()
	from, to := Place{HookEgress, nsFront, 2}, Place{HookIngress, nsHost, 11}
	b.ReportAllocs()
	for b.Loop() {
		s.Hop(from, to)
	}
}
