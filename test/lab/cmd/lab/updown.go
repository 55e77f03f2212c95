package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/test/lab"
)

func up() *cobra.Command {
	var opts lab.Options
	var sidecar string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build a lab and print its id",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Sidecar, opts.Detached = lab.Sidecar(sidecar), true
			l, err := lab.Up(cmd.Context(), opts)
			if err != nil {
				return err
			}
			fmt.Println(l.ID)
			return nil
		},
	}
	cmd.Flags().StringVar(&sidecar, "sidecar", "", "envoy or haproxy (default envoy where it is installed)")
	cmd.Flags().BoolVar(&opts.IPv6, "ipv6", false, "requests travel over IPv6")
	cmd.Flags().BoolVar(&opts.TLS, "tls", false, "gateway and sidecars speak mutual TLS, the client TLS to the gateway")
	cmd.Flags().BoolVar(&opts.HTTP2, "http2", false, "with --tls: Envoy sidecars speak HTTP/2 to each other")
	cmd.Flags().BoolVar(&opts.GRPC, "grpc", false, "with Envoy: the apps speak gRPC")
	cmd.Flags().IntVar(&opts.PerConnection, "per-connection", 0, "requests that gateway, sidecars and apps send on a connection, about: 0 any number, 1 one")
	cmd.Flags().BoolVar(&opts.Records, "records", false, "the apps record every request")
	cmd.Flags().IntVar(&opts.Threads, "threads", 0, "workers of each proxy (default 2)")
	cmd.Flags().BoolVar(&opts.AccessLogs, "access-logs", false, "the proxies log every request")
	return cmd
}

func down() *cobra.Command {
	var stale bool
	cmd := &cobra.Command{
		Use:   "down [ID]...",
		Short: "Remove labs, also what crashed ones left; without an id all of them",
		RunE: func(_ *cobra.Command, ids []string) error {
			if len(ids) == 0 {
				var err error
				if ids, err = lab.IDs(); err != nil {
					return err
				}
			}
			var errs []error
			for _, id := range ids {
				if !stale || lab.Stale(id) {
					errs = append(errs, lab.Clean(id))
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "only labs whose builder died")
	return cmd
}

func status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the labs there are",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			ids, err := lab.IDs()
			if err != nil {
				return err
			}
			for _, id := range ids {
				l, err := lab.Open(id)
				if err != nil {
					fmt.Printf("%s  broken: %v; remove it with: lab down %s\n", id, err, id)
					continue
				}
				if err := show(l); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func show(l *lab.Lab) error {
	procs, err := l.Processes()
	if err != nil {
		return err
	}
	fmt.Printf("%s  sidecar %s, gateway %s\n", l.ID, l.Options.Sidecar, l.GatewayURL())
	for _, f := range l.Faults() {
		fmt.Printf("  fault %s on %s\n", f.Kind, f.Pod)
	}
	for _, p := range l.Pods() {
		fmt.Printf("  %-16s %-12s %-16s %s\n", p.Netns, p.V4, p.V6, processesIn(p.Name, procs))
	}
	if beside := processesIn("", procs); beside != "" {
		fmt.Printf("  beside them: %s\n", beside)
	}
	return nil
}

// processesIn lists the processes of a pod; without a name, those beside the pods.
func processesIn(pod string, procs []lab.Process) string {
	var in []string
	for _, proc := range procs {
		if proc.Pod != pod {
			continue
		}
		state := ""
		if !proc.Running() {
			state = " dead"
		}
		in = append(in, fmt.Sprintf("%s(%d%s)", strings.TrimPrefix(proc.Name, pod+"-"), proc.PID, state))
	}
	return strings.Join(in, " ")
}

func workloads() *cobra.Command {
	var id string
	return withID(&cobra.Command{
		Use:   "workloads",
		Short: "Print the lab's workloads as the agent's topology file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(id)
			if err != nil {
				return err
			}
			out, err := l.WorkloadsYAML()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}, &id)
}
