package main

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/edges"
)

// Tables of what a topology has; nothing in it writes to the terminal.
func TestTopologyTables(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8"), netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::7")}
	pod := control.Workload{
		Namespace: "demo", Name: "a-1", Service: "a", Version: "v1", Node: "n1", Zone: "z1", Account: "a", Addresses: addrs, Services: []string{"demo/a.demo.svc"},
		Excludes: map[string]string{"excludeInboundPorts": "9090\x1b[2J"}, Shared: true,
	}
	service := control.Service{Namespace: "demo", Host: "a.demo.svc", Addresses: addrs[:1], Ports: []control.Port{{Service: 80, Target: 8080}, {Service: 90}}, Workloads: 1}
	rule := control.Rule{
		Table: "80", Domains: []string{"a"}, Path: "/x*", More: 1, Name: "r", Clusters: []string{"outbound|80||a"}, Empty: []string{"outbound|80||a"},
		Timeout: time.Second, Retries: 2, Fault: "503 for 100 %", Resource: "VirtualService demo/a",
	}
	for _, tt := range []struct {
		table func(io.Writer) error
		want  string
	}{
		{func(w io.Writer) error { return workloadTable(w, []control.Workload{pod}) }, `
NAMESPACE  WORKLOAD  SERVICE  VERSION  NODE  ZONE  ADDRESSES                             BEHIND           NOTE
demo       a-1       a        v1       n1    z1    10.0.0.7, 10.0.0.8, 10.0.0.9, 1 more  demo/a.demo.svc  excludeInboundPorts 9090?[2J; host network
`},
		{func(w io.Writer) error { return serviceTable(w, []control.Service{service, {Host: "b"}}) }, `
NAMESPACE  HOST        ADDRESSES  PORTS        WORKLOADS  NOTE
demo       a.demo.svc  10.0.0.7   80→8080, 90  1          -
-          b           -          -            0          no workload is behind it
`},
		{func(w io.Writer) error { return routeTable(w, []control.Rule{rule, {Domains: []string{"*"}}}) }, `
TABLE  DOMAINS  PATH            ROUTE  CLUSTERS        DOES                                               FROM
80     a        /x* and 1 more  r      outbound|80||a  timeout 1s, 2 retries, 503 for 100 %, no endpoint  VirtualService demo/a
-      *        any             -      -               -                                                  -
`},
		{func(w io.Writer) error {
			return whoTable(w, &control.Who{Address: "10.0.0.7:80", Workload: &pod, Known: true})
		}, `
address          10.0.0.7:80
workload         demo/a-1
service.name     a
version          v1
node             n1
zone             z1
service account  a
behind           demo/a.demo.svc
`},
		{func(w io.Writer) error {
			return whoTable(w, &control.Who{Address: "10.96.0.7", Services: []control.Service{service}})
		}, `
address             10.96.0.7
virtual address of  demo/a.demo.svc, 1 workloads
`},
		{func(w io.Writer) error { return whoTable(w, &control.Who{Address: "10.0.0.1"}) }, `
address   10.0.0.1
workload  nobody that the topology knows
`},
		{func(w io.Writer) error {
			front := edges.Edge{
				Client: edges.End{Namespace: "demo", Workload: "a", Role: "app"}, Server: edges.End{Addr: addrs[0], Process: "db\x1b[2J"}, Port: 3306, Connections: 2,
			}
			last := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			return edgeTable(w, &control.Edges{
				Edges: []control.Edge{{Judged: edges.Judged{Edge: front, Routed: "no", Findings: []edges.Finding{{Kind: edges.Bypass, Why: "past"}, {Kind: edges.Stale, Why: "nobody"}}}, Last: last}},
				Empty: []control.EmptyRoute{{Pod: "demo/a", Table: "80", Domains: []string{"b"}, Cluster: "outbound|80||b"}},
			})
		}, `
CLIENT        SERVER             PORT  BYTES    CONNECTIONS  LAST      SERVICES  ROUTED  ODD
demo/a (app)  10.0.0.7 (db?[2J)  3306  unknown  2            03:04:05  -         no      bypass: past; stale: nobody

PROXY OF  HAS NO ENDPOINT OF  TABLE  DOMAINS  ROUTE  FROM
demo/a    outbound|80||b      80     b        -      -
`},
	} {
		var b strings.Builder
		if err := tt.table(&b); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), b.String()); d != "" {
			t.Error(d)
		}
	}
}
