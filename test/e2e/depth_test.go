package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/test/lab"
)

// load keeps the mesh busy until it is stopped or the test ends.
func load(t *testing.T, l *lab.Lab, qps float64) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r, err := l.Fortio(ctx, lab.Load{Connections: 8, Duration: 5 * time.Minute, QPS: qps}); err != nil || r.Requests == 0 {
			t.Errorf("load: %d requests, %v", r.Requests, err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func status(t *testing.T, a *agent) control.Status {
	t.Helper()
	s, err := a.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Where the rules of a pod become slow, full depth begins by itself, for longer than a turn, and says which rules.
func TestSlowRulesAreLookedInto(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy})
	a := start(t, l, "")
	load(t, l, 200)
	a.eventually("what is usual is known", func() error {
		if n := status(t, a).Joiner.Journeys; n < 1000 {
			return fmt.Errorf("%d journeys", n)
		}
		return nil
	})
	if err := l.StartFault(lab.Fault{Kind: lab.FaultIptables}); err != nil {
		t.Fatal(err)
	}
	since := time.Time{}
	a.eventually("full depth that is not a turn", func() error {
		switch n := status(t, a).Attached.Deep; {
		case n == 0:
			since = time.Time{}
			return fmt.Errorf("no full depth")
		case since.IsZero():
			since = time.Now()
		}
		if lasts := time.Since(since); lasts < 3*time.Second {
			return fmt.Errorf("for %s", lasts)
		}
		return nil
	})
	a.eventually("the slow rules by name", func() error {
		rows, err := a.Hops(t.Context(), false)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Kind == "iptables" && !strings.Contains(r.Hop, "+") && r.P50 > 300*time.Microsecond {
				return nil
			}
		}
		return fmt.Errorf("none in %d rows", len(rows))
	})
}

// Who asks for full depth gets it where asked, at once, for as long as asked.
func TestDepthIsAskedFor(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy})
	a := start(t, l, "depth: edges")
	pod, _ := l.Pod("backend")
	names, err := a.Deepen(t.Context(), pod.Netns, 2*time.Second)
	if err != nil || len(names) != 1 || names[0] != pod.Netns {
		t.Fatalf("%v in full depth, %v", names, err)
	}
	id := send(t, l, "/")
	j := a.journeys(1, withID(id))[0]
	for i, e := range j.Exchanges {
		if i < 4 && e.Request.Deep || i == 5 && !e.Request.Deep || i == 5 && e.Request.Hops[0].Name != "iptables OUTPUT" {
			t.Errorf("leg %d: in full depth %v, hops %+v", i, e.Request.Deep, e.Request.Hops)
		}
	}
	a.eventually("it is over", func() error {
		if n := status(t, a).Attached.Deep; n > 0 {
			return fmt.Errorf("%d in full depth", n)
		}
		return nil
	})
	if _, err := a.Deepen(t.Context(), "nowhere", time.Second); err == nil || !strings.Contains(err.Error(), "no network namespace is called") {
		t.Errorf("got %v", err)
	}
}

// The load costs more than the budget: the agent keeps it to a tenth by recording less of the time, says so everywhere, gives out only
// whole journeys, and records all again when the load is over.
func TestBudget(t *testing.T) {
	const budget = 0.04
	l := up(t, lab.Options{Sidecar: lab.SidecarHAProxy})
	a := start(t, l, fmt.Sprintf("depth: full\nbudget: {agent: %v, recorder: 0}", budget))
	stop := load(t, l, 800)
	a.eventually("less is recorded", func() error {
		if s := status(t, a); s.Budget.Share > 0.9 || !s.Budget.Shallow || s.Attached.Deep > 0 {
			return fmt.Errorf("%+v, %d in full depth", s.Budget, s.Attached.Deep)
		}
		return nil
	})
	a.eventually("it is kept for 12 s", func() error {
		before, began := cpuTime(t, a), time.Now()
		for time.Since(began) < 12*time.Second {
			if err := t.Context().Err(); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond) // the time is what is measured
		}
		if used := (cpuTime(t, a) - before).Seconds() / time.Since(began).Seconds(); used > 1.1*budget {
			return fmt.Errorf("%.3f CPUs", used)
		}
		return nil
	})
	s := status(t, a)
	lost := uint64(0)
	for _, r := range s.Losses {
		if r.Stage == "pair" && r.Reason == "recording-stopped" {
			lost = r.Count
		}
	}
	if !s.Recording || lost == 0 || s.Budget.Share == 1 {
		t.Errorf("recording %v, %d requests cut, %+v", s.Recording, lost, s.Budget)
	}
	a.out.mu.Lock()
	n, whole, said := 0, 0, 0
	for _, j := range a.out.lines {
		if n++; len(j.Exchanges) == len(sixLegs) {
			whole++
		}
		if j.RecordedShare > 0 && j.RecordedShare < 1 {
			said++
		}
	}
	a.out.mu.Unlock()
	if n < 100 || float64(whole) < 0.98*float64(n) || said == 0 {
		t.Errorf("of %d journeys %d are whole, %d say what share was recorded", n, whole, said)
	}
	stop()
	seldom := time.NewTicker(time.Second) // to answer costs the agent something, too
	defer seldom.Stop()
	for deadline := time.Now().Add(within); status(t, a).Budget.Share < 1; <-seldom.C {
		if time.Now().After(deadline) {
			t.Fatalf("not all is recorded again: %s", status(t, a).Budget)
		}
	}
}

// cpuTime is what the agent's process has used.
func cpuTime(t *testing.T, a *agent) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	sum := time.Duration(0)
	for _, word := range strings.Fields(rest)[11:13] { // utime, stime
		ticks, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 everywhere
	}
	return sum
}
