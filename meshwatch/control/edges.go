package control

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/edges"
)

// Edges are who talks to whom, and what is odd about it.
type Edges struct {
	Edges []Edge       `json:"edges"`                   // by client, server and port
	Empty []EmptyRoute `json:"routes_without_endpoint"` // of this node's proxies that are followed
}

// Edge is connections that are alike.
type Edge struct {
	edges.Judged
	First time.Time `json:"first"` // seen
	Last  time.Time `json:"last"`  // seen to begin
}

// EmptyRoute is a route to a cluster that has no endpoint: its requests fail.
type EmptyRoute struct {
	Pod      string   `json:"pod"` // namespace/name of the proxy that was told so
	Table    string   `json:"table"`
	Domains  []string `json:"domains"`
	Route    string   `json:"route,omitempty"`
	Cluster  string   `json:"cluster"`
	Resource string   `json:"resource,omitempty"` // that defined it: kind namespace/name
}

// SortEmpty orders routes by pod, cluster, table and name.
func SortEmpty(list []EmptyRoute) {
	slices.SortStableFunc(list, func(a, b EmptyRoute) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Route, b.Route))
	})
}
