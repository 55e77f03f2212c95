package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

func traceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace [ID]",
		Short: "Waterfall of one request, by its request id or trace id; without an id, the latest requests",
		Args:  usage(cobra.MaximumNArgs(1)),
	}
	as, agent := formatFlag(c), agentFlag(c)
	all := c.Flags().Bool("all", false, "every hop on a line of its own, also short ones")
	n := c.Flags().IntP("number", "n", 20, "how many requests to list, at most 1000")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			if *n < 1 || *n > 1000 {
				return &usageError{fmt.Errorf("--number is %d: it must be from 1 to 1000", *n)}
			}
			list, err := agent().Recent(c.Context(), *n)
			if err != nil {
				return err
			}
			if *as == "json" {
				return printJSON(os.Stdout, list)
			}
			return recentTable(os.Stdout, list)
		}
		line, err := agent().Journey(c.Context(), args[0])
		if err != nil {
			return err
		}
		if *as == "json" {
			_, err = fmt.Println(string(line))
			return err
		}
		return waterfall(line, *all)
	}
	return c
}

func waterfall(line []byte, all bool) error {
	j, err := report.Decode(line)
	if err != nil {
		return err
	}
	look, _ := style()
	look.AllHops = all
	clock := journey.Clock{Offset: j.StartUnixNS - int64(j.Exchanges[0].Request.Start)} //nolint:gosec // ns since boot
	return report.Waterfall(os.Stdout, &j.Journey, clock, look)
}

func recentTable(w io.Writer, list []control.Summary) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "the agent has kept no request yet")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "START\tREQUEST\tSTATUS\tDURATION\tLEGS\tWHOSE TIME\tID") //nolint:errcheck // kept by tw until Flush
	for k := range list {
		s := &list[k]
		id, status := s.RequestID, fmt.Sprint(s.Status)
		if id == "" {
			id = s.TraceID
		}
		if s.Error != "" {
			status = s.Error
		}
		fmt.Fprintf(tw, "%s\t%.60s\t%s\t%s\t%d\t%s %s\t%s\n", s.Start.Local().Format("15:04:05.000"), printable(s.Root), status, //nolint:errcheck // as above
			report.Human(s.Duration), s.Legs, s.Class, printable(s.Where), printable(id))
	}
	return tw.Flush()
}
