package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
	"github.com/meshwatch/meshwatch/test/lab"
)

// agent is a running `meshwatch agent`. What it writes goes to a file without a name, which is read when the load is
// over: reading on these CPUs meanwhile would disturb what is measured.
type agent struct {
	cmd    *exec.Cmd
	out    *os.File
	log    bytes.Buffer
	ask    *control.Client
	exited chan struct{}
	err    error // valid once exited is closed
}

// build makes the binary of this tree.
func build(ctx context.Context, root, dir string) (string, error) {
	bin := filepath.Join(dir, "meshwatch")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", bin, "./cmd/meshwatch")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build meshwatch: %w: %s", err, out)
	}
	return bin, nil
}

// configuration is the agent's. Other labs on this machine are left out: they are not what is measured. Nothing is left
// out to keep a budget.
const configuration = `depth: %s
budget: {agent: 0, recorder: 0}
capture_headers: [%s]
output: json
export: {otlp: "off"}
metrics: {listen: ""}
control: {socket: %q}
topology: {file: %q}
namespaces: {exclude: [%s]}
`

// hears has joins made of what Envoys or HAProxies say.
const hears = "access_logs: {%s: [%q], use: join, per_second: 1000000, per_peer: 1000000}\n"

// startAgent returns when the agent records.
func (r *runner) startAgent(ctx context.Context, l *lab.Lab) (_ *agent, err error) {
	config, topology, socket := filepath.Join(r.dir, "agent.yaml"), filepath.Join(r.dir, "topology.yaml"), filepath.Join(r.dir, "agent.sock")
	workloads, err := l.WorkloadsYAML()
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(configuration, r.depth, truthHeader, socket, topology, `"`+strings.Join(l.Others(), `", "`)+`"`)
	switch {
	case l.Options.ALS != "":
		text += fmt.Sprintf(hears, "envoy", l.Options.ALS)
	case l.Options.Said != "":
		text += fmt.Sprintf(hears, "haproxy_rings", l.Options.Said)
	}
	text += r.lines + "\n"
	if err := errors.Join(os.WriteFile(topology, workloads, 0o600), os.WriteFile(config, []byte(text), 0o600)); err != nil {
		return nil, fmt.Errorf("write the agent's configuration: %w", err)
	}
	a := &agent{ask: control.NewClient(socket), exited: make(chan struct{})}
	if a.out, err = os.CreateTemp(r.dir, "journeys"); err != nil {
		return nil, fmt.Errorf("make a file for journeys: %w", err)
	}
	if err := os.Remove(a.out.Name()); err != nil { // it goes when nobody has it open, however this ends
		return nil, errors.Join(fmt.Errorf("make a file for journeys: %w", err), a.out.Close())
	}
	a.cmd = exec.Command("nice", "-n", strconv.Itoa(r.nice), r.bin, "agent", "--config", config) //nolint:gosec // it becomes the agent
	a.cmd.Stdout, a.cmd.Stderr = a.out, &a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // ^C is for us: the load stops first
		Pdeathsig: syscall.SIGTERM, // main keeps the thread that starts it
	}
	if err := a.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the agent: %w", err), a.out.Close())
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.exited)
	}()
	if err := a.waitReady(ctx, l.Options); err != nil {
		return nil, errors.Join(err, a.stop(), a.out.Close())
	}
	return a, nil
}

// waitReady waits until the agent records and, where the lab speaks TLS, has probes on what the proxies and the load use, and where the apps
// hand no ids on, on these.
func (a *agent) waitReady(ctx context.Context, o lab.Options) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // it takes about one; others may use the CPUs
	defer cancel()
	var last error
	for {
		s, err := a.ask.Status(ctx)
		if err == nil && s.Recording && (!o.TLS || probed(&s, o)) && (!o.Anonymous || o.GRPC || goProbed(&s)) {
			return nil
		}
		last = err
		select {
		case <-a.exited:
			return fmt.Errorf("the agent ended at once: %w: %s", a.err, a.log.Bytes())
		case <-ctx.Done():
			return fmt.Errorf("wait until the agent records: %w", errors.Join(ctx.Err(), last))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// probed says whether OpenSSL and the sidecars have probes, and what speaks TLS in the oddities: this program, and an app.
func probed(s *control.Status, o lab.Options) bool {
	names := []string{"libssl", string(o.Sidecar)}
	if o.Records && !o.GRPC {
		names = append(names, "accuracy", "/app")
	}
	for _, name := range names {
		if name != string(lab.SidecarHAProxy) && !slices.ContainsFunc(s.TLS, func(b probe.Binary) bool { return b.Writes && strings.Contains(b.Path, name) }) {
			return false
		}
	}
	return true
}

// goProbed says whether the lab's apps in Go have probes on net/http.
func goProbed(s *control.Status) bool {
	return slices.ContainsFunc(s.TLS, func(b probe.Binary) bool { return filepath.Base(b.Path) == "app" && b.HTTP != nil && b.HTTP.Probed })
}

// settle waits until an agent has given out all it will, and returns its status then.
func settle(ctx context.Context, agent *control.Client) (control.Status, error) {
	const (
		still = 2 * time.Second  // more than the joiner waits for a flight or a parent
		limit = 15 * time.Second // more than the reader waits for a flight that is not read
	)
	var flights uint64
	since := time.Now()
	for deadline := time.Now().Add(limit); ; {
		s, err := agent.Status(ctx)
		if err != nil {
			return s, err
		}
		if s.Joiner.Flights != flights {
			flights, since = s.Joiner.Flights, time.Now()
		}
		if now := time.Now(); now.After(deadline) || now.Sub(since) > still && s.Ring.Open == 0 {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// stop ends the agent in order. It may be called again.
func (a *agent) stop() error {
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	select {
	case <-a.exited:
	case <-time.After(30 * time.Second): // it writes what is queued
		err := a.cmd.Process.Kill()
		<-a.exited
		return errors.Join(errors.New("stop the agent: it was still there after 30 s"), err)
	}
	if a.err != nil {
		return fmt.Errorf("stop the agent: %w: %s", a.err, a.log.Bytes())
	}
	return nil
}
