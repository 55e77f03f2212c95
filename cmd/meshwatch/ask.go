package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// format is the flag -o: table for people, json for programs.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(s string) error {
	if s != "table" && s != "json" {
		return fmt.Errorf("%q is neither table nor json", s)
	}
	*f = format(s)
	return nil
}

func formatFlag(c *cobra.Command) *format {
	f := format("table")
	c.Flags().VarP(&f, "output", "o", "table or json")
	return &f
}

// agentFlag adds --control and gives a client when the flags are read.
func agentFlag(c *cobra.Command) func() *control.Client {
	socket := c.Flags().String("control", meshwatch.DefaultSocket, "unix socket `path` of the agent")
	return func() *control.Client { return control.NewClient(*socket) }
}

// style is how text comes out on standard output.
func style() (s report.Style, terminal bool) {
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return report.Style{}, false
	}
	return report.Style{Width: int(size.Col), Color: true}, true
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
