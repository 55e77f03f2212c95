package bpf

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf/link"
)

// Numbers of linux/netfilter.h and linux/netfilter/nf_bpf_link.h.
const (
	nfprotoIPv4 = 2
	nfprotoIPv6 = 10
	hookInput   = 1
	hookForward = 2
	hookOutput  = 3
	hookPostrt  = 4
	// The kernel keeps INT_MIN and INT_MAX to itself: these are the outermost priorities allowed.
	first = math.MinInt32 + 1
	last  = math.MaxInt32 - 1
)

// Netfilter holds the programs on a namespace's netfilter hooks (netfilter.bpf.c).
type Netfilter struct{ objs netfilterPrograms }

func loadNetfilterProgs(l loader) (*Netfilter, error) {
	n := &Netfilter{}
	spec, err := loadNetfilter()
	return n, l.load("netfilter", spec, err, &n.objs)
}

// Links are attached programs. A link that is collected detaches: keep it until Close.
type Links struct{ links []link.Link }

// Close detaches.
func (l *Links) Close() error { return closeAll(l.links) }

// Attach puts the programs on the hooks of the calling thread's network namespace, IPv4 and IPv6. The links pin that
// namespace: close them when the pod goes. About 1 ms.
func (n *Netfilter) Attach() (*Links, error) {
	out := &Links{}
	for _, family := range []uint32{nfprotoIPv4, nfprotoIPv6} {
		for _, h := range []link.NetfilterOptions{
			{Program: n.objs.MwNfDeliver, Hook: hookInput, Priority: last},
			{Program: n.objs.MwNfInput, Hook: hookInput, Priority: first},
			{Program: n.objs.MwNfForward, Hook: hookForward, Priority: first},
			{Program: n.objs.MwNfPostrt, Hook: hookPostrt, Priority: first},
			{Program: n.objs.MwNfOutput, Hook: hookOutput, Priority: first},
		} {
			h.ProtocolFamily = link.NetfilterProtocolFamily(family)
			attached, err := link.AttachNetfilter(h)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("attach netfilter hook %d of family %d at priority %d: %w",
					h.Hook, family, h.Priority, explain(err)), out.Close())
			}
			out.links = append(out.links, attached)
		}
	}
	return out, nil
}

// Close frees the programs; attached links keep running until they are closed.
func (n *Netfilter) Close() error {
	if n == nil {
		return nil
	}
	return n.objs.Close()
}
