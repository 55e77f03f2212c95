package meshwatch

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/test/leaks"
)

// alone is a configuration whose agent is in nobody's way.
func alone(t *testing.T) Config {
	cfg := Default()
	cfg.Control.Socket = filepath.Join(t.TempDir(), "s")
	cfg.Metrics.Listen = ""
	cfg.Namespaces.Exclude = []string{"*"}
	return cfg
}

func env() Env { return Env{Log: quiet(), Stdout: io.Discard, Version: "test"} }

// A second agent ends before it loads anything: the first one's socket is asked first.
func TestSecondAgent(t *testing.T) {
	leaks.None(t)
	cfg := alone(t)
	first, err := control.Claim(cfg.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	begin := time.Now()
	err = Run(ctx, cfg, env())
	var running *control.RunningError
	if !errors.As(err, &running) || running.Socket != cfg.Control.Socket {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	if _, err := os.Stat(cfg.Control.Socket); err != nil {
		t.Errorf("the first agent's socket: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadInput(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"ratio":    {func(c *Config) { c.Keep.Ratio = 2 }, "keep.ratio is 2: it must be from 0 (none) to 1 (all)"},
		"recorder": {func(c *Config) { c.Recorder.Index = 5 }, "recorder.index is 5: it must be a power of two"},
		"output":   {func(c *Config) { c.Output = "xml" }, "output"},
	} {
		t.Run(name, func(t *testing.T) {
			leaks.None(t)
			cfg := alone(t)
			tt.change(&cfg)
			var bad *ConfigError
			if err := Run(t.Context(), cfg, env()); !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: %v", err)
			}
			if _, err := Start(t.Context(), cfg, env()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Start: %v", err)
			}
			if _, err := os.Stat(cfg.Control.Socket); err == nil {
				t.Error("a control socket was made")
			}
		})
	}
}

// What is found wrong after the programs are loaded takes them back.
func TestBadTopologyFile(t *testing.T) {
	privileged(t)
	cfg := alone(t)
	cfg.Topology.File = filepath.Join(t.TempDir(), "none.yaml")
	leaks.None(t)
	var bad *ConfigError
	if err := Run(t.Context(), cfg, env()); !errors.As(err, &bad) || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("Run: %v", err)
	}
}

// An agent that starts, records and ends leaves nothing behind, in any order.
func TestAgentLeavesNothing(t *testing.T) {
	privileged(t)
	leaks.None(t)
	cfg := alone(t)
	cfg.Output = OutputJSON
	for range 2 {
		a, err := Start(t.Context(), cfg, env())
		if err != nil {
			t.Fatal(err)
		}
		if s := a.Status(); !s.Recording || s.Attached.Namespaces != 0 || s.Ring.MapBytes == 0 || len(s.Losses) == 0 {
			t.Errorf("status: %+v", s)
		}
		a.Record(false)
		if a.Status().Recording {
			t.Error("still recording")
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

// privileged skips where no programs can be loaded, or fails where they must be.
func privileged(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1":
		t.Fatal("not root, and MESHWATCH_TEST_PRIVILEGED=1 says that the privileged tests must run")
	default:
		t.Skip("starting an agent needs root")
	}
}
