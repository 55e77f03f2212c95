package bpf

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
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
			{Program: n.objs.MwNfStamp, Hook: hookInput, Priority: first},
			{Program: n.objs.MwNfStamp, Hook: hookForward, Priority: first},
			{Program: n.objs.MwNfStamp, Hook: hookPostrt, Priority: first},
			{Program: n.objs.MwNfOutput, Hook: hookOutput, Priority: first},
		} {
			h.ProtocolFamily = link.NetfilterProtocolFamily(family)
			attached, err := attachFree(h)
			if err != nil {
				return nil, errors.Join(err, out.Close())
			}
			out.links = append(out.links, attached)
		}
	}
	return out, nil
}

// attachFree attaches at the priority asked for, or at the nearest free one inward: a priority serves one hook only, and
// IPv6 conntrack confirms at INT_MAX-1 on LOCAL_IN (net/netfilter/nf_conntrack_proto.c), another recorder may be at the rest.
func attachFree(h link.NetfilterOptions) (link.Link, error) {
	inward := int32(1)
	if h.Priority > 0 {
		inward = -1
	}
	for try := 0; ; try++ {
		attached, err := link.AttachNetfilter(h)
		if err == nil {
			return attached, nil
		}
		if !errors.Is(err, unix.EBUSY) || try == tries {
			return nil, fmt.Errorf("attach netfilter hook %d of family %d at priority %d: %w", h.Hook, h.ProtocolFamily, h.Priority, explain(err))
		}
		h.Priority += inward
	}
}

const tries = 8 // priorities looked at

// Close frees the programs; attached links keep running until they are closed.
func (n *Netfilter) Close() error {
	if n == nil {
		return nil
	}
	return n.objs.Close()
}
