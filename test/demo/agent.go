package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/test/lab"
)

// agent is the real program beside the lab, which ends it.
type agent struct {
	*control.Client
	l       *lab.Lab
	process lab.Process
	socket  string
	config  string
}

// readyWithin bounds the agent's start; it takes about a second of CPU.
const readyWithin = 20 * time.Second

// configure writes the agent's files. It keeps every request and leaves other labs alone; no backend and no port of the
// machine are used.
func configure(l *lab.Lab) (*agent, error) {
	workloads, err := l.WorkloadsYAML()
	if err != nil {
		return nil, err
	}
	a := &agent{l: l, socket: filepath.Join(l.Dir(), "agent.sock"), config: filepath.Join(l.Dir(), "agent.yaml")}
	topology := filepath.Join(l.Dir(), "workloads.yaml")
	config, err := yaml.Marshal(map[string]any{
		"control": map[string]any{"socket": a.socket}, "topology": map[string]any{"file": topology},
		"metrics": map[string]any{"listen": ""}, "export": map[string]any{"otlp": "off"},
		"depth": meshwatch.DepthFull, "budget": map[string]any{"agent": 0, "recorder": 0}, // it is to show all there is
		"keep": map[string]any{"per_second": 0}, "namespaces": map[string]any{"exclude": l.Others()},
	})
	if err := errors.Join(err, os.WriteFile(topology, workloads, 0o600), os.WriteFile(a.config, config, 0o600)); err != nil {
		return nil, fmt.Errorf("configure the agent: %w", err)
	}
	a.Client = control.NewClient(a.socket)
	return a, nil
}

// start returns when the agent records.
func (a *agent) start(ctx context.Context, bin string) (err error) {
	if a.process, err = a.l.Beside("agent", bin, "agent", "--config", a.config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		s, err := a.Status(ctx)
		if err == nil && s.Recording {
			return nil
		}
		if !a.process.Running() || ctx.Err() != nil {
			log, _ := os.ReadFile(a.l.LogFile(a.process)) //nolint:errcheck // what there is
			return fmt.Errorf("the agent does not get ready: %w: %s", errors.Join(err, ctx.Err()), log)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			continue // says why above
		}
	}
}

// watch measures for a time, from now on.
func (a *agent) watch(ctx context.Context, d time.Duration) (e evidence, err error) {
	since, cpu := time.Now(), cpus()
	if _, err := a.Hops(ctx, true); err != nil {
		return e, err
	}
	if err := sleep(ctx, d); err != nil {
		return e, err
	}
	rows, err := a.Hops(ctx, false)
	if err != nil {
		return e, err
	}
	const all = 1000 // that the agent lists; more than come in this time
	list, err := a.Recent(ctx, all)
	if err != nil {
		return e, err
	}
	if e = weigh(rows, list, since); len(e.owners) == 0 || len(e.requests) == 0 {
		return e, errors.New("the agent saw no request: is the load running? see the lab's logs")
	}
	e.busy = busy(cpu, cpus())
	return e, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
