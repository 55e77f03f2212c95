package meshwatch

import (
	"io"
	"log/slog"
)

// Env is what the process gives the agent. Log and Stdout are required.
type Env struct {
	Log     *slog.Logger
	Stdout  io.Writer // journeys as JSON lines, where Config.Output says so
	Version string    // of this build
}
