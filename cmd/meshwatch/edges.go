package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/edges"
)

func edgesCommand() *cobra.Command {
	odd := false
	c := ask("edges", "Who talks to whom, as packets show it, beside what is configured", cobra.NoArgs, func(c *cobra.Command, agent *control.Client, _ []string) (answer, error) {
		e, err := agent.Edges(c.Context())
		if odd {
			e.Edges = oddOnes(e.Edges)
		}
		return answer{e, func(w io.Writer) error { return edgeTable(w, &e) }}, err
	})
	c.Long = `Who talks to whom, as packets of this node show it: connections since the agent began, of whatever protocol, beside what the mesh is configured to do.
It says what bypasses a sidecar, what is in clear text where mutual TLS is wanted, what goes to addresses that nobody has any more, and which routes
lead to no endpoint (docs/topology.md).`
	c.Flags().BoolVar(&odd, "odd", false, "only edges about which something is odd")
	return c
}

func oddOnes(list []control.Edge) []control.Edge {
	out := []control.Edge{}
	for _, e := range list {
		if len(e.Findings) > 0 {
			out = append(out, e)
		}
	}
	return out
}

func edgeTable(w io.Writer, e *control.Edges) error {
	var out [][]string
	for i := range e.Edges {
		one := &e.Edges[i]
		var odd []string
		for _, f := range one.Findings {
			odd = append(odd, string(f.Kind)+": "+f.Why)
		}
		out = append(out, []string{
			edgeEnd(&one.Client), edgeEnd(&one.Server), fmt.Sprint(one.Port), cmp.Or(string(one.Security), "unknown"), fmt.Sprint(one.Connections),
			one.Last.Format("15:04:05"), few(one.Services), one.Routed, strings.Join(odd, "; "),
		})
	}
	if err := rows(w, []string{"CLIENT", "SERVER", "PORT", "BYTES", "CONNECTIONS", "LAST", "SERVICES", "ROUTED", "ODD"}, out); err != nil {
		return err
	}
	if len(e.Empty) == 0 {
		return nil
	}
	var empty [][]string
	for _, r := range e.Empty {
		empty = append(empty, []string{r.Pod, r.Cluster, r.Table, few(r.Domains), r.Route, r.Resource})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return rows(w, []string{"PROXY OF", "HAS NO ENDPOINT OF", "TABLE", "DOMAINS", "ROUTE", "FROM"}, empty)
}

// edgeEnd is who is at an end, and which of its processes.
func edgeEnd(e *edges.End) string {
	name := e.Addr.String()
	if e.Workload != "" {
		name = strings.TrimPrefix(e.Namespace+"/"+e.Workload, "/")
	}
	if what := cmp.Or(string(e.Role), e.Process); what != "" {
		name += " (" + what + ")"
	}
	return name
}
