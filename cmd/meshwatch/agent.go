package main

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/check"
)

// timerSlack lets the kernel wake the agent's threads up to 1 ms late, with other work, where its own default is 50 µs. Go's monitor
// thread, which looks on every 20 µs while anything runs, then does so less often. Nothing here is in such a hurry.
const timerSlack = "1000000" // ns

// quiet makes the agent a small neighbour: one thread runs Go code at a time, threads need not wake up in time, the heap stays small.
// What the environment says of Go's own settings goes before it.
func quiet(log *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	threads, err := os.ReadDir("/proc/self/task") // later ones have it from those that make them
	for _, t := range threads {
		err = errors.Join(err, os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", []byte(timerSlack), 0))
	}
	if err != nil {
		log.Debug("the agent wakes up more often than it has to", "error", err)
	}
}

// gcPercent keeps the agent small: with it the heap grows to 1.5 times what is in use, where Go's own default is twice. Most of what is
// in use are messages that are used again, so there is little to collect.
const gcPercent = 50

func agentCommand() *cobra.Command {
	var file string
	var verbose bool
	d := meshwatch.Default()
	c := &cobra.Command{
		Use:   "agent",
		Short: "Record, join and give out what passes through this node, until SIGINT or SIGTERM",
		Long: `Record, join and give out what passes through this node, until SIGINT or SIGTERM. Needs root; meshwatch check says
what this kernel can do. Everything is set in a YAML file (docs/configuration.md); the flags below go before it. The
environment gives OpenTelemetry's OTEL_* variables.`,
		Args: usage(cobra.NoArgs),
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration `file`")
	output := f.String("output", d.Output, "what goes to standard output: none, or json for a line per journey")
	topology := f.String("topology", d.Topology.File, "topology `file`")
	metrics := f.String("metrics", d.Metrics.Listen, "`address:port` of /metrics, empty for none")
	socket := f.String("control", d.Control.Socket, "unix socket `path` of the agent")
	otlp := f.String("otlp", d.Export.OTLP, "export of spans: auto (where the OTEL_* environment names an endpoint), on, off")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(file)
		if err != nil {
			return err
		}
		for name, to := range map[string]struct{ from, to *string }{
			"output": {output, &cfg.Output}, "topology": {topology, &cfg.Topology.File}, "metrics": {metrics, &cfg.Metrics.Listen},
			"control": {socket, &cfg.Control.Socket}, "otlp": {otlp, &cfg.Export.OTLP},
		} {
			if f.Changed(name) {
				*to.to = *to.from
			}
		}
		if err := cfg.Validate(); err != nil {
			return &meshwatch.ConfigError{Err: err}
		}
		if err := check.Preflight(); err != nil {
			return err
		}
		log := logger(verbose)
		quiet(log)
		return meshwatch.Run(c.Context(), cfg, meshwatch.Env{
			Log: log, Stdout: os.Stdout, Version: version,
		})
	}
	return c
}

func loadConfig(file string) (meshwatch.Config, error) {
	if file == "" {
		return meshwatch.Default(), nil
	}
	return meshwatch.Load(file)
}

func logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
