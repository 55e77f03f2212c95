// Command meshwatch answers whose time a request was, from the kernel, without sidecars. See README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker, see Makefile.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	// Cancelled by the first signal; the second one ends the process as if there were no handler.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := root().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "meshwatch:", err)
	}
	return exitCode(err)
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "meshwatch",
		Short: "Whose time was it: the app, a sidecar, the node or the network? Per request, from the kernel",
		Long: `meshwatch records in the kernel when every message of a request passes each hop of this node, joins these into
the request's journey, and says whose time it was. No sidecar, no code change, no restart.

Exit codes: 0 ok; 1 it went wrong; 2 wrong usage or configuration; 3 the kernel or the privileges lack something
(see meshwatch check); 4 no agent answers, or it does not have what was asked for.`,
		Args:          usage(cobra.NoArgs),
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	c.CompletionOptions.HiddenDefaultCmd = true
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	c.AddCommand(agentCommand(), traceCommand(), hopsCommand(), pathCommand(), topologyCommand(), auditCommand(), checkCommand(), statusCommand(), versionCommand())
	return c
}
