package main

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/check"
)

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
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		return meshwatch.Run(c.Context(), cfg, meshwatch.Env{
			Log: logger(verbose), Stdout: os.Stdout, Version: version,
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
