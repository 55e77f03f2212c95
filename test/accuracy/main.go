// Command accuracy measures how many requests of a saturated mesh become a journey with every leg and every hop, and how
// many are joined wrongly. The truth is an id that the load gives each request and the joiner never sees, and the proxies'
// access logs, which name the connections; of gRPC, what the apps say of their messages. In a cluster it also compares who and which
// route is said to be behind each leg. It exits 1 when a bar is missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/result"
	"github.com/meshwatch/meshwatch/test/tree"
)

func main() {
	runtime.LockOSThread() // the agent gets a signal when the thread ends that started it, so it must be this one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "accuracy:", err)
		os.Exit(1)
	}
}

// The bars, of every number of connections.
const (
	barComplete = 99.9 // percent of the requests
	barWrong    = 0    // journeys
	barStreams  = 0    // calls that stream which are not one complete journey with the apps' numbers of messages
)

// asked is what the command line asks for.
type asked struct {
	scenarios []string
	loads     string
	counts    []int
	options   lab.Options // of every scenario
	table     string      // file that gets the table of relays; "": none
	runner    runner      // as far as it says
}

func parse(args []string) (*asked, error) {
	flags := flag.NewFlagSet("accuracy", flag.ContinueOnError)
	var a asked
	connections := flags.String("connections", "16,64,256", "numbers of connections, separated by commas")
	flags.DurationVar(&a.runner.duration, "duration", 10*time.Second, "length of the load at each number of connections")
	flags.Float64Var(&a.runner.rate, "rate", 0, "the backend takes its time, so that the connections together send at most this many requests a second; 0: as fast as there are answers")
	flags.DurationVar(&a.runner.warmUp, "warm-up", 0, "length of a load of the same kind before, which is not scored: the agent learns how the proxies work")
	scenario := flags.String("scenario", cleartext, "what the mesh speaks, separated by commas, or all: "+strings.Join(scenarioNames(), ", "))
	flags.StringVar(&a.loads, "loads", "", "keep-alive, churn (a connection for each request), mixed (connections of about three), separated by commas (default all; cleartext: keep-alive)")
	sidecar := flags.String("sidecar", "", "envoy or haproxy, in cleartext and oddities (default envoy where it is installed)")
	flags.StringVar(&a.runner.depth, "depth", meshwatch.DepthAuto, "the agent's: edges, full or auto")
	flags.IntVar(&a.runner.nice, "nice", 0, "the agent's priority, -20 to 19: its threads compete one by one with those of the proxies here, in Kubernetes by their pods' CPU requests")
	flags.StringVar(&a.runner.lines, "settings", "", "YAML that the agent's configuration has besides")
	flags.BoolVar(&a.options.IPv6, "ipv6", false, "requests travel over IPv6")
	flags.StringVar(&a.table, "table", "", "file with a table of relays, between two markers, that is made anew")
	flags.StringVar(&a.runner.dump, "dump", "", "directory for the first journeys that are not complete")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	a.options.Sidecar, a.scenarios = lab.Sidecar(*sidecar), strings.Split(*scenario, ",")
	if *scenario == all {
		a.scenarios = scenarioNames()
	}
	var err error
	if a.counts, err = numbers(*connections); err != nil {
		return nil, err
	}
	return &a, a.runner.paced(a.scenarios)
}

func run(ctx context.Context, args []string) (err error) {
	a, err := parse(args)
	if err != nil {
		return err
	}
	res, err := result.New("accuracy", strings.Join(append([]string{"go run ./test/accuracy"}, withoutDump(args)...), " "))
	if err != nil {
		return err
	}
	r := &a.runner
	if r.root, err = tree.Root(); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("", "meshwatch-accuracy"); err != nil {
		return fmt.Errorf("make a directory for temporary files: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if r.bin, err = build(ctx, r.root, r.dir); err != nil {
		return err
	}
	if r.dump != "" {
		if err := os.MkdirAll(r.dump, 0o755); err != nil { //nolint:gosec // for everyone
			return fmt.Errorf("make directory for dumps: %w", err)
		}
	}
	var rows []any
	for _, scenario := range a.scenarios {
		more, err := a.measure(ctx, scenario, res)
		if err != nil {
			return fmt.Errorf("%s: %w", scenario, err)
		}
		rows = append(rows, more...)
	}
	res.Details = rows
	if a.table != "" {
		if err := writeTable(a.table, rows); err != nil {
			return err
		}
	}
	return errors.Join(res.Save(os.Stdout), missed(res.Bars))
}

// measure measures a scenario, and returns what explains its bars.
func (a *asked) measure(ctx context.Context, scenario string, res *result.Result) (rows []any, err error) {
	r := a.runner
	r.scenario = scenario
	if r.options, err = options(scenario, a.options); err != nil {
		return nil, err
	}
	for _, socket := range []*string{&r.options.ALS, &r.options.Said} {
		if *socket == "" {
			continue
		}
		*socket = filepath.Join(r.dir, *socket)
		if err := os.Chmod(r.dir, 0o755); err != nil { //nolint:gosec // proxies come in
			return nil, err
		}
	}
	switch scenario {
	case oddities, oddTLS:
		return r.measureOddities(ctx, res)
	case inCluster:
		return r.measureCluster(ctx, res)
	}
	names, err := loads(a.loads, scenario)
	if err != nil {
		return nil, err
	}
	return r.measure(ctx, res, names, a.counts)
}

// measure runs every load at every number of connections.
func (r *runner) measure(ctx context.Context, res *result.Result, loads []string, counts []int) (rows []any, err error) {
	var levels []*level
	for _, load := range loads {
		for _, n := range counts {
			l, err := r.run(ctx, load, n)
			if err != nil {
				return nil, fmt.Errorf("%s, %d connections: %w", load, n, err)
			}
			levels, rows = append(levels, l), append(rows, l)
			name := l.name()
			l.relayBars(res, name)
			if anonymous(l.Scenario) {
				continue
			}
			res.Bar("complete_"+name, l.Percent, "%", result.Higher, barComplete)
			res.Bar("wrong_joins_"+name, float64(l.Score.WrongJoins), "", result.Lower, barWrong)
			if r.options.GRPC {
				res.Bar("wrong_streams_"+name, float64(l.Score.Streams.Scored-l.Score.Streams.Complete), "", result.Lower, barStreams)
			}
		}
	}
	return rows, printLevels(os.Stdout, levels)
}

// missed is an error when a bar is.
func missed(bars []result.Bar) error {
	var names []string
	for _, b := range bars {
		if !b.Met {
			names = append(names, b.Name)
		}
	}
	if names != nil {
		return fmt.Errorf("%d of %d bars are missed: %s", len(names), len(bars), strings.Join(names, ", "))
	}
	return nil
}

// numbers reads a list of numbers of connections.
func numbers(list string) (out []int, err error) {
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > 10000 {
			return nil, fmt.Errorf("--connections %q: %q is not a number from 1 to 10000", list, text)
		}
		out = append(out, n)
	}
	return out, nil
}

// withoutDump leaves out what names a directory of this machine.
func withoutDump(args []string) (out []string) {
	for i := 0; i < len(args); i++ {
		name, _, given := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if name != "dump" {
			out = append(out, args[i])
		} else if !given {
			i++
		}
	}
	return out
}
