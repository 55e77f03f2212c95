// Package e2e shows that meshwatch does what it says: the real agent beside a real mesh, with a real backend behind it.
package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// within bounds everything a test waits for.
const within = 30 * time.Second

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "meshwatch-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "meshwatch")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/meshwatch")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// up builds a lab that ends with the test, or skips where that cannot be.
func up(t *testing.T, opts lab.Options) *lab.Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a lab, not a short test")
	}
	if err := lab.Missing(opts.Sidecar); err != nil {
		if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
			t.Fatalf("MESHWATCH_TEST_PRIVILEGED=1, but: %v", err)
		}
		t.Skip(err)
	}
	l, err := lab.Up(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// agent is a running meshwatch.
type agent struct {
	t   *testing.T
	cmd *exec.Cmd
	*control.Client
	socket string // the Client's
	out    *output
}

// output is what an agent wrote.
type output struct {
	mu    sync.Mutex
	lines []*report.Line
	raw   []byte // of all lines
	bad   []error
}

// in is the agent for a subtest.
func (a *agent) in(t *testing.T) *agent {
	b := *a
	b.t = t
	return &b
}

// start runs the agent, watching this lab's namespaces alone, until the test ends.
func start(t *testing.T, l *lab.Lab, config string, env ...string) *agent {
	t.Helper()
	dir := t.TempDir()
	workloads, err := l.WorkloadsYAML()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(config, "budget:") {
		config += "\nbudget: {agent: 0, recorder: 0}"
	}
	exclude := `"host", "` + strings.Join(l.Others(), `", "`) + `"`
	files := map[string]string{
		"workloads.yaml": string(workloads),
		"config.yaml": config + "\nnamespaces: {exclude: [" + exclude + "]}\noutput: json\nmetrics: {listen: \"\"}\nkeep: {per_second: 0}\n" +
			"topology: {file: " + filepath.Join(dir, "workloads.yaml") + "}\ncontrol: {socket: " + filepath.Join(dir, "sock") + "}\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &agent{t: t, out: &output{}, socket: filepath.Join(dir, "sock")}
	a.Client = control.NewClient(a.socket)
	a.cmd = exec.Command(binary, "agent", "--config", filepath.Join(dir, "config.yaml"))
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	a.cmd.Env = append(os.Environ(), env...)
	log := &strings.Builder{}
	a.cmd.Stderr = log
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { a.out.read(out) })
	t.Cleanup(func() {
		reading.Wait()
		if err := a.cmd.Wait(); err != nil {
			t.Errorf("agent: %v\n%s", err, log)
		}
		for _, err := range a.out.bad {
			t.Errorf("line of the agent: %v", err)
		}
		if t.Failed() {
			t.Log(log)
		}
	})
	t.Cleanup(func() { _ = a.cmd.Process.Signal(syscall.SIGTERM) })
	a.eventually("the agent records", func() error {
		s, err := a.Status(t.Context())
		if err == nil && !s.Recording {
			err = errors.New("it does not")
		}
		return err
	})
	return a
}

func (o *output) read(out io.Reader) {
	lines := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		j, err := report.Decode(line)
		o.mu.Lock()
		o.raw = append(o.raw, line...)
		if err != nil {
			o.bad = append(o.bad, err)
		} else {
			o.lines = append(o.lines, j)
		}
		o.mu.Unlock()
	}
}

// eventually waits until holds returns nil.
func (a *agent) eventually(what string, holds func() error) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			a.t.Fatalf("not within %s: %s: %v", within, what, err)
		case <-tick.C:
		}
	}
}

// journeys are those that satisfy want, waited for until there are n.
func (a *agent) journeys(n int, want func(*report.Line) bool) (got []*report.Line) {
	a.t.Helper()
	a.eventually(fmt.Sprintf("%d journeys", n), func() error {
		a.out.mu.Lock()
		defer a.out.mu.Unlock()
		got = got[:0]
		for _, j := range a.out.lines {
			if want(j) {
				got = append(got, j)
			}
		}
		if len(got) < n {
			return fmt.Errorf("%d of %d lines", len(got), len(a.out.lines))
		}
		return nil
	})
	return got
}

func withID(id string) func(*report.Line) bool {
	return func(j *report.Line) bool { return j.RequestID == id }
}

// shape is a journey's legs as "caller > callee", in the order in which they began.
func shape(j *report.Line) (out []string) {
	for _, e := range j.Exchanges {
		out = append(out, fmt.Sprintf("%s %s > %s %s", e.Leg.Client.Workload.Name, e.Leg.Client.Role, e.Leg.Server.Workload.Name, e.Leg.Server.Role))
	}
	return out
}

// logLosses says what the agent of a test that failed could not keep.
func (a *agent) logLosses() {
	if !a.t.Failed() {
		return
	}
	s, err := a.Status(a.t.Context())
	if err != nil {
		a.t.Log(err)
	}
	for _, l := range s.Losses {
		if l.Count > 0 {
			a.t.Logf("lost at %s, %s: %d", l.Stage, l.Reason, l.Count)
		}
	}
}
