// Command bench measures what meshwatch costs: throughput of a saturated mesh and CPU per request at a fixed rate, with recording
// switched on and off inside one continuous load, and a control in which nothing is switched (A/A). It writes
// test/results/bench.json. Exit status 0: the run was sound, whether the bars are met or not; 1: it was not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/result"
	"github.com/meshwatch/meshwatch/test/tree"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	meshes []lab.Sidecar
	agent  string // program
	config string // its configuration
	quick  bool
	plan   plan
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	meshes := f.String("mesh", "haproxy,envoy", "meshes to measure")
	f.StringVar(&o.agent, "agent", "", "agent's program (default: built from this tree)")
	f.StringVar(&o.config, "config", "", "agent's configuration, an absolute path (default: the agent's own defaults)")
	f.BoolVar(&o.quick, "quick", false, "a run of seconds that shows that everything works; its figures mean nothing and go to bench-quick.json")
	quads := f.Int("quads", 0, "quads of the full agent's stages; the kernel's has twice as many (default: some five minutes in all)")
	slice := f.Duration("slice", 0, "slice of the kernel's stage (default 80ms)")
	agentSlice := f.Duration("agent-slice", 0, "slice of the full agent's stages, of which the first 380ms are left out: the agent looks every 80 ms and joins for 100")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.plan = defaultPlan()
	if o.quick {
		o.plan = quickPlan()
	}
	if *quads > 0 {
		o.plan.agent.quads, o.plan.kernel.quads, o.plan.cpu.quads = *quads, 2**quads, *quads
	}
	if *slice > 0 {
		o.plan.kernel.slice = *slice
	}
	if *agentSlice > 0 {
		o.plan.agent.slice, o.plan.cpu.slice = *agentSlice, *agentSlice
	}
	for _, s := range []stage{o.plan.agent, o.plan.kernel, o.plan.cpu} {
		if s.slice < s.settle+10*time.Millisecond {
			return o, fmt.Errorf("a slice of %s is too short: its first %s are left out", s.slice, s.settle)
		}
	}
	for name := range strings.SplitSeq(*meshes, ",") {
		s := lab.Sidecar(strings.TrimSpace(name))
		if err := lab.Missing(s); err != nil {
			return o, err
		}
		o.meshes = append(o.meshes, s)
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	name, command := "bench", "make bench"
	if o.quick {
		name, command = "bench-quick", "go run ./test/bench --quick"
	}
	r, err := result.New(name, command)
	if err != nil {
		return err
	}
	bin, done, err := o.program(ctx)
	if err != nil {
		return err
	}
	defer done()
	meshes := map[lab.Sidecar]*Mesh{}
	for _, s := range o.meshes {
		m, err := measure(ctx, program{bin, o.config}, s, o.plan)
		if err != nil {
			return fmt.Errorf("measure the %s mesh: %w", s, err)
		}
		m.judge()
		meshes[s] = m
		if err := m.table(os.Stdout, s); err != nil {
			return err
		}
	}
	bars(r, meshes)
	r.Details = meshes
	err = errors.Join(r.Save(os.Stdout), sound(o.meshes, meshes))
	if o.quick && err != nil {
		say("%v (expected of a quick run)", err)
		return nil
	}
	return err
}

// program is the agent's, and what removes it if it was built.
func (o *options) program(ctx context.Context) (bin string, done func(), err error) {
	if o.agent != "" {
		return o.agent, func() {}, nil
	}
	root, err := tree.Root()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "meshwatch-bench-bin")
	if err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	if bin, err = build(ctx, root, dir); err != nil {
		done()
		return "", nil, err
	}
	return bin, done, nil
}

// sound is an error when figures are not to be used.
func sound(order []lab.Sidecar, meshes map[lab.Sidecar]*Mesh) error {
	var errs []error
	for _, name := range order {
		for _, why := range meshes[name].Unsound {
			errs = append(errs, fmt.Errorf("the run is not sound, %s mesh: %s", name, why))
		}
	}
	return errors.Join(errs...)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
