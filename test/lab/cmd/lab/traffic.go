package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/test/lab"
)

func load() *cobra.Command {
	var id string
	var w lab.Load
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Send load from the client: wrk, fortio when --qps is given, or gRPC in a lab of that",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(id)
			if err != nil {
				return err
			}
			send := l.Wrk
			switch {
			case l.Options.GRPC:
				send = l.RPC
			case w.QPS > 0:
				send = l.Fortio
			}
			r, err := send(cmd.Context(), w)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(os.Stdout).Encode(r)
			}
			fmt.Printf("%d requests in %s: %.0f/s; p50 %s  p90 %s  p99 %s  max %s; failed %d, broken %d\n", r.Requests,
				r.Duration.Round(time.Millisecond), r.Rate(), r.P50, r.P90, r.P99, r.Max, r.Failed, r.Broken)
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVarP(&w.Connections, "connections", "c", 16, "connections")
	f.IntVarP(&w.Threads, "threads", "t", 1, "threads of wrk")
	f.DurationVarP(&w.Duration, "duration", "d", 10*time.Second, "how long")
	f.StringVar(&w.Path, "path", "/", "path and query, see test/lab/app")
	f.Float64Var(&w.QPS, "qps", 0, "requests per second, by fortio")
	f.IntVar(&w.PerConnection, "per-connection", 0, "requests on a connection, about (wrk with --truth, gRPC): 0 any number, 1 one")
	f.IntVar(&w.Streams, "streams", 0, "gRPC calls under way at a time (default connections)")
	f.StringSliceVar(&w.Methods, "methods", nil, "gRPC methods called in turn, see test/lab/rpc (default /lab.Count/Echo)")
	f.BoolVar(&w.Truth, "truth", false, "give every request an x-truth-id of its own (wrk)")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	return withID(cmd, &id)
}

func request() *cobra.Command {
	var id string
	var headers []string
	cmd := &cobra.Command{
		Use:   "request [PATH]",
		Short: "Send one request from the client, and print the answer",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(id)
			if err != nil {
				return err
			}
			header := make(http.Header)
			for _, h := range headers {
				key, value, ok := strings.Cut(h, ":")
				if !ok {
					return fmt.Errorf("header %q: want NAME: VALUE", h)
				}
				header.Add(key, strings.TrimSpace(value))
			}
			resp, err := l.Request(cmd.Context(), append(args, "/")[0], header)
			if err != nil {
				return err
			}
			fmt.Println(resp.Status)
			for _, key := range slices.Sorted(maps.Keys(resp.Header)) {
				fmt.Printf("%s: %s\n", strings.ToLower(key), strings.Join(resp.Header[key], ", "))
			}
			fmt.Printf("\n%s", resp.Body)
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "header of the request, NAME: VALUE")
	return withID(cmd, &id)
}

func fault() *cobra.Command {
	var id string
	var f lab.Fault
	cmd := &cobra.Command{
		Use:       "fault app|sidecar|loss|iptables on|off",
		Short:     "Slow one part of the mesh, or stop that",
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{"app", "sidecar", "loss", "iptables"},
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open(id)
			if err != nil {
				return err
			}
			f.Kind = lab.FaultKind(args[0])
			switch args[1] {
			case "on":
				return l.StartFault(f)
			case "off":
				return l.StopFault(f.Kind)
			}
			return fmt.Errorf("fault %s %q: want on or off", f.Kind, args[1])
		},
	}
	cmd.Flags().StringVar(&f.Pod, "pod", "backend", "which pod")
	cmd.Flags().DurationVar(&f.Delay, "delay", 0, "app: how long it waits in every request (default 50ms)")
	cmd.Flags().Float64Var(&f.Percent, "percent", 0, "sidecar: of one CPU (default 2); loss: of packets (default 5)")
	cmd.Flags().IntVar(&f.Rules, "rules", 0, "iptables: rules per chain (default 2000)")
	return withID(cmd, &id)
}
