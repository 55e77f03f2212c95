package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/inject"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
)

func statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "State of the running agent, and everything it could not keep",
		Args:  usage(cobra.NoArgs),
	}
	as, agent := formatFlag(c), agentFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := agent().Status(c.Context())
		if err != nil {
			return err
		}
		if *as == "json" {
			return printJSON(os.Stdout, s)
		}
		return statusTable(os.Stdout, &s, time.Now())
	}
	return c
}

func statusTable(w io.Writer, s *control.Status, now time.Time) error {
	recording := "recording"
	if !s.Recording {
		recording = "not recording"
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...)) //nolint:errcheck // kept by tw until Flush
	}
	row("agent", "meshwatch %s, pid %d, up %v, %s", s.Version, s.Pid, now.Sub(s.Started).Round(time.Second), recording)
	row("depth", "%s; %d namespaces recorded", s.Depth, s.Attached.Namespaces)
	row("cost", "%s", s.Budget)
	row("flights", "%d read, %d under way, %d behind in a ring of %d", s.Ring.Read, s.Ring.Open, s.Ring.Lag, s.Ring.Records)
	row("joined", "%d requests, %d responses, %d relays, %d journeys of which %d kept; %d flights of other protocols",
		s.Joiner.Requests, s.Joiner.Responses, s.Joiner.Relays, s.Joiner.Journeys, s.Joiner.Kept, s.Joiner.Raw)
	row("memory", "%.1f MB resident, %.1f MB in BPF maps", float64(s.Memory)/1e6, float64(s.Ring.MapBytes)/1e6)
	row("tls", "%s", tlsState(s.TLS))
	row("go", "%s", goState(s.TLS))
	row("inject", "%s", injectState(s.Inject))
	row("export", "%s", exportState(&s.Export))
	row("topology", "%s", topologyState(&s.Topology, s.Kubernetes != nil, now))
	if p := s.Topology.Proxies; p != nil {
		row("proxies", "%s", proxiesState(p))
	}
	if s.Kubernetes != nil {
		row("kubernetes", "%s", kubernetesState(s.Kubernetes, now))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if err := tlsTable(w, s.TLS); err != nil {
		return err
	}
	return lossTable(w, s)
}

func tlsState(list []probe.Binary) string {
	if list == nil {
		return "no probes"
	}
	var probed, processes int
	for i := range list {
		if list[i].Writes {
			probed++
			processes += list[i].Processes
		}
	}
	return fmt.Sprintf("probes on %d binaries of %d, in %d processes", probed, len(list), processes)
}

// goState is how many requests of Go programs have the goroutine that they were made in.
func goState(list []probe.Binary) string {
	var probed, all, processes int
	var trips, tied uint64
	for i := range list {
		h := list[i].HTTP
		if h == nil {
			continue
		}
		all++
		if h.Probed {
			probed++
			processes += list[i].Processes
			trips += h.Requests
			tied += h.Tied
		}
	}
	if all == 0 {
		return "no probes"
	}
	return fmt.Sprintf("probes on net/http in %d binaries of %d, in %d processes: %d requests, %d with their goroutine", probed, all, processes, trips, tied)
}

func injectState(i *inject.State) string {
	switch {
	case i == nil:
		return "off"
	case len(i.Workloads) == 0:
		return "no workload with a sidecar of its own is chosen"
	}
	text := fmt.Sprintf("%d of %d requests were given an id, on %d connections of %s", i.Injected, i.Injected+i.HadID, i.Connections, printable(some(i.Workloads)))
	if !i.On {
		text += "; switched off"
	}
	return text
}

// some names a few, and says how many more there are.
func some(names []string) string {
	const few = 8
	if more := len(names) - few; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), more)
	}
	return strings.Join(names, ", ")
}

// tlsTable lists the binaries that have a TLS library, or may have one.
func tlsTable(w io.Writer, list []probe.Binary) error {
	if len(list) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\nTLS IN\tLIBRARY\tPROCESSES\tPROBED\tCALLS\tTIED\tNOTE") //nolint:errcheck // kept by tw until Flush
	for i := range list {
		b := &list[i]
		probed, note := "no", printable(b.Problem)
		switch {
		case b.Reads:
			probed = "writes, reads"
		case b.Writes:
			probed = "writes"
		}
		if note == "" && b.Stepped {
			note = "some single-stepped: 12 µs a call"
		}
		if h := b.HTTP; h != nil && h.Problem != "" {
			note = strings.TrimPrefix(note+"; ", "; ") + printable(h.Problem)
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%d\t%d\t%s\n", printable(b.Path), printable(b.Library), b.Processes, probed, b.Calls, b.Tied, note) //nolint:errcheck // as above
	}
	return tw.Flush()
}

func exportState(e *control.Export) string {
	if !e.On {
		return "off"
	}
	return printable(e.Endpoint) + ": " + e.State
}

func proxiesState(p *control.Proxies) string {
	text := fmt.Sprintf("%d followed, %d told, %d resources", p.Followed, p.Connected, p.Resources)
	if p.Problem != "" {
		text += "; " + printable(p.Problem)
	}
	return text
}

// kubernetesState is a line, and one more for each rule that is missing.
func kubernetesState(k *control.Kubernetes, now time.Time) string {
	text := fmt.Sprintf("%d objects", k.Objects) + standing(k.Updated, k.Connected, k.Since, k.Problem, now)
	if k.Connected && !k.Ready {
		text += "; reading"
	}
	for _, missing := range k.Missing {
		text += "\n\t" + printable(missing)
	}
	return text
}

func topologyState(t *control.Topology, kubernetes bool, now time.Time) string {
	if t.ControlPlane != "" {
		return controlPlaneState(t, now)
	}
	if kubernetes {
		return fmt.Sprintf("%d addresses of Kubernetes", t.Addresses)
	}
	if t.File == "" {
		return "none: ends are named by namespace and process"
	}
	text := fmt.Sprintf("%d addresses of %s, read %v ago", t.Addresses, t.File, now.Sub(t.Loaded).Round(time.Second))
	if t.Problem != "" {
		text += "; the file as it is now is not used: " + printable(t.Problem)
	}
	return text
}

func controlPlaneState(t *control.Topology, now time.Time) string {
	return fmt.Sprintf("%d addresses of %s", t.Addresses, printable(t.ControlPlane)) + standing(t.Loaded, t.Connected, t.Since, t.Problem, now)
}

// standing is how it stands with a server: when it told of a change, since when it is connected or lost, and why.
func standing(updated time.Time, connected bool, since time.Time, problem string, now time.Time) (text string) {
	ago := func(at time.Time) time.Duration { return now.Sub(at).Round(time.Second) }
	if !updated.IsZero() {
		text = fmt.Sprintf(", last change %v ago", ago(updated))
	}
	switch {
	case connected:
		text += fmt.Sprintf("; connected for %v", ago(since))
	case since.IsZero():
		text += "; not connected yet"
	default:
		text += fmt.Sprintf("; lost %v ago, what it said stays", ago(since))
	}
	if problem != "" {
		text += ": " + printable(problem)
	}
	return text
}

// lossTable lists what was lost; reasons that never happened are only counted.
func lossTable(w io.Writer, s *control.Status) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\nLOST AT\tREASON\tCOUNT") //nolint:errcheck // kept by tw until Flush
	never := 0
	for _, l := range s.Losses {
		if l.Count == 0 {
			never++
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\n", l.Stage, l.Reason, l.Count) //nolint:errcheck // as above
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d other reasons: none\n", never)
	return err
}

// printable replaces what could steer a terminal: some of it was written by whoever sent a request.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
