package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch/control"
)

func topologyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "topology",
		Short: "Who is behind each address, and by which routes requests go, as the agent knows it from its sources",
		Long: `Who is behind each address, and by which routes requests go, as the running agent knows it from a file, from istiod
or from Kubernetes (topology in docs/configuration.md).`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		ask("workloads", "Workloads and their addresses", cobra.NoArgs, func(c *cobra.Command, agent *control.Client, _ []string) (answer, error) {
			m, err := agent.Mesh(c.Context())
			return answer{m.Workloads, func(w io.Writer) error { return workloadTable(w, m.Workloads) }}, err
		}),
		ask("services", "Services, their virtual addresses, and how many workloads are behind each", cobra.NoArgs, func(c *cobra.Command, agent *control.Client, _ []string) (answer, error) {
			m, err := agent.Mesh(c.Context())
			return answer{m.Services, func(w io.Writer) error { return serviceTable(w, m.Services) }}, err
		}),
		ask("resources", "Resources of Istio and the Gateway API that say how requests go", cobra.NoArgs, func(c *cobra.Command, agent *control.Client, _ []string) (answer, error) {
			m, err := agent.Mesh(c.Context())
			return answer{m.Resources, func(w io.Writer) error { return resourceTable(w, &m) }}, err
		}),
		ask("who ADDRESS[:PORT]", "Who has an address now", cobra.ExactArgs(1), func(c *cobra.Command, agent *control.Client, args []string) (answer, error) {
			if _, err := control.ParseAddress(args[0]); err != nil {
				return answer{}, &usageError{err}
			}
			who, err := agent.Who(c.Context(), args[0])
			return answer{who, func(w io.Writer) error { return whoTable(w, &who) }}, err
		}),
		ask("routes NAMESPACE/POD", "Routes that the proxy of a pod of this node was told of", cobra.ExactArgs(1), func(c *cobra.Command, agent *control.Client, args []string) (answer, error) {
			namespace, pod, both := strings.Cut(args[0], "/")
			if !both {
				namespace, pod = "default", args[0]
			}
			rules, err := agent.Routes(c.Context(), namespace, pod)
			return answer{rules, func(w io.Writer) error { return routeTable(w, rules) }}, err
		}),
		edgesCommand(),
		ask("status", "How it stands with the topology's sources", cobra.NoArgs, func(c *cobra.Command, agent *control.Client, _ []string) (answer, error) {
			s, err := agent.Status(c.Context())
			return answer{map[string]any{"topology": s.Topology, "kubernetes": s.Kubernetes}, func(w io.Writer) error { return sourcesTable(w, &s) }}, err
		}),
	)
	return c
}

// answer is what the agent said, and how people read it.
type answer struct {
	value any
	table func(io.Writer) error
}

// ask is a command that shows an answer of the agent.
func ask(use, short string, args cobra.PositionalArgs, f func(*cobra.Command, *control.Client, []string) (answer, error)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: usage(args)}
	as, agent := formatFlag(c), agentFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		a, err := f(c, agent(), args)
		if err != nil {
			return err
		}
		if *as == "json" {
			return printJSON(os.Stdout, a.value)
		}
		return a.table(os.Stdout)
	}
	return c
}

// rows writes a table.
func rows(w io.Writer, title []string, list [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range slices.Insert(list, 0, title) {
		for i := range row {
			if row[i] = printable(row[i]); row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(row, "\t")) //nolint:errcheck // kept by tw until Flush
	}
	return tw.Flush()
}

// few is a list in one cell.
func few[T any](list []T) string {
	const most = 3
	var text []string
	for _, one := range list[:min(len(list), most)] {
		text = append(text, fmt.Sprint(one))
	}
	if more := len(list) - most; more > 0 {
		text = append(text, fmt.Sprintf("%d more", more))
	}
	return strings.Join(text, ", ")
}

func workloadTable(w io.Writer, list []control.Workload) error {
	var out [][]string
	for _, one := range list {
		var notes []string
		if one.Shared {
			notes = append(notes, "host network")
		}
		if one.Unhealthy {
			notes = append(notes, "unhealthy: gets no requests")
		}
		for annotation, value := range one.Excludes {
			notes = append(notes, annotation+" "+value)
		}
		slices.Sort(notes)
		out = append(out, []string{one.Namespace, one.Name, one.Service, one.Version, one.Node, one.Zone, few(one.Addresses), few(one.Services), strings.Join(notes, "; ")})
	}
	return rows(w, []string{"NAMESPACE", "WORKLOAD", "SERVICE", "VERSION", "NODE", "ZONE", "ADDRESSES", "BEHIND", "NOTE"}, out)
}

func serviceTable(w io.Writer, list []control.Service) error {
	var out [][]string
	for _, one := range list {
		var ports []string
		for _, p := range one.Ports {
			text := fmt.Sprint(p.Service)
			if p.Target != 0 && p.Target != p.Service {
				text += fmt.Sprintf("→%d", p.Target)
			}
			ports = append(ports, text)
		}
		note := ""
		if one.Workloads == 0 {
			note = "no workload is behind it"
		}
		out = append(out, []string{one.Namespace, one.Host, few(one.Addresses), few(ports), fmt.Sprint(one.Workloads), note})
	}
	return rows(w, []string{"NAMESPACE", "HOST", "ADDRESSES", "PORTS", "WORKLOADS", "NOTE"}, out)
}

func resourceTable(w io.Writer, m *control.Mesh) error {
	var out [][]string
	for _, one := range m.Resources {
		var says []string
		for _, r := range one.Routes {
			if r.Timeout > 0 {
				says = append(says, fmt.Sprintf("timeout %v", r.Timeout))
			}
			if r.Attempts > 0 {
				says = append(says, fmt.Sprintf("%d retries on %s", r.Attempts, r.RetryOn))
			}
			if r.DelayShare > 0 {
				says = append(says, fmt.Sprintf("delay %v for %g %%", r.Delay, 100*r.DelayShare))
			}
			if r.AbortShare > 0 {
				says = append(says, fmt.Sprintf("abort %s for %g %%", r.Abort, 100*r.AbortShare))
			}
		}
		for _, s := range one.Subsets {
			says = append(says, "subset "+s.Name)
		}
		if one.TLS != "" {
			says = append(says, "TLS "+one.TLS)
		}
		if one.Detail != "" {
			says = append(says, one.Detail)
		}
		out = append(out, []string{one.Kind, one.Namespace, one.Name, few(one.Hosts), fmt.Sprint(len(one.Routes)), few(says)})
	}
	return rows(w, []string{"KIND", "NAMESPACE", "NAME", "HOSTS", "ROUTES", "SAYS"}, out)
}

func whoTable(w io.Writer, who *control.Who) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(tw, "%s\t%s\n", name, printable(value)) //nolint:errcheck // kept by tw until Flush
		}
	}
	row("address", who.Address)
	switch o := who.Workload; {
	case o != nil:
		row("workload", strings.TrimPrefix(o.Namespace+"/"+o.Name, "/"))
		row("service.name", o.Service)
		row("version", o.Version)
		row("node", o.Node)
		row("zone", o.Zone)
		row("service account", o.Account)
		row("behind", strings.Join(o.Services, ", "))
	case who.Known:
		row("workload", "not sure: several have it, or it changed hands lately")
	case len(who.Services) == 0:
		row("workload", "nobody that the topology knows")
	}
	for _, s := range who.Services {
		row("virtual address of", fmt.Sprintf("%s/%s, %d workloads", s.Namespace, s.Host, s.Workloads))
	}
	return tw.Flush()
}

func routeTable(w io.Writer, list []control.Rule) error {
	var out [][]string
	for _, r := range list {
		path := r.Path
		if path == "" {
			path = "any"
		}
		if r.More > 0 {
			path += fmt.Sprintf(" and %d more", r.More)
		}
		var does []string
		if r.Timeout > 0 {
			does = append(does, "timeout "+r.Timeout.String())
		}
		if r.Retries > 0 {
			does = append(does, fmt.Sprintf("%d retries", r.Retries))
		}
		if r.Fault != "" {
			does = append(does, r.Fault)
		}
		if len(r.Empty) > 0 {
			does = append(does, "no endpoint")
		}
		out = append(out, []string{r.Table, few(r.Domains), path, r.Name, few(r.Clusters), strings.Join(does, ", "), r.Resource})
	}
	return rows(w, []string{"TABLE", "DOMAINS", "PATH", "ROUTE", "CLUSTERS", "DOES", "FROM"}, out)
}

func sourcesTable(w io.Writer, s *control.Status) error {
	now := time.Now()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "topology\t%s\n", topologyState(&s.Topology, s.Kubernetes != nil, now)) //nolint:errcheck // kept by tw until Flush
	if p := s.Topology.Proxies; p != nil {
		fmt.Fprintf(tw, "proxies\t%s\n", proxiesState(p)) //nolint:errcheck // as above
	}
	if s.Kubernetes != nil {
		fmt.Fprintf(tw, "kubernetes\t%s\n", kubernetesState(s.Kubernetes, now)) //nolint:errcheck // as above
	}
	return tw.Flush()
}
