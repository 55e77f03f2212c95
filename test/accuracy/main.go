// Command accuracy measures how many requests of a saturated mesh become a journey with every leg and every hop, and how
// many are joined wrongly. The truth is an id that the load gives each request and the joiner never sees, and the proxies'
// access logs, which name the connections; of gRPC, what the apps say of their messages. It exits 1 when a bar is missed.
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
	"slices"
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
	barComplete   = 99.9 // percent of the requests
	barWrong      = 0    // journeys
	barWrongShare = 0.1  // percent of what is claimed where nobody sends ids
	barVaried     = 99   // percent that is claimed then, where requests differ, and of those that do not with up to 4 in flight for each worker
	barIdentical  = 90   // the same with up to 16
	barStreams    = 0    // calls that stream which are not one complete journey with the apps' numbers of messages
)

// asked is what the command line asks for.
type asked struct {
	scenarios []string
	loads     string
	counts    []int
	perWorker []int // instead of counts
	variants  []variant
	table     string      // file that gets the tables, "": none
	options   lab.Options // of every scenario
	runner    runner      // as far as it says
}

func parse(args []string) (*asked, error) {
	flags := flag.NewFlagSet("accuracy", flag.ContinueOnError)
	var a asked
	connections := flags.String("connections", "16,64,256", "numbers of connections, separated by commas")
	flags.DurationVar(&a.runner.duration, "duration", 10*time.Second, "length of the load at each number of connections")
	scenario := flags.String("scenario", cleartext, "what the mesh speaks, separated by commas: "+strings.Join(scenarioNames(), ", ")+
		"; all: each of them, at every load, with and without ids, about an hour")
	flags.StringVar(&a.loads, "loads", "", "keep-alive, churn (a connection for each request), mixed, separated by commas (default keep-alive,churn; cleartext: keep-alive)")
	perWorker := flags.String("per-worker", "", "instead of --connections: requests in flight for each worker of a proxy, separated by commas")
	sidecar := flags.String("sidecar", "", "envoy or haproxy, in cleartext and oddities (default envoy where it is installed)")
	flags.StringVar(&a.runner.depth, "depth", meshwatch.DepthAuto, "the agent's: edges, full or auto")
	flags.BoolVar(&a.options.IPv6, "ipv6", false, "requests travel over IPv6")
	flags.StringVar(&a.runner.dump, "dump", "", "directory for the first journeys that are not complete")
	ids := flags.String("ids", "yes", "yes, no (the client sends no id, and the apps hand none on, nor a trace context; proxies make ids as ever), or yes,no")
	requests := flags.String("requests", identical, "identical (same target and headers), varied (one of a million targets), or both")
	flags.StringVar(&a.table, "table", "", "file with the marks of tables, which are written there: docs/accuracy.md")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if *scenario == all {
		*scenario = strings.Join(slices.DeleteFunc(scenarioNames(), func(name string) bool { return name == oddities }), ",")
		*ids, *requests, a.loads = "yes,no", identical+","+varied, strings.Join([]string{keepAlive, churn, mixed}, ",")
		*perWorker = or(*perWorker, "1,4,16,64,256,1000")
	}
	a.options.Sidecar, a.scenarios = lab.Sidecar(*sidecar), strings.Split(*scenario, ",")
	var err, err2, err3 error
	a.counts, err = numbers("--connections", *connections)
	if *perWorker != "" {
		a.perWorker, err2 = numbers("--per-worker", *perWorker)
	}
	a.variants, err3 = variants(*ids, *requests)
	return &a, errors.Join(err, err2, err3)
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
	var levels []*level
	for _, scenario := range a.scenarios {
		more, ls, err := a.measure(ctx, scenario, res)
		if err != nil {
			return fmt.Errorf("%s: %w", scenario, err)
		}
		rows, levels = append(rows, more...), append(levels, ls...)
	}
	res.Details = rows
	if a.table != "" {
		err = writeTables(filepath.Join(r.root, a.table), levels)
	}
	return errors.Join(res.Save(os.Stdout), err, missed(res.Bars))
}

// measure measures a scenario, and returns what explains its bars.
func (a *asked) measure(ctx context.Context, scenario string, res *result.Result) (rows []any, levels []*level, err error) {
	r := a.runner
	r.scenario = scenario
	if r.options, err = options(scenario, a.options); err != nil {
		return nil, nil, err
	}
	if scenario == oddities {
		rows, err = r.measureOddities(ctx, res)
		return rows, nil, err
	}
	names, err := loads(a.loads, scenario)
	if err != nil {
		return nil, nil, err
	}
	counts := a.counts
	if a.perWorker != nil {
		counts = nil
		for _, n := range a.perWorker {
			counts = append(counts, n*workers(r.options))
		}
	}
	for _, v := range a.variants {
		if r.options.GRPC && v.requests == varied {
			continue // its load calls methods in turn: they are what they are
		}
		r.options.NoIDs, r.requests = !v.ids, v.requests
		ls, err := r.measure(ctx, res, names, counts)
		if err != nil {
			return nil, nil, err
		}
		for _, l := range ls {
			rows = append(rows, l)
		}
		levels = append(levels, ls...)
	}
	return rows, levels, nil
}

// measure runs every load at every number of connections.
func (r *runner) measure(ctx context.Context, res *result.Result, loads []string, counts []int) (levels []*level, err error) {
	for _, load := range loads {
		if load == mixed && r.options.GRPC {
			continue
		}
		for _, n := range counts {
			l, err := r.run(ctx, load, n)
			if err != nil {
				return nil, fmt.Errorf("%s, %d connections: %w", load, n, err)
			}
			levels = append(levels, l)
			l.bars(res)
		}
	}
	return levels, printLevels(os.Stdout, levels)
}

// bars are what is asked of a level. Without ids, what an app does cannot be known: of the proxies' joins alone most must be made.
func (out *level) bars(res *result.Result) {
	name := out.name()
	if out.IDs {
		res.Bar("complete_"+name, out.Percent, "%", result.Higher, barComplete)
		res.Bar("wrong_joins_"+name, float64(out.Score.WrongJoins), "", result.Lower, barWrong)
	} else {
		p := out.Score.Relays.proxies()
		res.Bar("wrong_share_"+name, share(p.Wrong, max(1, p.claimed())), "%", result.Lower, barWrongShare)
		if bar := out.barClaimed(); bar > 0 {
			res.Bar("claimed_"+name, share(p.claimed(), p.all()), "%", result.Higher, bar)
		}
	}
	if st := out.Score.Streams; st.Scored > 0 && out.IDs {
		res.Bar("wrong_streams_"+name, float64(st.Scored-st.Complete), "", result.Lower, barStreams)
	}
}

// barClaimed is in percent of the proxies' relays, 0: whatever can be proven.
func (out *level) barClaimed() float64 {
	switch {
	case out.Requests == varied, out.PerWorker <= 4:
		return barVaried
	case out.PerWorker <= 16:
		return barIdentical
	}
	return 0
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
func numbers(flag, list string) (out []int, err error) {
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > 10000 {
			return nil, fmt.Errorf("%s %q: %q is not a number from 1 to 10000", flag, list, text)
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
