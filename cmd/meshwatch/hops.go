package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

func hopsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "hops",
		Short: "Table of the hops of all requests: count, p50, p99, share of the time; live on a terminal",
		Args:  usage(cobra.NoArgs),
	}
	as, agent := formatFlag(c), agentFlag(c)
	once := c.Flags().BoolP("once", "n", false, "print once, also on a terminal")
	most := c.Flags().Int("rows", 0, "at most so many rows, the largest; 0: all")
	reset := c.Flags().Bool("reset", false, "print, then begin anew at zero: for everyone who looks")
	deep := c.Flags().String("deep", "", "record the network `namespaces` of this name, pattern, number or pid in full depth: as long as the live table is shown, else for 10s before it is printed")
	c.RunE = func(c *cobra.Command, _ []string) error {
		look, terminal := style()
		live := *as != "json" && !*once && !*reset && terminal
		if *deep != "" {
			if err := deepen(c.Context(), agent(), *deep, live); err != nil {
				return err
			}
		}
		rows, err := agent().Hops(c.Context(), *reset)
		switch {
		case err != nil:
			return err
		case *as == "json":
			return printJSON(os.Stdout, rows)
		case !live:
			look.Rows = *most
			return hopTable(os.Stdout, rows, look)
		}
		return liveHops(c.Context(), agent(), *most, *deep)
	}
	return c
}

// deepTime is how long full depth lasts after it was asked for.
const deepTime = 10 * time.Second

// deepen asks for full depth, and waits until it is over unless the table is live.
func deepen(ctx context.Context, agent *control.Client, word string, live bool) error {
	names, err := agent.Deepen(ctx, word, deepTime)
	if err != nil || live {
		return err
	}
	fmt.Fprintf(os.Stderr, "in full depth for %v: %s\n", deepTime, strings.Join(names, ", "))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deepTime):
		return nil
	}
}

func hopTable(w *os.File, rows []report.HopRow, look report.Style) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "no request was seen yet")
		return err
	}
	return report.Hops(w, rows, look)
}

// headRows are those of the live table above its first hop, and the one below where the cursor stays.
const headRows = 5

// screenRows is how many hops fit on the terminal.
func screenRows() int {
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row <= headRows {
		return 1 << 10
	}
	return int(size.Row) - headRows
}

// liveHops draws the table every second until ctx ends, with as many rows as fit, at most most (0: no limit). deep are the namespaces
// that stay in full depth, if any.
func liveHops(ctx context.Context, agent *control.Client, most int, deep string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	home := "\x1b[2J\x1b[H" // clear the first time; later what is there is overwritten, so that nothing flickers
	for ; ; home = "\x1b[H" {
		rows, err := agent.Hops(ctx, false)
		if err == nil && deep != "" {
			_, err = agent.Deepen(ctx, deep, deepTime)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		var screen bytes.Buffer
		screen.WriteString(home)
		fmt.Fprintf(&screen, "%s  hops since the agent's start or `meshwatch hops --reset`; ^C ends\n\n", time.Now().Format(time.TimeOnly))
		look, _ := style() // the terminal may have another size by now
		if look.Rows = screenRows(); most > 0 {
			look.Rows = min(look.Rows, most)
		}
		if err := report.Hops(&screen, rows, look); err != nil {
			return err
		}
		out := append(bytes.ReplaceAll(screen.Bytes(), []byte("\n"), []byte("\x1b[K\n")), "\x1b[J"...)
		if _, err := os.Stdout.Write(out); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
