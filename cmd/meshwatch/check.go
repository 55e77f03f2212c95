package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch/check"
)

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "What works on this kernel, what does not, why, and what to do",
		Long: `What works on this kernel, what does not, why, and what to do: found by loading the programs, attaching them in a network
namespace made for it, and sending a message through. A running agent is not disturbed. Exits 3 if the agent cannot run here.`,
		Args: usage(cobra.NoArgs),
	}
	as := formatFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		results := check.Run()
		show := check.Table
		if *as == "json" {
			show = func(w io.Writer, results []check.Result) error { return printJSON(w, results) }
		}
		if err := show(os.Stdout, results); err != nil {
			return err
		}
		return check.Failed(results)
	}
	return c
}
