package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
)

// The scenarios that are not only a mesh.
const (
	cleartext = "cleartext" // without TLS: keep-alive alone, as in every version
	oddities  = "oddities"  // see odd.go
)

// scenarios are what a mesh speaks.
func scenarios() map[string]lab.Options {
	return map[string]lab.Options{
		cleartext:     {},
		"mtls":        {Sidecar: lab.SidecarEnvoy, TLS: true},
		"mtls-h2":     {Sidecar: lab.SidecarEnvoy, TLS: true, HTTP2: true},
		"grpc":        {Sidecar: lab.SidecarEnvoy, TLS: true, GRPC: true, Records: true},
		"haproxy-tls": {Sidecar: lab.SidecarHAProxy, TLS: true, Threads: 4},
		oddities:      {Records: true},
	}
}

func scenarioNames() []string { return slices.Sorted(maps.Keys(scenarios())) }

// all is every scenario, with ids and without, of identical requests and varied ones, at every load.
const all = "all"

// workers are the threads of a scenario's proxies.
func workers(o lab.Options) int { return max(2, o.Threads) }

// variants are what is asked of a scenario besides: whether apps hand ids on, and what requests are.
type variant struct {
	ids      bool
	requests string
}

// variants reads --ids and --requests.
func variants(ids, requests string) (out []variant, err error) {
	for _, id := range strings.Split(ids, ",") {
		if id != "yes" && id != "no" {
			return nil, fmt.Errorf("--ids %q: %q is not yes or no", ids, id)
		}
		for _, r := range strings.Split(requests, ",") {
			if r != identical && r != varied {
				return nil, fmt.Errorf("--requests %q: %q is not %s or %s", requests, r, identical, varied)
			}
			out = append(out, variant{id == "yes", r})
		}
	}
	return out, nil
}

// options are a scenario's, with access logs. asked has what the command line says besides.
func options(scenario string, asked lab.Options) (lab.Options, error) {
	o, ok := scenarios()[scenario]
	if !ok {
		return o, fmt.Errorf("--scenario %s: it must be one of %s", scenario, strings.Join(scenarioNames(), ", "))
	}
	if asked.Sidecar != "" {
		if o.Sidecar != "" {
			return o, fmt.Errorf("--sidecar: the scenario %s says which it has", scenario)
		}
		o.Sidecar = asked.Sidecar
	}
	o.NoIDs, o.IPv6, o.AccessLogs = asked.NoIDs, asked.IPv6, true
	return o, nil
}

// callMethods are what gRPC's load calls in turn.
func callMethods() []string {
	return []string{rpc.Echo, rpc.Collect, rpc.Echo, rpc.Expand, rpc.Echo, rpc.Talk, rpc.Fail}
}

// The loads of a scenario.
const (
	keepAlive = "keep-alive"
	churn     = "churn" // a connection for each request, on every leg
	mixed     = "mixed" // the client closes its connection after one of eight requests
)

// The requests of a load.
const (
	identical = "identical" // of the same target and headers
	varied    = "varied"
)

// loads reads --loads.
func loads(list, scenario string) ([]string, error) {
	if list == "" && scenario == cleartext {
		return []string{keepAlive}, nil
	}
	if list == "" {
		return []string{keepAlive, churn}, nil
	}
	names := strings.Split(list, ",")
	for _, name := range names {
		if name != keepAlive && name != churn && name != mixed {
			return nil, fmt.Errorf("--loads %q: %q is not %s, %s or %s", list, name, keepAlive, churn, mixed)
		}
	}
	return names, nil
}
