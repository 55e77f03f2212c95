package main

import (
	"errors"
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
	oddTLS    = "oddities-mtls"
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
		oddTLS:        {Sidecar: lab.SidecarEnvoy, TLS: true, Records: true},
		inCluster:     {},

		"no-ids":                {Sidecar: lab.SidecarEnvoy, Anonymous: true},
		"no-ids-varied":         {Sidecar: lab.SidecarEnvoy, Anonymous: true},
		"no-ids-mtls":           {Sidecar: lab.SidecarEnvoy, Anonymous: true, TLS: true},
		"no-ids-mtls-varied":    {Sidecar: lab.SidecarEnvoy, Anonymous: true, TLS: true},
		"no-ids-mtls-h2":        {Sidecar: lab.SidecarEnvoy, Anonymous: true, TLS: true, HTTP2: true},
		"no-ids-mtls-h2-varied": {Sidecar: lab.SidecarEnvoy, Anonymous: true, TLS: true, HTTP2: true},
		"no-ids-als":            {Sidecar: lab.SidecarEnvoy, Anonymous: true, ALS: "als"},
		"no-ids-mtls-h2-als":    {Sidecar: lab.SidecarEnvoy, Anonymous: true, TLS: true, HTTP2: true, ALS: "als"},
		"no-ids-haproxy-ring":   {Sidecar: lab.SidecarHAProxy, Anonymous: true, Threads: 4, Said: "ring"},
		"no-ids-haproxy-tls":    {Sidecar: lab.SidecarHAProxy, Anonymous: true, TLS: true, Threads: 4},
		"no-ids-haproxy":        {Sidecar: lab.SidecarHAProxy, Anonymous: true, Threads: 4},
		"no-ids-haproxy-varied": {Sidecar: lab.SidecarHAProxy, Anonymous: true, Threads: 4},
	}
}

// all is every scenario.
const all = "all"

// anonymous says whether a scenario is one in which apps hand on no ids: what comes out of them is a journey of its own.
func anonymous(scenario string) bool { return strings.HasPrefix(scenario, "no-ids") }

// said says whether proxies say in a scenario what they do.
func said(scenario string) bool {
	o := scenarios()[scenario]
	return o.ALS != "" || o.Said != ""
}

// varied says whether a scenario's requests differ.
func varied(scenario string) bool { return strings.HasSuffix(scenario, "-varied") }

func scenarioNames() []string { return slices.Sorted(maps.Keys(scenarios())) }

// options are a scenario's, with access logs. asked has what the command line says besides.
func options(scenario string, asked lab.Options) (lab.Options, error) {
	o, ok := scenarios()[scenario]
	if !ok {
		return o, fmt.Errorf("--scenario %s: it must be one of %s", scenario, strings.Join(scenarioNames(), ", "))
	}
	if scenario == inCluster && asked != (lab.Options{}) {
		return o, fmt.Errorf("--sidecar, --ipv6: the scenario %s is as Istio makes it", scenario)
	}
	if asked.Sidecar != "" {
		if o.Sidecar != "" {
			return o, fmt.Errorf("--sidecar: the scenario %s says which it has", scenario)
		}
		o.Sidecar = asked.Sidecar
	}
	o.IPv6, o.AccessLogs = asked.IPv6, true
	return o, nil
}

// paced refuses a pace that a scenario cannot be given.
func (r *runner) paced(scenarios []string) error {
	if r.rate < 0 || r.warmUp < 0 {
		return errors.New("--rate, --warm-up: they cannot be negative")
	}
	if r.rate == 0 && r.warmUp == 0 {
		return nil
	}
	for _, scenario := range scenarios {
		if slices.Contains([]string{"grpc", oddities, oddTLS, inCluster}, scenario) {
			return fmt.Errorf("--rate, --warm-up: the scenario %s has a load of its own: leave it out", scenario)
		}
	}
	return nil
}

// callMethods are what gRPC's load calls in turn.
func callMethods() []string {
	return []string{rpc.Echo, rpc.Collect, rpc.Echo, rpc.Expand, rpc.Echo, rpc.Talk, rpc.Fail}
}

// The loads of a scenario.
const (
	keepAlive = "keep-alive"
	churn     = "churn" // a connection for each request, on every leg
	mixed     = "mixed" // connections that are closed after some requests, on every leg
)

func loadNames() []string { return []string{keepAlive, churn, mixed} }

// perConnection is how many requests a load sends on a connection, about, as in lab.Load and lab.Options.
func perConnection(load string) int {
	switch load {
	case churn:
		return 1
	case mixed:
		return 3
	}
	return 0
}

// loads reads --loads.
func loads(list, scenario string) ([]string, error) {
	if list == "" && scenario == cleartext {
		return []string{keepAlive}, nil
	}
	if list == "" {
		return loadNames(), nil
	}
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(loadNames(), name) {
			return nil, fmt.Errorf("--loads %q: %q is none of %s", list, name, strings.Join(loadNames(), ", "))
		}
	}
	return names, nil
}
