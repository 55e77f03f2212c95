package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/test/cluster"
	"github.com/meshwatch/meshwatch/test/result"
	"github.com/meshwatch/meshwatch/test/tree"
)

// What is measured, and the bars: see the issue that asked for the cluster.
const (
	cycles     = 5
	requests   = 20_000
	callers    = 2 * requests // access log lines: the gateway's and the frontend's
	upOneBar   = 60           // seconds
	upTwoBar   = 75           // seconds
	downBar    = 10           // seconds
	buildBar   = 20           // minutes
	logsWithin = time.Minute
)

// details explain the bars.
type details struct {
	UpFirst   []float64            `json:"up_first_s"` // not warm: no bar is for it
	UpOne     []float64            `json:"up_one_node_s"`
	UpTwo     []float64            `json:"up_two_nodes_s"`
	UpThree   []float64            `json:"up_three_nodes_s"`
	Down      []float64            `json:"down_s"`
	Left      []string             `json:"left"` // what the cycles left on the machine
	Phases    map[string][]string  `json:"phases"`
	Load      string               `json:"load"`
	Unmatched int                  `json:"unmatched"`
	Memory    map[string]float64   `json:"rss_mb"`          // of one node, after the load
	Build     map[string][]float64 `json:"build,omitempty"` // program → seconds by the clock, and of CPU for it and for the system
}

func measure() *cobra.Command {
	var cold bool
	cmd := &cobra.Command{
		Use:   "measure",
		Short: "Measure building, starting, load and removal; writes test/results/cluster.json",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runMeasure(cmd.Context(), cold) },
	}
	cmd.Flags().BoolVar(&cold, "cold", false, "build everything once more, from nothing, which takes some 16 minutes on two idle cores")
	return cmd
}

func runMeasure(ctx context.Context, cold bool) error {
	if _, err := cluster.Open(); err == nil {
		return errors.New("measure: a cluster is up, take it down first: make cluster-down")
	}
	command := "go run ./test/cluster/cmd/cluster measure"
	if cold {
		command += " --cold"
	}
	r, err := result.New("cluster", command)
	if err != nil {
		return err
	}
	d := &details{Phases: map[string][]string{}, Left: []string{}}
	if cold {
		if err := d.build(ctx, r); err != nil {
			return err
		}
	}
	before, err := cluster.TakeSnapshot()
	if err != nil {
		return err
	}
	say("a first start, which links and packs what this tree does not have yet, and the load")
	if err := d.cycle(ctx, 1, &d.UpFirst, func(ctx context.Context) error { return d.load(ctx, r) }); err != nil {
		return err
	}
	nothing := func(context.Context) error { return nil }
	for i := range cycles {
		say("cycle %d of %d, one node", i+1, cycles)
		if err := d.cycle(ctx, 1, &d.UpOne, nothing); err != nil {
			return err
		}
	}
	for nodes, ups := range map[int]*[]float64{2: &d.UpTwo, 3: &d.UpThree} {
		say("%d nodes", nodes)
		if err := d.cycle(ctx, nodes, ups, nothing); err != nil {
			return err
		}
	}
	after, err := cluster.TakeSnapshot()
	if err != nil {
		return err
	}
	d.Left = append(d.Left, before.Diff(after)...)
	r.Bar("up_one_node", slices.Max(d.UpOne), "s", result.Lower, upOneBar)
	r.Bar("up_two_nodes", slices.Max(d.UpTwo), "s", result.Lower, upTwoBar)
	r.Bar("down", slices.Max(d.Down), "s", result.Lower, downBar)
	r.Bar("left_behind", float64(len(d.Left)), "things", result.Lower, 0)
	r.Details = d
	d.print()
	return r.Save(os.Stdout)
}

// cycle brings a cluster up and takes it down, also when measuring is interrupted, by the commands that people type.
func (d *details) cycle(ctx context.Context, nodes int, ups *[]float64, during func(context.Context) error) error {
	up, err := timed(ctx, "make", "--no-print-directory", "cluster", "NODES="+strconv.Itoa(nodes))
	*ups = append(*ups, up)
	if err == nil {
		err = d.phases(nodes)
	}
	if err == nil {
		err = during(ctx)
	}
	took, e := timed(context.WithoutCancel(ctx), "make", "--no-print-directory", "cluster-down")
	d.Down = append(d.Down, took)
	return errors.Join(err, e)
}

// phases notes when the parts of the cluster that is up were there.
func (d *details) phases(nodes int) error {
	c, err := cluster.Open()
	if err != nil {
		return err
	}
	var phases []string
	for _, p := range c.Phases {
		phases = append(phases, fmt.Sprintf("%s %.1f s", p.Name, p.Since.Seconds()))
	}
	d.Phases[strconv.Itoa(nodes)] = phases
	return nil
}

// timed runs a command in the module's directory and says how many seconds it took.
func timed(ctx context.Context, argv ...string) (float64, error) {
	root, err := tree.Root()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = root
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out.Bytes())
	}
	return time.Since(start).Seconds(), nil
}

// load sends requests, and counts the lines of callers that have theirs at the callee.
func (d *details) load(ctx context.Context, r *result.Result) error {
	c, err := cluster.Open()
	if err != nil {
		return err
	}
	const path = "/measured"
	loaded, err := c.SendLoad(ctx, cluster.Load{Requests: requests, Connections: 16, Path: path})
	if err != nil {
		return err
	}
	if loaded.Codes[http.StatusOK] != requests {
		return fmt.Errorf("the load is not sound: answers by status: %v", loaded.Codes)
	}
	d.Load = fmt.Sprintf("%d requests in %.1f s, %.0f/s", loaded.Requests, loaded.Duration.Seconds(), float64(loaded.Requests)/loaded.Duration.Seconds())
	pods, err := c.MeshPods(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logsWithin)
	defer cancel()
	matched, lost := 0, []cluster.Access(nil)
	for ; ; time.Sleep(200 * time.Millisecond) { // proxies write their logs once a second
		from, to, err := cluster.Collect(pods, func(a cluster.Access) bool { return a.Path == path })
		if err != nil {
			return err
		}
		if matched, lost = cluster.Match(from, to); matched >= callers || ctx.Err() != nil {
			break
		}
	}
	if d.Unmatched = len(lost); d.Unmatched > 0 {
		matched = min(matched, callers-d.Unmatched) // of more lines than there were requests
	}
	r.Bar("access_log_lines_matched", float64(matched)/callers, "of callers'", result.Higher, 1)
	d.Memory, err = c.Memory()
	return err
}

// build builds everything from nothing: neither Go's cache nor ours has anything. Modules that Go has are not fetched again.
func (d *details) build(ctx context.Context, r *result.Result) error {
	say("building everything from nothing")
	tmp, err := os.MkdirTemp("", "meshwatch-cold")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	cache := filepath.Join(tmp, "cache")
	took, err := timed(ctx, "env", "GOCACHE="+filepath.Join(tmp, "go"), "MESHWATCH_TEST_CACHE="+cache, "test/install.sh", "cluster")
	if err != nil {
		return err
	}
	d.Build = map[string][]float64{}
	for _, name := range cluster.Programs {
		file, err := filepath.EvalSymlinks(filepath.Join(cache, "bin", name))
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file + ".took")
		if err != nil {
			return err
		}
		for _, word := range strings.Fields(string(text)) {
			v, err := strconv.ParseFloat(word, 64)
			if err != nil {
				return fmt.Errorf("read %s: %w", filepath.Base(file), err)
			}
			d.Build[name] = append(d.Build[name], v)
		}
	}
	r.Bar("cold_build", took/60, "min", result.Lower, buildBar)
	return nil
}

func (d *details) print() {
	for nodes, phases := range d.Phases {
		fmt.Printf("%s node(s): %s\n", nodes, strings.Join(phases, ", "))
	}
	if d.Build != nil {
		var cpu float64
		for _, took := range d.Build {
			cpu += took[1] + took[2]
		}
		fmt.Printf("cold build: %.0f s of CPU\n", cpu)
	}
	fmt.Println("load:", d.Load)
	fmt.Printf("memory in MB: %v\n", d.Memory)
	for _, line := range d.Left {
		fmt.Println("left:", line)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", args...) }
