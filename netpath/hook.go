package netpath

import "strconv"

// Hook is a place in the kernel where a stamp is taken. The numbers are those of journey.Hook and bpf/flight.h.
type Hook uint8

// The hooks, in the order in which a packet meets them.
const (
	HookNone        Hook = 0
	HookOutput      Hook = 1 // netfilter LOCAL_OUT, before all rules; or just before
	HookPostrouting Hook = 2 // netfilter POST_ROUTING, before all rules
	HookEgress      Hook = 3 // given to a link
	HookIngress     Hook = 4 // come from a link
	HookForward     Hook = 5 // netfilter FORWARD, before all rules
	HookInput       Hook = 6 // netfilter LOCAL_IN, before all rules
	HookDelivered   Hook = 7 // netfilter LOCAL_IN, after all rules; or just after
	HookRetransmit  Hook = 8
	HookDrop        Hook = 9
	HookReset       Hook = 10

	hookCount = 11
)

var hookNames = [hookCount]string{
	"none", "output", "postrouting", "egress", "ingress", "forward", "input", "delivered", "retransmit", "drop", "reset",
}

// String is the hook's lower-case name, "hook 77" for a number that is none.
func (h Hook) String() string {
	if h < hookCount {
		return hookNames[h]
	}
	return "hook " + strconv.Itoa(int(h))
}

// Place is where a stamp is taken. Ifindex is 0 where the hook knows no link, as netfilter's LOCAL_OUT.
type Place struct {
	Hook    Hook
	Netns   uint32 // inode number
	Ifindex uint32
}
