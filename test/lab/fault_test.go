package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarHAProxy})
	t.Run("app", func(t *testing.T) { testFaultApp(t, l) })
	t.Run("sidecar", func(t *testing.T) { testFaultSidecar(t, l) })
	t.Run("loss", func(t *testing.T) { testFaultLoss(t, l) })
	t.Run("iptables", func(t *testing.T) { testFaultIptables(t, l) })
	if on := l.Faults(); len(on) > 0 {
		t.Errorf("still on: %+v", on)
	}
	if err := l.StartFault(Fault{Kind: "weather"}); err == nil {
		t.Error("a fault that does not exist was started")
	}
}

func start(t *testing.T, l *Lab, f Fault) {
	t.Helper()
	if err := l.StartFault(f); err != nil {
		t.Fatal(err)
	}
	if err := l.StartFault(f); err == nil {
		t.Error("started twice")
	}
}

func stop(t *testing.T, l *Lab, kind FaultKind) {
	t.Helper()
	for range 2 { // the second time there is nothing to stop
		if err := l.StopFault(kind); err != nil {
			t.Fatal(err)
		}
	}
}

func testFaultApp(t *testing.T, l *Lab) {
	const delay = 200 * time.Millisecond
	start(t, l, Fault{Kind: FaultApp, Delay: delay})
	begin := time.Now()
	get(t, l, "/", nil)
	if took := time.Since(begin); took < delay {
		t.Errorf("a request took %s, want at least %s", took, delay)
	}
	stop(t, l, FaultApp)
	eventually(t, "a fast request", func() bool {
		begin := time.Now()
		get(t, l, "/", nil)
		return time.Since(begin) < delay
	})
}

func testFaultSidecar(t *testing.T, l *Lab) {
	start(t, l, Fault{Kind: FaultSidecar, Pod: "frontend"})
	proc, err := l.sidecarOf("frontend")
	if err != nil {
		t.Fatal(err)
	}
	in := func() bool {
		cgroups, err := os.ReadFile(filepath.Join("/proc", itoa(proc.PID), "cgroup"))
		return err == nil && strings.Contains(string(cgroups), "/mw"+l.ID+"-frontend\n")
	}
	if !in() {
		t.Error("the sidecar is not in its cgroup")
	}
	stop(t, l, FaultSidecar)
	if in() {
		t.Error("the sidecar is still in its cgroup")
	}
}

func TestQuota(t *testing.T) {
	for percent, want := range map[float64][2]int{50: {50_000, 100_000}, 2: {2_000, 100_000}, 1: {1_000, 100_000}, 0.5: {1_000, 200_000}, 0.01: {1_000, 1_000_000}} {
		if quota, period := quota(percent); quota != want[0] || period != want[1] {
			t.Errorf("%v %%: %d µs of %d, want %d of %d", percent, quota, period, want[0], want[1])
		}
	}
}

func testFaultLoss(t *testing.T, l *Lab) {
	start(t, l, Fault{Kind: FaultLoss, Percent: 100})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := l.Request(ctx, "/", nil); err == nil {
		t.Error("a request passed though all packets are lost")
	}
	stop(t, l, FaultLoss)
	eventually(t, "a request that passes", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		resp, err := l.Request(ctx, "/", nil)
		return err == nil && resp.Status == 200
	})
}

func testFaultIptables(t *testing.T, l *Lab) {
	rules := func(ns string) int {
		out, err := exec.Command("ip", "netns", "exec", ns, "iptables-save", "-t", "filter").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(out), slowChain)
	}
	backend, _ := l.Pod("backend")
	start(t, l, Fault{Kind: FaultIptables, Rules: 1000})
	for _, ns := range []string{l.NodeNetns(), backend.Netns} {
		if n := rules(ns); n < 1000 {
			t.Errorf("%d rules in %s, want more than 1000", n, ns)
		}
	}
	get(t, l, "/", nil)
	stop(t, l, FaultIptables)
	for _, ns := range []string{l.NodeNetns(), backend.Netns} {
		if n := rules(ns); n != 0 {
			t.Errorf("%d rules left in %s", n, ns)
		}
	}
}
