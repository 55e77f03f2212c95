package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshwatch/meshwatch/test/lab"
)

// cleartext is the scenario of a mesh without TLS.
const cleartext = "cleartext"

// scenarios are what a mesh speaks.
var scenarios = map[string]lab.Options{
	cleartext:     {},
	"mtls":        {Sidecar: lab.SidecarEnvoy, TLS: true},
	"mtls-h2":     {Sidecar: lab.SidecarEnvoy, TLS: true, HTTP2: true},
	"haproxy-tls": {Sidecar: lab.SidecarHAProxy, TLS: true, Threads: 4},
}

func scenarioNames() []string { return slices.Sorted(maps.Keys(scenarios)) }

// options are a scenario's, with access logs. asked has what the command line says besides.
func options(scenario string, asked lab.Options) (lab.Options, error) {
	o, ok := scenarios[scenario]
	if !ok {
		return o, fmt.Errorf("--scenario %s: it must be one of %s", scenario, strings.Join(scenarioNames(), ", "))
	}
	if asked.Sidecar != "" {
		if scenario != cleartext {
			return o, fmt.Errorf("--sidecar is for the scenario %s: the others say which they have", cleartext)
		}
		o.Sidecar = asked.Sidecar
	}
	o.IPv6, o.AccessLogs = asked.IPv6, true
	return o, nil
}
