package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// TC holds the program on links (tc.bpf.c).
type TC struct{ objs tcPrograms }

func loadTCProgs(l loader) (*TC, error) {
	t := &TC{}
	spec, err := loadTc()
	return t, l.load("tc", spec, err, &t.objs)
}

// Attach puts the program on egress (ahead of others, to see what was sent) and ingress of the link with this index
// in the calling thread's network namespace. The links go with the device.
func (t *TC) Attach(ifindex int) (*Links, error) {
	out := &Links{}
	for name, at := range map[string]ebpf.AttachType{"ingress": ebpf.AttachTCXIngress, "egress": ebpf.AttachTCXEgress} {
		attached, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: t.objs.MwTc, Attach: at, Anchor: link.Head()})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach tcx %s to ifindex %d: %w", name, ifindex, explain(err)), out.Close())
		}
		out.links = append(out.links, attached)
	}
	return out, nil
}

// Close frees the program; attached links keep running until they are closed.
func (t *TC) Close() error {
	if t == nil {
		return nil
	}
	return t.objs.Close()
}
