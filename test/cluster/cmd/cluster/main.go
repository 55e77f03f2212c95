// Command cluster builds, shows and removes the Kubernetes of package cluster, for shells and the Makefile.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	os.Exit(status(err, os.Stderr))
}

// status says what was wrong, and is the exit status for it. A program that `in` and `kubectl` ran has spoken for itself: its own
// status is theirs. An error that only has such a one below is ours to tell.
func status(err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // see above
		return exit.ExitCode()
	}
	fmt.Fprintln(w, "cluster:", err)
	return 1
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "cluster",
		Short:         "A Kubernetes with Istio in namespaces of this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(up(), down(), run(), kubectl(), measure())
	return cmd
}

func up() *cobra.Command {
	var opts cluster.Options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build the cluster, or see that it is up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Up(cmd.Context(), opts)
			if err != nil {
				return err
			}
			fmt.Printf("the cluster is up; its gateway is %s, look inside with: go run ./test/cluster/cmd/cluster kubectl get pods -A\n", c.GatewayURL())
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&opts.Nodes, "nodes", 1, "nodes, 1 to 3; from two on the last has a cgroup v2 layout")
	f.BoolVar(&opts.TPROXY, "tproxy", false, "sidecars take connections by TPROXY")
	f.BoolVar(&opts.DNSCapture, "dns-capture", false, "sidecars answer DNS queries")
	f.BoolVar(&opts.H2Upgrade, "h2-upgrade", false, "sidecars talk HTTP/2 to each other")
	f.BoolVar(&opts.HBONE, "hbone", false, "sidecars tunnel to each other")
	return cmd
}

func down() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster, also what a crashed one left",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cluster.Down(cmd.Context()) },
	}
}

// run replaces nothing and wraps nothing: the program has this one's terminal.
func run() *cobra.Command {
	return &cobra.Command{
		Use:                "in NODE PROGRAM [ARGUMENT]...",
		Short:              "Run a program in a node, such as: in n1 kubectl get pods -A",
		Args:               cobra.MinimumNArgs(2),
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open()
			if err != nil {
				return err
			}
			return c.Interactive(cmd.Context(), args[0], args[1:]...)
		},
	}
}

func kubectl() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARGUMENT]...",
		Short:              "Run kubectl as the administrator",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open()
			if err != nil {
				return err
			}
			return c.Interactive(cmd.Context(), "n1", append([]string{"kubectl"}, args...)...)
		},
	}
}
