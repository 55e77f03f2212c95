package main

import (
	"context"
	"errors"
	"math"
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
	if e.Median != 50 || e.Quads != 101 || e.Low < 34 || e.Low > 45 || e.High < 55 || e.High > 66 {
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

func TestAgrees(t *testing.T) {
	for _, c := range []struct {
		e    Estimate
		want bool
	}{
		{Estimate{1.004, 0.995, 1.008, 9}, true}, {Estimate{1.02, 1.01, 1.03, 9}, true}, {Estimate{0.97, 0.96, 0.98, 9}, false},
		{Estimate{1.05, 1.04, 1.06, 9}, false}, {Estimate{1, 0.97, 1.03, 9}, false}, {Estimate{}, false},
	} {
		if got := c.e.agrees(1, 0.015, 0.025); got != c.want {
			t.Errorf("%+v agrees with 1 ± 0.015: %t", c.e, got)
		}
	}
}

// A machine that slows down evenly, and by a tenth while recording: drift must not show.
func TestToggling(t *testing.T) {
	on, at := false, 0.0
	var total sample
	var switches []bool
	toggle := toggling{
		quads: 3,
		record: func(to bool) {
			on = to
			switches = append(switches, to)
		},
		read: func() (sample, error) {
			// time passes with every look: 1 s a slice, at a rate that drifts
			at++
			rate := 1000 - 10*math.Floor(at/2)
			if on {
				rate *= 0.9
			}
			total = total.plus(sample{Requests: rate, Seconds: 1, Busy: rate / 1000})
			return total, nil
		},
	}
	q, err := toggle.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	real, dummy := []bool{true, false, false, true}, []bool{false, false, false, false}
	want := append(slices.Concat(real, dummy, real, dummy, real, dummy), false)
	if diff := cmp.Diff(want, switches); diff != "" {
		t.Errorf("switches (-want +got):\n%s", diff)
	}
	if e := each(q.switched, throughputRatio); math.Abs(e.Median-0.9) > 1e-3 || e.Quads != 3 {
		t.Errorf("on / off is %+v, want 0.9", e)
	}
	if e := each(q.dummy, throughputRatio); math.Abs(e.Median-1) > 1e-9 || e.Quads != 3 {
		t.Errorf("A/A is %+v, want 1", e)
	}
	if off := q.off(); off.Seconds != 12 || math.Abs(off.cost()-1000) > 1e-6 {
		t.Errorf("off is %+v: want 12 s, 1000 µs a request", off)
	}
}

func TestTogglingStops(t *testing.T) {
	recording := true
	broken := errors.New("broken")
	toggle := toggling{quads: 1, record: func(on bool) { recording = on }, read: func() (sample, error) { return sample{}, broken }}
	if _, err := toggle.run(t.Context()); !errors.Is(err, broken) || recording {
		t.Errorf("error %v, recording %t", err, recording)
	}
	toggle.settle, recording = time.Hour, true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := toggle.run(ctx); !errors.Is(err, context.Canceled) || recording {
		t.Errorf("error %v, recording %t", err, recording)
	}
}

func TestParseBusy(t *testing.T) {
	const stat = "cpu  100 0 200 5000 50 1 2 30 0 0\ncpu0 50 0 100 2500 25 1 1 15 0 0\ncpu1 50 0 100 2500 25 0 1 15 0 0\nintr 5\n"
	got, err := parseBusy([]byte(stat), 30)
	if err != nil || math.Abs(got-9.2) > 1e-9 { // 2 CPUs for 30 s less 50.8 s
		t.Errorf("%v, %v: want 9.2", got, err)
	}
	for _, bad := range []string{"", "cpu 1 2\ncpu0 1 2\n", "cpu 1 2 3 x 5 6 7 8\ncpu0 1\n"} {
		if _, err := parseBusy([]byte(bad), 1); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestParseCPU(t *testing.T) {
	const stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 100 1000 10 18446744073709551615"
	if got, err := parseCPU([]byte(stat)); err != nil || got != 2 {
		t.Errorf("%v, %v: want 2 s", got, err)
	}
	if _, err := parseCPU([]byte("7 (x) S 1")); err == nil {
		t.Error("a short line is read")
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

func TestSound(t *testing.T) {
	good := &Mesh{
		Throughput: Throughput{FullDummy: Estimate{1, 0.99, 1.01, 9}, KernelDummy: Estimate{1, 0.99, 1.01, 9}},
		CPU:        CPU{Dummy: Estimate{0, -3, 3, 9}},
	}
	bad := &Mesh{
		Throughput: Throughput{FullDummy: Estimate{1, 0.9, 1.1, 9}, KernelDummy: Estimate{1, 0.99, 1.01, 9}},
		CPU:        CPU{Dummy: Estimate{9, 8, 10, 9}},
	}
	meshes := map[lab.Sidecar]*Mesh{lab.SidecarEnvoy: good, lab.SidecarHAProxy: bad}
	for _, m := range meshes {
		m.judge()
	}
	order := []lab.Sidecar{lab.SidecarHAProxy, lab.SidecarEnvoy}
	err := sound(order, meshes)
	if err == nil || len(bad.Unsound) != 2 || len(good.Unsound) != 0 || !strings.Contains(err.Error(), "haproxy mesh: A/A of throughput, full agent's slices is 1.000") {
		t.Errorf("error %v, notes %q and %q", err, bad.Unsound, good.Unsound)
	}
}

func TestBadOptions(t *testing.T) {
	for _, args := range [][]string{{"--slice", "1ms"}, {"--mesh", "linkerd"}, {"--no-such"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}

// TestQuick runs everything once, in some seconds. What it measures is not looked at: that it measured is.
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
	prog := program{}
	if prog.bin, err = build(t.Context(), root, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	m, err := measure(t.Context(), prog, lab.SidecarHAProxy, quickPlan())
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]float64{
		"throughput, full agent": m.Throughput.Full.Median, "throughput, kernel": m.Throughput.Kernel.Median,
		"requests/s": m.Throughput.Unobserved, "CPU of a request": m.CPU.Off, "agent's memory": m.Agent.RSS,
		"flights of a request": m.Agent.FlightsPerRequest, "journeys of a request": m.Agent.Journeys, "map memory": float64(m.Agent.MapBytes),
		"program runs": m.Recording.RunsPerRequest, "program runs, off": m.Off.RunsPerRequest,
	} {
		if !(v > 0) || math.IsInf(v, 0) {
			t.Errorf("%s: %v", name, v)
		}
	}
	if m.Throughput.LoadErrors+m.CPU.LoadErrors > 0 {
		t.Errorf("%d errors of the load", m.Throughput.LoadErrors+m.CPU.LoadErrors)
	}
}
