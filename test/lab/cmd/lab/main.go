// Command lab builds, loads, breaks and removes the mesh of package lab, for shells and the Makefile.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "lab",
		Short:         "A service mesh in network namespaces",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(up(), down(), status(), load(), request(), fault(), workloads())
	return cmd
}

// withID adds the flag by which a command is told which lab it is for.
func withID(cmd *cobra.Command, id *string) *cobra.Command {
	cmd.Flags().StringVar(id, "id", "", "which lab, not needed when there is only one")
	return cmd
}
