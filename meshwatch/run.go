package meshwatch

import (
	"context"
	"fmt"
)

// Run starts an agent and stops it when ctx ends.
func Run(ctx context.Context, cfg Config, env Env) error {
	a, err := Start(ctx, cfg, env)
	if err != nil {
		return err
	}
	<-ctx.Done()
	if err := a.Close(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
