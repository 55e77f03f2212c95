package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// TC holds the programs on links (tc.bpf.c).
type TC struct {
	objs  tcPrograms
	start bool // egress starts flights from the beginning
}

func loadTCProgs(l loader, start bool) (*TC, error) {
	t := &TC{start: start}
	spec, err := loadTc()
	return t, l.load("tc", spec, err, &t.objs)
}

// Attach puts the programs on egress (ahead of others, to see what was sent) and ingress of the link with this index
// in the calling thread's network namespace. The links go with the device.
func (t *TC) Attach(ifindex int) (*Links, error) {
	out := &Links{}
	for _, h := range []struct {
		prog *ebpf.Program
		at   ebpf.AttachType
		name string
	}{
		{t.objs.MwTc, ebpf.AttachTCXIngress, "ingress"},
		{t.egress(t.start), ebpf.AttachTCXEgress, "egress"},
	} {
		attached, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: h.prog, Attach: h.at, Anchor: link.Head()})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach tcx %s to ifindex %d: %w", h.name, ifindex, explain(err)), out.Close())
		}
		out.links = append(out.links, attached)
		out.egress = attached
	}
	return out, nil
}

func (t *TC) egress(start bool) *ebpf.Program {
	if start {
		return t.objs.MwTcStart
	}
	return t.objs.MwTc
}

// StartFlights says whether egress of a link, attached by Attach, starts the flights that no netfilter hook has started; as long
// as one has, it makes no difference but for its cost. Every packet meets either the old or the new program. Where nothing is to
// be missed, on goes before the namespace's netfilter links are closed, and off after they are attached and what had passed
// LOCAL_OUT before has left.
func (t *TC) StartFlights(l *Links, on bool) error {
	if err := l.egress.Update(t.egress(on)); err != nil {
		return fmt.Errorf("replace tcx egress program: %w", explain(err))
	}
	return nil
}

// Close frees the programs; attached links keep running until they are closed.
func (t *TC) Close() error {
	if t == nil {
		return nil
	}
	return t.objs.Close()
}
