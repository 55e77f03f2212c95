package main

import (
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/cluster"
)

//go:embed clusterrules.yaml
var clusterRules string

// clusterPaths are what is asked for in turn: each route gets some, at the gateway and at the frontend's sidecar.
var clusterPaths = []string{"/one/a", "/two", "/weighted/b", "/", "/one/other", "/rest?q=1"}

// applied is what one of the rules says of a route, whose name is unique among them.
type applied struct {
	resource journey.Resource
	timeout  time.Duration // 0: none
	retries  uint32
	perTry   time.Duration
}

// defaultRetries are Istio's, where a route does not say.
const defaultRetries = 2

func appliedRoutes() map[string]applied {
	frontend := journey.Resource{Kind: "VirtualService", Namespace: cluster.Namespace, Name: "frontend"}
	backend := journey.Resource{Kind: "VirtualService", Namespace: cluster.Namespace, Name: "backend"}
	return map[string]applied{
		"entry-one":  {frontend, 21 * time.Second, defaultRetries, 0},
		"entry-two":  {frontend, 22 * time.Second, 3, 7 * time.Second},
		"entry-rest": {frontend, 0, defaultRetries, 0},
		"one-v1":     {backend, 11 * time.Second, defaultRetries, 0},
		"two-v2":     {backend, 0, 4, 6 * time.Second},
		"weighted":   {backend, 0, defaultRetries, 0},
		"split":      {backend, 0, defaultRetries, 0},
		"default":    {}, // of a sidecar to its app: Istio makes it, no resource does
	}
}

// appliedDestinations are the DestinationRules by the service's host.
func appliedDestinations() map[string]journey.Resource {
	return map[string]journey.Resource{
		"frontend.demo.svc.cluster.local": {Kind: "DestinationRule", Namespace: cluster.Namespace, Name: "frontend-pool"},
		"backend.demo.svc.cluster.local":  {Kind: "DestinationRule", Namespace: cluster.Namespace, Name: "backend"},
	}
}

// appliedAtServer are those that Istio's sidecars of the service itself go by, too: connection pools limit both sides.
func appliedAtServer() map[string]journey.Resource {
	const host = "frontend.demo.svc.cluster.local"
	return map[string]journey.Resource{host: appliedDestinations()[host]}
}

// policy is what is compared of a journey's policy.
func (a applied) policy() string { return fmt.Sprint(a.timeout, a.retries, a.perTry) }

func policyOf(p *journey.Policy) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(p.Timeout, p.Retries, p.PerTry)
}

// hostOf is the service that was asked for: of the cluster outbound|PORT|SUBSET|HOST, or of the app that a sidecar is beside.
func hostOf(l *meshLeg) string {
	if l.governed.Inbound() {
		return l.server.Labels["app"] + "." + l.server.Namespace + ".svc.cluster.local"
	}
	return l.governed.Cluster[strings.LastIndex(l.governed.Cluster, "|")+1:]
}
