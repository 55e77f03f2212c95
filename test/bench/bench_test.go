package main

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/tree"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 5}, 5}, {[]float64{1, 2, 100, 3}, 2.5},
	} {
		given := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
		if !slices.Equal(given, c.values) {
			t.Errorf("median changed %v to %v", given, c.values)
		}
	}
}

func TestEstimate(t *testing.T) {
	var values []float64
	for i := range 101 {
		values = append(values, float64(i))
	}
	e := estimate(values)
	// the median of 101 even values has a standard error of some 100/(2√101) = 5
	if e.Median != 50 || e.N != 101 || e.Low < 34 || e.Low > 45 || e.High < 55 || e.High > 66 {
		t.Errorf("%+v: want 50, some 40 to 60", e)
	}
	if again := estimate(values); again != e {
		t.Errorf("the same values give %+v and %+v", e, again)
	}
	if one := estimate([]float64{7}); one != (Estimate{7, 7, 7, 1}) {
		t.Errorf("one value: %+v", one)
	}
	if none := estimate(nil); none != (Estimate{}) {
		t.Errorf("no value: %+v", none)
	}
}

// The interval is to hold the true median in 95 of 100 experiments.
func TestEstimateCovers(t *testing.T) {
	draw := rand.New(rand.NewPCG(5, 6))
	const experiments = 200
	held := 0
	for range experiments {
		values := make([]float64, 60)
		for i := range values {
			values[i] = 3 + draw.NormFloat64()
		}
		if e := estimate(values); e.Low <= 3 && 3 <= e.High {
			held++
		}
	}
	if held < experiments*88/100 || held == experiments {
		t.Errorf("%d of %d intervals hold the true median", held, experiments)
	}
}

func TestAgrees(t *testing.T) {
	for _, c := range []struct {
		e    Estimate
		want bool
	}{
		{Estimate{1.004, 0.995, 1.008, 9}, true}, {Estimate{1.01, 1.004, 1.03, 9}, true}, {Estimate{0.97, 0.96, 0.98, 9}, false},
		{Estimate{1.05, 1.04, 1.06, 9}, false}, {Estimate{1, 0.9, 1.1, 9}, true}, {Estimate{}, false},
	} {
		if got := c.e.agrees(1, 0.005); got != c.want {
			t.Errorf("%+v agrees with 1 ± 0.005: %t", c.e, got)
		}
	}
}

func TestPlus(t *testing.T) {
	got := Estimate{10, 7, 14, 9}.plus(Estimate{1, -3, 4, 5})
	if want := (Estimate{11, 6, 16, 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestWithAgent(t *testing.T) {
	// a request costs 100 µs, recording makes it 125, the agent adds 75: half of the throughput is left
	got := withAgent(Estimate{0.8, 0.8, 0.8, 9}, Estimate{75, 75, 75, 6}, 100)
	if math.Abs(got.Median-0.5) > 1e-9 || math.Abs(got.Low-0.5) > 1e-9 || math.Abs(got.High-0.5) > 1e-9 {
		t.Errorf("%+v, want 0.5", got)
	}
	got = withAgent(Estimate{0.9, 0.8, 1, 9}, Estimate{0, 0, 0, 6}, 100)
	if diff := math.Abs(got.Median-0.9) + math.Abs(got.Low-0.8) + math.Abs(got.High-1); diff > 1e-9 {
		t.Errorf("%+v, want the kernel's part as it is", got)
	}
	if got := withAgent(Estimate{}, Estimate{1, 1, 1, 1}, 100); got != (Estimate{}) {
		t.Errorf("%+v of nothing", got)
	}
}

// slow is a quad in which something else had a share of two CPUs.
func slow(share float64) quad {
	s := sample{Requests: 100, Seconds: 1, Own: 1, Busy: 1 + 2*share}
	return quad{s, s}
}

func TestUndisturbed(t *testing.T) {
	list := []quad{slow(0.02), slow(0.03), slow(0.30), slow(0.02), slow(0.04), slow(0.075)}
	stolen := slow(0.02)
	stolen.on.Steal = 0.6 // of the four CPU seconds of both sides
	list = append(list, stolen)
	kept := undisturbed(list, 2)
	if want := []quad{list[0], list[1], list[3], list[4], list[5]}; !slices.Equal(kept, want) {
		t.Errorf("kept %+v", kept)
	}
	// what is disturbed all alike is kept: nothing would be left
	if kept := undisturbed([]quad{slow(0.5), slow(0.5), slow(0.54)}, 2); len(kept) != 3 {
		t.Errorf("%d of 3 kept", len(kept))
	}
	if kept := undisturbed(nil, 2); kept != nil {
		t.Errorf("%v kept of none", kept)
	}
}

func TestEach(t *testing.T) {
	half := quad{sample{Requests: 50, Seconds: 1, Own: 1}, sample{Requests: 100, Seconds: 1, Own: 1}}
	idle := quad{sample{Seconds: 1}, sample{Requests: 100, Seconds: 1}}
	if e := each([]quad{half, half, idle}, 2, throughputRatio); e != (Estimate{0.5, 0.5, 0.5, 2}) {
		t.Errorf("ratio %+v", e)
	}
	if e := each([]quad{half}, 2, costDifference); e != (Estimate{10000, 10000, 10000, 1}) {
		t.Errorf("cost %+v", e)
	}
}

// fake is a machine that slows down evenly, and by a tenth while recording: drift must not show.
type fake struct {
	on       bool
	at       float64
	total    sample
	switches []bool
}

func (f *fake) record(to bool) error {
	f.on = to
	f.switches = append(f.switches, to)
	return nil
}

// read lets time pass: 1 s a slice, at a rate that drifts.
func (f *fake) read() (sample, error) {
	f.at++
	rate := 1000 - 10*math.Floor(f.at/2)
	if f.on {
		rate *= 0.9
	}
	f.total = f.total.plus(sample{Requests: rate, Seconds: 1, Own: rate / 1000})
	return f.total, nil
}

func TestToggling(t *testing.T) {
	f := &fake{}
	const n = 8
	q, err := toggling{quads: n, record: f.record, read: f.read, draw: rand.New(rand.NewPCG(1, 1))}.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ways := map[bool]int{}
	for i := range n {
		real, dummy := f.switches[8*i:8*i+4], f.switches[8*i+4:8*i+8]
		if want := []bool{real[0], !real[0], !real[0], real[0]}; !slices.Equal(real, want) {
			t.Errorf("quad %d: %v", i, real)
		}
		if slices.Contains(dummy, true) {
			t.Errorf("quad %d records in its control: %v", i, dummy)
		}
		ways[real[0]]++
	}
	if ways[true] == 0 || ways[false] == 0 {
		t.Errorf("all quads begin alike: %v", ways)
	}
	if f.on {
		t.Error("it records after the end")
	}
	if e := each(q.switched, 2, throughputRatio); math.Abs(e.Median-0.9) > 2e-3 || e.N != n {
		t.Errorf("on / off is %+v, want 0.9", e)
	}
	if e := each(q.dummy, 2, throughputRatio); math.Abs(e.Median-1) > 1e-9 || e.N != n {
		t.Errorf("A/A is %+v, want 1", e)
	}
	if off := q.off(); off.Seconds != 6*n || math.Abs(off.cost()-1000) > 1e-6 {
		t.Errorf("off is %+v: want %d s, 1000 µs a request", off, 6*n)
	}
	if on := q.on(); on.Seconds != 2*n {
		t.Errorf("on is %+v: want %d s", on, 2*n)
	}
}

func TestTogglingStops(t *testing.T) {
	recording := true
	broken := errors.New("broken")
	toggle := toggling{
		quads: 1, record: func(on bool) error { recording = on; return nil }, read: func() (sample, error) { return sample{}, broken },
		draw: rand.New(rand.NewPCG(1, 1)),
	}
	if _, err := toggle.run(t.Context()); !errors.Is(err, broken) || recording {
		t.Errorf("error %v, recording %t", err, recording)
	}
	toggle.settle, recording = time.Hour, true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := toggle.run(ctx); !errors.Is(err, context.Canceled) || recording {
		t.Errorf("error %v, recording %t", err, recording)
	}
	toggle.record = func(bool) error { return broken }
	if _, err := toggle.run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("error %v: want that of the switch", err)
	}
}

func TestParseMachine(t *testing.T) {
	const stat = "cpu  100 0 200 5000 50 1 2 30 0 0\ncpu0 50 0 100 2500 25 1 1 15 0 0\ncpu1 50 0 100 2500 25 0 1 15 0 0\nintr 5\n"
	busy, steal, err := parseMachine([]byte(stat), 30)
	if err != nil || math.Abs(busy-9.2) > 1e-9 || math.Abs(steal-0.3) > 1e-9 { // 2 CPUs for 30 s less 50.8 s
		t.Errorf("%v, %v, %v: want 9.2 and 0.3", busy, steal, err)
	}
	for _, bad := range []string{"", "cpu 1 2\ncpu0 1 2\n", "cpu 1 2 3 x 5 6 7 8\ncpu0 1\n"} {
		if _, _, err := parseMachine([]byte(bad), 1); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestParseUsage(t *testing.T) {
	if got, err := parseUsage([]byte("usage_usec 1500000\nuser_usec 1\n")); err != nil || got != 1.5 {
		t.Errorf("%v, %v: want 1.5 s", got, err)
	}
	for _, bad := range []string{"", "user_usec 5\n", "usage_usec x\n"} {
		if _, err := parseUsage([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestConfiguration(t *testing.T) {
	const want = "keep: {ratio: 0.01, per_second: 0}\ndepth: edges\nnamespaces:\n  exclude:\n    - \"mw[^a]*\"\n"
	if diff := cmp.Diff(want, configuration("edges", []string{"mw[^a]*"})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := configuration(asDefault, nil); strings.Contains(got, "depth") || strings.Contains(got, "namespaces") {
		t.Errorf("by default: %s", got)
	}
}

func TestPerRequest(t *testing.T) {
	got := perRequest(map[string]runs{"a": {10, 1000}, "b": {5, 5}, "c": {1, 1}}, map[string]runs{"a": {30, 5000}, "b": {15, 9005}, "c": {1, 1}}, 10)
	want := Programs{
		Programs:       []Program{{"b", 1, 900, 900}, {"a", 2, 200, 400}},
		RunsPerRequest: 3, UsPerRequest: 1.3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestJudge(t *testing.T) {
	good := func() *Report {
		return &Report{
			Scenario: "haproxy", Depth: "auto",
			Throughput: &Throughput{
				Kernel: Compared{AA: Estimate{1, 0.99, 1.01, 9}}, Whole: Compared{AA: Estimate{1, 0.9, 1.1, 9}},
				Cost: Compared{AA: Estimate{0, -3, 3, 9}}, All: Estimate{0.97, 0.96, 0.98, 9}, Covered: 0.99,
			},
			CPU: &CPU{Kernel: Compared{AA: Estimate{0, -3, 3, 9}}, All: Estimate{20, 10, 30, 9}}, // wide, but it does not meet its bar
		}
	}
	if r := good(); true {
		if r.judge(); len(r.Unsound) != 0 {
			t.Errorf("a good one: %q", r.Unsound)
		}
	}
	for what, c := range map[string]func(*Report){
		"A/A":       func(r *Report) { r.Throughput.Kernel.AA = Estimate{1.05, 1.03, 1.07, 9} },
		"CPU":       func(r *Report) { r.CPU.Kernel.AA = Estimate{9, 8, 10, 9} },
		"too vague": func(r *Report) { r.Throughput.All = Estimate{0.95, 0.90, 1, 9} },
		"too short": func(r *Report) { r.Throughput.Covered = 0.5 },
		"meets 5":   func(r *Report) { r.CPU.All = Estimate{4, -9, 17, 9} },
	} {
		r := good()
		c(r)
		r.judge()
		if len(r.Unsound) != 1 || !strings.Contains(r.Unsound[0], what) {
			t.Errorf("%s: %q", what, r.Unsound)
		}
		if err := sound([]*Report{r}); err == nil || !strings.Contains(err.Error(), "haproxy at depth auto") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, args := range [][]string{{"--slice", "1ms"}, {"--only", "linkerd"}, {"--depth", "deep"}, {"--no-such"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	rows := []Row{{Pods: 100, Namespaces: 107, Start: 1.5, Runs: 12.5, IdleRuns: 7, BPF: 1.25, Covered: 1, Kernel: Compared{On: Estimate{2, 1, 3, 9}}}}
	if err := markdown(&b, rows, nil); err != nil {
		t.Fatal(err)
	}
	if want := "| 100 | 107 | 1.50 s | 0.00 s | 7 | 12.5 | 1.25 µs | 2.0 (1.0 … 3.0) µs (—) | — µs | 0 MB |\n"; !strings.Contains(b.String(), want) {
		t.Errorf("no line %q in %s", want, b.String())
	}
}

// TestQuick runs scenarios once, in some seconds. What they measure is not looked at: that they measured is.
func TestQuick(t *testing.T) {
	if testing.Short() || os.Getenv("MESHWATCH_TEST_UNIT") != "" {
		t.Skip("runs a mesh and an agent: not a unit test")
	}
	if err := lab.Missing(lab.SidecarHAProxy); err != nil {
		if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
			t.Fatalf("MESHWATCH_TEST_PRIVILEGED=1, but: %v", err)
		}
		t.Skip(err)
	}
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	bins, err := buildInto(t.Context(), root, t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios() {
		if s.envoy || s.name == "bulk" || s.name == "raw" {
			continue // what others do, with other proxies or other bytes
		}
		t.Run(s.name, func(t *testing.T) {
			r, err := one(t.Context(), s, bins, quickPlan(), asDefault)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.table(io.Discard, s.what); err != nil {
				t.Error(err)
			}
			for name, v := range r.measured() {
				if !(v > 0) || math.IsInf(v, 0) {
					t.Errorf("%s: %v", name, v)
				}
			}
			for _, why := range r.Unsound {
				if strings.Contains(why, "failed") {
					t.Error(why)
				}
			}
		})
	}
}

// measured are figures that no run may leave out.
func (r *Report) measured() map[string]float64 {
	out := map[string]float64{}
	if t := r.Throughput; t != nil {
		out["throughput"], out["throughput with the agent"], out["requests/s"], out["CPU of a request"] = t.Kernel.On.Median, t.All.Median, t.Off, t.OffCost
		out["agent's CPU"], out["agent's memory"], out["maps"], out["program runs"] = t.AgentBusy, r.Agent.RSS, float64(r.Agent.MapBytes), r.Recording.RunsPerRequest
	}
	if c := r.CPU; c != nil {
		out["CPU of a request at a rate"], out["rate"] = c.Off, c.Reached
	}
	if r.Scenario == "haproxy" {
		out["flights of a request"], out["journeys of a request"] = r.Agent.Flights, r.Agent.Journeys
	}
	if i := r.Idle; i != nil {
		out["agent's memory"], out["agent alone"] = i.RSS, i.Alone
	}
	if n := r.Node; n != nil {
		out["start"], out["stop"], out["namespaces"] = n.Start.Median, n.Stop.Median, float64(n.Namespaces)
	}
	if a := r.Attached; a != nil {
		out["links"], out["throughput with programs attached"] = float64(a.Links), a.Throughput.On.Median
	}
	return out
}
