// Command bench measures what meshwatch costs: throughput of a busy machine and CPU per request at a fixed rate, with recording
// switched on and off inside one continuous load, and a control in which nothing is switched (A/A). It writes
// test/results/bench.json, or with --scale bench-scale.json. Exit status 0: the run was sound, whether the bars are met or not; 1: it
// was not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
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
	scenarios []scenario
	depths    []string
	agent     string // program
	config    string // its configuration
	chosen    string // flags that say what is measured, as typed
	quick     bool
	scale     bool
	plan      plan
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := f.String("only", "", "scenarios to measure, separated by commas: "+strings.Join(names(scenarios()), ", ")+" (default: all)")
	depths := f.String("depth", "edges,auto,full", "depths at which meshes are measured; everything else is measured at auto")
	f.StringVar(&o.agent, "agent", "", "agent's program (default: built from this tree)")
	f.StringVar(&o.config, "config", "", "agent's configuration, an absolute path, in place of the bench's own; --depth does not count then")
	f.BoolVar(&o.quick, "quick", false, "a run of seconds that shows that everything works; its figures mean nothing and go to bench-quick.json")
	f.BoolVar(&o.scale, "scale", false, "measure how cost grows with namespaces and connections instead")
	quads := f.Int("quads", 0, "quads of on, off, off, on for each figure, and as many for its control")
	slice := f.Duration("slice", 0, "length of a slice (default 60ms)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	f.Visit(func(g *flag.Flag) {
		if !slices.Contains([]string{"agent", "config", "quick", "scale"}, g.Name) { // paths are this machine's, the others have names
			o.chosen += fmt.Sprintf(" --%s %s", g.Name, g.Value)
		}
	})
	o.plan = defaultPlan()
	if o.quick {
		o.plan = quickPlan()
	}
	if *quads > 0 {
		o.plan.kernel.quads, o.plan.fixed.quads, o.plan.whole.quads = *quads, *quads, max(1, *quads/20)
	}
	if *slice > 0 {
		o.plan.kernel.slice, o.plan.fixed.slice = *slice, *slice
	}
	if least := o.plan.kernel.settle + 10*time.Millisecond; o.plan.kernel.slice < least {
		return o, fmt.Errorf("--slice: %s is too short, give at least %s", o.plan.kernel.slice, least)
	}
	o.depths = strings.Split(*depths, ",")
	for _, d := range o.depths {
		if !slices.Contains([]string{"edges", "auto", "full", asDefault}, d) {
			return o, fmt.Errorf("--depth: there is no depth %q, only edges, auto, full, or default for none in the configuration", d)
		}
	}
	o.scenarios, err = choose(*only)
	return o, err
}

func names(list []scenario) (out []string) {
	for _, s := range list {
		out = append(out, s.name)
	}
	return out
}

// choose finds scenarios by name, and asks for what they need.
func choose(only string) (list []scenario, err error) {
	all := scenarios()
	for _, s := range all {
		if only == "" || slices.Contains(strings.Split(only, ","), s.name) {
			list = append(list, s)
		}
	}
	for name := range strings.SplitSeq(only, ",") {
		if only != "" && !slices.Contains(names(all), name) {
			return nil, fmt.Errorf("--only: there is no scenario %q, only %s", name, strings.Join(names(all), ", "))
		}
	}
	for _, s := range list {
		sidecar := lab.SidecarHAProxy
		if s.envoy {
			sidecar = lab.SidecarEnvoy
		}
		if err := lab.Missing(sidecar); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	bins, done, err := o.binaries(ctx)
	if err != nil {
		return err
	}
	defer done()
	if o.plan.favoured {
		defer preferSelf()()
	}
	if err := o.setDepths(ctx, bins.agent); err != nil {
		return err
	}
	if o.scale {
		return scale(ctx, bins, o)
	}
	return o.measure(ctx, bins)
}

// setDepths leaves the depths that the agent knows.
func (o *options) setDepths(ctx context.Context, prog program) error {
	if o.config != "" {
		o.depths = []string{asDefault}
		return nil
	}
	known, err := knowsDepth(ctx, prog)
	if err != nil {
		return err
	}
	if !known {
		say("this agent has no key depth: it is measured with its defaults only, which record everything")
		o.depths = []string{asDefault}
	}
	return nil
}

// usual is the depth of what is measured at one only.
func (o *options) usual() string {
	if o.depths[0] == asDefault {
		return asDefault
	}
	return "auto"
}

func (o *options) measure(ctx context.Context, b binaries) error {
	out, err := o.result("bench", "")
	if err != nil {
		return err
	}
	var reports []*Report
	for _, s := range o.scenarios {
		depths := []string{o.usual()}
		if s.depths {
			depths = o.depths
		}
		for _, d := range depths {
			r, err := one(ctx, s, b, o.plan, d)
			if err != nil {
				return fmt.Errorf("measure %s, depth %s: %w", s.name, d, err)
			}
			reports = append(reports, r)
			if err := r.table(os.Stdout, s.what); err != nil {
				return err
			}
		}
	}
	addBars(out, reports)
	out.Details = reports
	return o.finish(errors.Join(out.Save(os.Stdout), sound(reports)))
}

// result begins one that says what to type for it.
func (o *options) result(name, flags string) (*result.Result, error) {
	if o.quick {
		return result.New(name+"-quick", "go run ./test/bench --quick"+flags+o.chosen)
	}
	command := "make " + name
	if o.chosen != "" {
		command += " BENCH='" + o.chosen[1:] + "'"
	}
	return result.New(name, command)
}

func one(ctx context.Context, s scenario, b binaries, p plan, depth string) (*Report, error) {
	r := &Report{Scenario: s.name, Depth: depth, Unsound: []string{}, Notes: []string{}}
	say("%s, depth %s", s.name, depth)
	if err := s.run(ctx, b, p, r); err != nil {
		return nil, err
	}
	r.judge()
	return r, nil
}

// finish makes nothing of a quick run that is not sound.
func (o *options) finish(err error) error {
	if o.quick && err != nil {
		say("%v (expected of a quick run)", err)
		return nil
	}
	return err
}

// binaries are built, unless the agent is given; done removes them.
func (o *options) binaries(ctx context.Context) (b binaries, done func(), err error) {
	root, err := tree.Root()
	if err != nil {
		return b, nil, err
	}
	dir, err := os.MkdirTemp("", "meshwatch-bench-bin")
	if err != nil {
		return b, nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	b, err = buildInto(ctx, root, dir, o.agent)
	b.agent.config = o.config
	if err != nil {
		done()
		return b, nil, err
	}
	return b, done, nil
}

func buildInto(ctx context.Context, root, dir, agent string) (b binaries, err error) {
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // programs run as other users
		return b, err
	}
	if b.agent.bin = agent; agent == "" {
		if b.agent.bin, err = build(ctx, root, dir, "./cmd/meshwatch"); err != nil {
			return b, err
		}
	}
	b.traffic, err = build(ctx, root, dir, "./test/bench/traffic")
	return b, err
}

// build builds a program of this tree into dir.
func build(ctx context.Context, root, dir, pkg string) (string, error) {
	bin := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", bin, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return bin, nil
}

// sound is an error when figures are not to be used.
func sound(reports []*Report) error {
	var errs []error
	for _, r := range reports {
		for _, why := range r.Unsound {
			errs = append(errs, fmt.Errorf("not sound, %s at depth %s: %s", r.Scenario, r.Depth, why))
		}
	}
	return errors.Join(errs...)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
