package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/nets"
)

// Attached is what programs cost that are attached and switched off, so that each returns at once, against none.
type Attached struct {
	Links      int      `json:"links"`
	Throughput Compared `json:"throughput"`
	Cost       Compared `json:"cpu_us"`
	OffCost    float64  `json:"off_cpu_us"`
	Took       float64  `json:"attach_ms"` // all of them, median
}

// attachedStage has longer slices than recording needs: attaching takes some milliseconds, and disturbs for some more.
var attachedStage = stage{60, 160 * time.Millisecond, 30 * time.Millisecond}

// attached takes over what an agent has attached, and attaches and detaches it inside one load. The agent itself is ended: it would
// take as long as loading.
func attached(ctx context.Context, b binaries, p plan, r *Report) (err error) {
	w, err := newWorld(ctx, b, p, r, lab.Options{Sidecar: lab.SidecarHAProxy}, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	s, err := w.takeOver()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.detach()) }()
	run, err := w.wrk(ctx)
	if err != nil {
		return err
	}
	err = w.attachedUnderLoad(ctx, s)
	_, endErr := run.end()
	return errors.Join(err, endErr)
}

func (w *world) attachedUnderLoad(ctx context.Context, s *set) error {
	st := attachedStage
	st.quads = min(st.quads, w.p.kernel.quads)
	t := w.toggling(st)
	var took []float64
	t.record = func(on bool) error {
		begin := time.Now()
		if !on {
			return s.detach()
		}
		err := s.attach()
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
		return err
	}
	q, err := t.run(ctx)
	if err != nil {
		return err
	}
	w.r.Attached = &Attached{
		Links: len(s.places), Throughput: compare(q, throughputRatio), Cost: compare(q, costDifference), OffCost: q.off().cost(), Took: median(took),
	}
	return nil
}

// place is where a program is attached.
type place struct {
	netns  string // empty: everywhere
	attach func() (link.Link, error)
}

// set is programs and their places, attached or not.
type set struct {
	places []place
	links  []link.Link
}

func (s *set) attach() error {
	if s.links != nil {
		return nil
	}
	for rest := s.places; len(rest) > 0; { // places of one namespace stand together
		n := 1
		for n < len(rest) && rest[n].netns == rest[0].netns {
			n++
		}
		err := in(rest[0].netns, func() error {
			for _, p := range rest[:n] {
				l, err := p.attach()
				if err != nil {
					return err
				}
				s.links = append(s.links, l)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("attach again: %w", errors.Join(err, s.detach()))
		}
		rest = rest[n:]
	}
	return nil
}

func in(netns string, f func() error) error {
	if netns == "" {
		return f()
	}
	return nets.Named(netns).Do(f)
}

func (s *set) detach() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	s.links = nil
	return errors.Join(errs...)
}

// takeOver finds where in the lab the agent has attached its programs, and ends it. The programs stay loaded: their descriptors are held.
func (w *world) takeOver() (*set, error) {
	list, err := w.a.mine()
	if err != nil {
		return nil, err
	}
	programs := map[ebpf.ProgramID]*ebpf.Program{}
	for _, p := range list {
		info, err := p.Info()
		if err != nil {
			return nil, fmt.Errorf("look at the agent's programs: %w", err)
		}
		id, _ := info.ID()
		programs[id] = p
	}
	everywhere, filters, err := w.a.links(programs)
	if err != nil {
		return nil, err
	}
	s := &set{places: everywhere}
	names := []string{w.l.NodeNetns()}
	for _, p := range w.l.Pods() {
		names = append(names, p.Netns)
	}
	for _, name := range names {
		found, err := placesIn(name, programs, filters)
		if err != nil {
			return nil, fmt.Errorf("find what is attached in %s: %w", name, err)
		}
		s.places = append(s.places, found...)
	}
	w.a.record(false)
	if err := w.a.end(); err != nil {
		return nil, err
	}
	return s, s.onlyFree()
}

// onlyFree leaves out the places that are still taken: it was the kernel that had them, not the agent.
func (s *set) onlyFree() error {
	var free []place
	for _, p := range s.places {
		err := in(p.netns, func() error {
			l, err := p.attach()
			if err != nil {
				return err
			}
			return l.Close()
		})
		if err == nil {
			free = append(free, p)
		} else if !taken(err) {
			return fmt.Errorf("attach the agent's programs again: %w", err)
		}
	}
	s.places = free
	return nil
}

func taken(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }

// links are the agent's: those that see every namespace, and the forms of those at netfilter's hooks, each once.
func (a *agent) links(programs map[ebpf.ProgramID]*ebpf.Program) (everywhere []place, filters []link.NetfilterOptions, err error) {
	ids, err := fdinfo(a.pid(), "link_id")
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		l, err := link.NewFromID(link.ID(id))
		if err != nil {
			continue // gone
		}
		info, err := l.Info()
		if err := errors.Join(err, l.Close()); err != nil {
			return nil, nil, fmt.Errorf("look at the agent's links: %w", err)
		}
		prog := programs[info.Program]
		switch {
		case prog == nil || info.Type == link.TCXType: // these are found by their device
		case info.Type == link.NetfilterType:
			n := info.Netfilter()
			o := link.NetfilterOptions{
				Program: prog, ProtocolFamily: link.NetfilterProtocolFamily(n.ProtocolFamily), Hook: n.Hook, Priority: n.Priority,
			}
			if !slices.Contains(filters, o) {
				filters = append(filters, o)
			}
		case prog.Type() == ebpf.Tracing:
			everywhere = append(everywhere, place{attach: func() (link.Link, error) { return link.AttachTracing(link.TracingOptions{Program: prog}) }})
		}
	}
	return everywhere, filters, nil
}

// placesIn are the places in a namespace.
func placesIn(netns string, programs map[ebpf.ProgramID]*ebpf.Program, filters []link.NetfilterOptions) (list []place, err error) {
	err = nets.Named(netns).Do(func() error {
		for _, o := range filters {
			l, err := link.AttachNetfilter(o)
			if err == nil { // nothing has this hook with this priority
				err = l.Close()
			} else if taken(err) {
				list, err = append(list, place{netns, func() (link.Link, error) { return link.AttachNetfilter(o) }}), nil
			}
			if err != nil {
				return err
			}
		}
		devices, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, d := range devices {
			found, err := onDevice(netns, d.Attrs().Index, programs)
			if err != nil {
				return err
			}
			list = append(list, found...)
		}
		return nil
	})
	return list, err
}

func onDevice(netns string, index int, programs map[ebpf.ProgramID]*ebpf.Program) (list []place, err error) {
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		q, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: at})
		if err != nil {
			return nil, err
		}
		for _, p := range q.Programs {
			if prog := programs[p.ID]; prog != nil {
				o := link.TCXOptions{Interface: index, Program: prog, Attach: at, Anchor: link.Head()}
				list = append(list, place{netns, func() (link.Link, error) { return link.AttachTCX(o) }})
			}
		}
	}
	return list, nil
}
