package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/test/state"
)

// FaultKind names a part of the mesh that can be made slow.
type FaultKind string

// The faults.
const (
	FaultApp      FaultKind = "app"      // an app waits in every request
	FaultSidecar  FaultKind = "sidecar"  // a sidecar gets too little CPU
	FaultLoss     FaultKind = "loss"     // the node loses packets to a pod
	FaultIptables FaultKind = "iptables" // a pod and the node have thousands of costly rules
)

// FaultKinds are all faults.
var FaultKinds = []FaultKind{FaultApp, FaultSidecar, FaultLoss, FaultIptables}

// Fault is something slow or broken on purpose. Zero fields mean the kind's default.
type Fault struct {
	Kind    FaultKind     `json:"kind"`
	Pod     string        `json:"pod"`               // default backend
	Delay   time.Duration `json:"delay_ns"`          // app; default 50 ms
	Percent float64       `json:"percent,omitempty"` // sidecar: of one CPU, default 2; loss: of packets, default 5
	SYN     bool          `json:"syn,omitempty"`     // loss: every other SYN instead, and nothing else
	Rules   int           `json:"rules,omitempty"`   // iptables: rules per chain, default 2,000 (about 1.5 ms a message)
}

// withDefaults fills what is not given.
func (f Fault) withDefaults() (Fault, error) {
	if f.Pod == "" {
		f.Pod = "backend"
	}
	switch f.Kind {
	case FaultApp:
		f.Delay = or(f.Delay, 50*time.Millisecond)
	case FaultSidecar:
		f.Percent = or(f.Percent, 2)
	case FaultLoss:
		f.Percent = or(f.Percent, 5)
	case FaultIptables:
		f.Rules = or(f.Rules, 2_000)
	default:
		return f, fmt.Errorf("start fault %q: not one of %q", f.Kind, FaultKinds)
	}
	return f, nil
}

func or[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

func (l *Lab) faultPath(kind FaultKind) string { return l.path("faults", string(kind)+".json") }

// StartFault makes something slow until StopFault. One fault of a kind at a time.
func (l *Lab) StartFault(f Fault) error {
	f, err := f.withDefaults()
	if err != nil {
		return err
	}
	p, ok := l.Pod(f.Pod)
	if !ok {
		return fmt.Errorf("start fault %s: no pod %s", f.Kind, f.Pod)
	}
	if exists(l.faultPath(f.Kind)) {
		return fmt.Errorf("start fault %s: it is on already", f.Kind)
	}
	if err := state.Write(l.faultPath(f.Kind), f); err != nil { // first: StopFault undoes what is half done
		return err
	}
	if err := l.apply(f, p); err != nil {
		return errors.Join(fmt.Errorf("start fault %s: %w", f.Kind, err), l.StopFault(f.Kind))
	}
	return nil
}

func (l *Lab) apply(f Fault, p Pod) error {
	switch f.Kind {
	case FaultApp:
		return l.setDelay(p.Name, f.Delay)
	case FaultSidecar:
		return l.throttle(p.Name, f.Percent)
	case FaultLoss:
		return l.each(p, func(cmd, addr string) error {
			return commandIn(l.NodeNetns(), "", cmd, append([]string{"-I"}, lossRule(addr, f)...)...)
		})
	default:
		return errors.Join(l.addUselessRules(p.Netns, "OUTPUT", f.Rules), l.addUselessRules(l.NodeNetns(), "FORWARD", f.Rules))
	}
}

// StopFault ends a fault. One that is not on is no error.
func (l *Lab) StopFault(kind FaultKind) error {
	var f Fault
	if err := state.Read(l.faultPath(kind), &f); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if p, ok := l.Pod(f.Pod); ok {
		if err := l.undo(f, p); err != nil {
			return fmt.Errorf("stop fault %s: %w", kind, err)
		}
	}
	return os.Remove(l.faultPath(kind))
}

func (l *Lab) undo(f Fault, p Pod) error {
	switch f.Kind {
	case FaultApp:
		return l.setDelay(p.Name, 0)
	case FaultSidecar:
		return l.unthrottle(p.Name)
	case FaultLoss:
		return l.each(p, func(cmd, addr string) error {
			return commandIn(l.NodeNetns(), "", cmd, append([]string{"-D"}, lossRule(addr, f)...)...)
		})
	default:
		return errors.Join(removeUselessRules(p.Netns, "OUTPUT"), removeUselessRules(l.NodeNetns(), "FORWARD"))
	}
}

// Faults are those that are on.
func (l *Lab) Faults() []Fault {
	var on []Fault
	for _, kind := range FaultKinds {
		var f Fault
		if state.Read(l.faultPath(kind), &f) == nil {
			on = append(on, f)
		}
	}
	return on
}

// each calls fn for both families.
func (l *Lab) each(p Pod, fn func(cmd, addr string) error) error {
	return errors.Join(fn("iptables", p.V4.String()), fn("ip6tables", p.V6.String()))
}

// lossRule drops a share of the TCP packets to a pod, or every other SYN, where the bridge hands them to iptables.
func lossRule(addr string, f Fault) []string {
	if f.SYN {
		return []string{"FORWARD", "-d", addr, "-p", "tcp", "--syn",
			"-m", "statistic", "--mode", "nth", "--every", "2", "--packet", "0", "-j", "DROP"}
	}
	probability := strconv.FormatFloat(f.Percent/100, 'f', 6, 64)
	return []string{"FORWARD", "-d", addr, "-p", "tcp",
		"-m", "statistic", "--mode", "random", "--probability", probability, "-j", "DROP"}
}

// slowChain holds rules that match nothing. They are in the filter table, where every packet is held against them; the
// nat table sees only a connection's first. They search for a text: 0.7 µs a rule for a head of 400 bytes, against 10 ns for
// one that compares addresses, so a few are enough, and little for packets without data: what is slow is then the
// messages, not the CPUs.
const slowChain = "MW_SLOW"

// addUselessRules adds rules for the family that requests travel over.
func (l *Lab) addUselessRules(ns, chain string, n int) error {
	cmd := "iptables-restore"
	if l.Options.IPv6 {
		cmd = "ip6tables-restore"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n", slowChain)
	for i := range n {
		fmt.Fprintf(&b, "-A %s -m string --algo bm --string useless%06d -j DROP\n", slowChain, i)
	}
	fmt.Fprintf(&b, "-I %s -j %s\nCOMMIT\n", chain, slowChain)
	if err := commandIn(ns, b.String(), cmd, "--noflush"); err != nil {
		return fmt.Errorf("add %d rules in %s: %w", n, ns, err)
	}
	return nil
}

func removeUselessRules(ns, chain string) error {
	var errs []error
	for _, cmd := range []string{"iptables", "ip6tables"} {
		// Declaring the chain empties it, or makes it when adding was cut short before that.
		empty := fmt.Sprintf("*filter\n:%s - [0:0]\nCOMMIT\n", slowChain)
		errs = append(errs, commandIn(ns, empty, cmd+"-restore", "--noflush"))
		for commandIn(ns, "", cmd, "-D", chain, "-j", slowChain) == nil { // there may be no jump
		}
		errs = append(errs, commandIn(ns, "", cmd, "-X", slowChain))
	}
	return errors.Join(errs...)
}

// sidecarOf finds the pod's proxy process.
func (l *Lab) sidecarOf(pod string) (Process, error) {
	procs, err := l.Processes()
	if err != nil {
		return Process{}, err
	}
	i := slices.IndexFunc(procs, func(p Process) bool {
		return p.Name == pod+"-sidecar" || p.Name == pod+"-proxy"
	})
	if i < 0 {
		return Process{}, fmt.Errorf("find sidecar of %s: there is none", pod)
	}
	return procs[i], nil
}
