package meshwatch

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/metrics"
)

// Run is the agent's process: it claims the control socket, so that there is one agent, starts, answers, and stops when
// ctx ends.
func Run(ctx context.Context, cfg Config, env Env) (err error) {
	if err := cfg.Validate(); err != nil {
		return &ConfigError{Err: err}
	}
	server, err := control.Claim(cfg.Control.Socket)
	if err != nil {
		return err
	}
	a, err := Start(ctx, cfg, env)
	if err != nil {
		return errors.Join(err, server.Close())
	}
	defer func() {
		if e := a.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("stop: %w", e))
		}
	}()
	defer func() { err = errors.Join(err, server.Close()) }() // before the agent: it is asked no more
	server.Serve(a, a.clock, env.Log)
	if cfg.Metrics.Listen != "" {
		m, err := metrics.Listen(cfg.Metrics.Listen, a, env.Log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Close()) }()
	}
	env.Log.Info("ready", "control", cfg.Control.Socket, "metrics", cfg.Metrics.Listen)
	<-ctx.Done()
	env.Log.Info("stopping")
	return nil
}
