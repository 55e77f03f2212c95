package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
)

func auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Joins that were made, compared with what the proxies' access logs say (`access_logs` in the configuration)",
		Args:  usage(cobra.NoArgs),
	}
	as, agent := formatFlag(c), agentFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := agent().Status(c.Context())
		switch {
		case err != nil:
			return err
		case s.Audit == nil:
			return errNoAccessLog
		case *as == "json":
			return printJSON(os.Stdout, s.Audit)
		}
		return auditTable(os.Stdout, s.Audit)
	}
	return c
}

// errNoAccessLog says that there is nothing to compare with.
var errNoAccessLog = errors.New("the agent listens for no access log: set access_logs.envoy or access_logs.haproxy in its configuration, and point the proxies there (docs/audit.md)")

func auditTable(w io.Writer, r *audit.Report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	print := func(format string, args ...any) {
		fmt.Fprintf(tw, format, args...) //nolint:errcheck // kept by tw until Flush
	}
	print("METHOD\tRIGHT\tWRONG\tPRECISION\t95 %%\tRECALL\t95 %%\n")
	row := func(name string, m *audit.Method) {
		print("%s\t%d\t%d\t%s\t%s\n", name, m.Right, m.Wrong, interval(m.Precision), interval(m.Recall))
	}
	for i := range r.Methods {
		row(string(r.Methods[i].Method), &r.Methods[i])
	}
	row("all", &r.All)
	if err := tw.Flush(); err != nil {
		return err
	}
	print("\n")
	for _, m := range r.Missing {
		print("not joined: %s\t%d\n", m.Reason, m.Count)
	}
	for _, m := range r.Unknown {
		print("nothing can be said: %s\t%d\n", m.Reason, m.Count)
	}
	print("%d entries of access logs; %d of requests that the proxy answered itself, %d said before, %d wait\n", r.Entries, r.Own, r.Again, r.Waiting)
	return tw.Flush()
}

// interval is a share and where it lies, in two cells.
func interval(i audit.Interval) string {
	if i.Of == 0 {
		return "-\t-"
	}
	return fmt.Sprintf("%.3f %%\t%.3f–%.3f", 100*i.Share, 100*i.Low, 100*i.High)
}
