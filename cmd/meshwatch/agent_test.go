package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
)

// agent is a running `meshwatch agent`.
type agent struct {
	cmd    *exec.Cmd
	socket string
	log    *locked
	done   chan struct{}
}

// locked is a buffer that a process writes while a test reads.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func startAgent(t *testing.T, env []string, args ...string) *agent {
	t.Helper()
	needRoot(t, "starting an agent")
	a := &agent{socket: filepath.Join(t.TempDir(), "run", "s"), log: &locked{}, done: make(chan struct{})}
	a.cmd = command(context.Background(), append([]string{"agent", "--metrics=", "--control", a.socket}, args...)...)
	a.cmd.Env = append(a.cmd.Env, env...)
	a.cmd.Stderr = a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(a.done); _ = a.cmd.Wait() }()
	t.Cleanup(func() {
		_ = a.cmd.Process.Kill()
		<-a.done
	})
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(a.log.String(), "msg=ready") {
		select {
		case <-a.done:
			t.Fatalf("the agent ended: %s", a.log)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent is not ready: %s", a.log)
		}
	}
	return a
}

// stop ends the agent with a signal, which must take less than limit.
func (a *agent) stop(t *testing.T, s syscall.Signal, limit time.Duration) {
	t.Helper()
	begin := time.Now()
	if err := a.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("the agent does not stop: %s", a.log)
	}
	if took := time.Since(begin); took > limit {
		t.Errorf("stopping took %v", took)
	}
	if code := a.cmd.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d: %s", code, a.log)
	}
	if _, err := os.Lstat(a.socket); !os.IsNotExist(err) {
		t.Errorf("the control socket stayed: %v", err)
	}
}

func TestAgent(t *testing.T) {
	a := startAgent(t, nil)
	for _, args := range []string{"status", "hops", "hops -n", "hops --reset", "trace", "trace -o json", "path", "path host"} {
		r := call(t, append(strings.Fields(args), "--control", a.socket)...)
		r.wants(t, exitOK, "")
		if r.out == "" || r.errors != "" {
			t.Errorf("%s: %q %q", args, r.out, r.errors)
		}
	}
	var s control.Status
	if err := json.Unmarshal([]byte(call(t, "status", "-o", "json", "--control", a.socket).out), &s); err != nil {
		t.Fatal(err)
	}
	if s.Pid != a.cmd.Process.Pid || !s.Recording || s.Version != "v1-test" || s.Attached.Namespaces == 0 || len(s.Losses) == 0 {
		t.Errorf("status: %+v", s)
	}
	call(t, "trace", "none", "--control", a.socket).wants(t, exitNoAgent, `the agent has no journey with request id or trace id "none"`)
	finish(t, asNobody(command(t.Context(), "status", "--control", a.socket))).wants(t, exitMissing, "use sudo")
	call(t, "agent", "--metrics=", "--control", a.socket).wants(t, exitError, "already answers at "+a.socket)
	call(t, "check").wants(t, exitOK, "") // beside it
	a.stop(t, syscall.SIGTERM, 5*time.Second)
	call(t, "status", "--control", a.socket).wants(t, exitNoAgent, "no agent answers")
}

// A backend that is away costs neither the start nor the stop.
func TestBackendAway(t *testing.T) {
	a := startAgent(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"})
	r := call(t, "status", "--control", a.socket)
	r.wants(t, exitOK, "")
	if !strings.Contains(r.out, "export    http://127.0.0.1:1: nothing sent yet") && !strings.Contains(r.out, "lost, spans are dropped") {
		t.Errorf("status: %s", r.out)
	}
	a.stop(t, syscall.SIGINT, 8*time.Second)
}

func TestKilledAgentIsReplaced(t *testing.T) {
	a := startAgent(t, nil)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-a.done
	c := command(t.Context(), "agent", "--metrics=", "--control", a.socket)
	log := &locked{}
	c.Stderr = log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(log.String(), "msg=ready") && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, log)
	}
}
