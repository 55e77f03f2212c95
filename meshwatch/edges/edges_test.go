package edges

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/topology"
)

// end is a pod of the namespace demo with a sidecar.
func end(name string, role journey.Role) End {
	return End{Namespace: "demo", Workload: name, Process: "x", Role: role, Sidecar: true, Addr: netip.MustParseAddr("10.0.0.9")}
}

func outside(addr string) End { return End{Addr: netip.MustParseAddr(addr)} }

// twin is an end of which there are two of that name.
func twin(addr string) End {
	e := end("twin", journey.RoleSidecar)
	e.Addr = netip.MustParseAddr(addr)
	return e
}

// entry is a workload of a service of the same name.
func entry(b *topology.Builder, name string, excludes map[string]string) {
	b.Set(name, topology.Entry{
		Workload: topology.Workload{Namespace: "demo", Name: name, Kind: topology.KindPod}, Services: []string{"demo/" + name + ".demo.svc"}, Excludes: excludes,
	}, topology.Moment{})
}

func peerAuthentication(namespace, name, mode string, selector map[string]string, ports map[uint16]string) topology.Resource {
	return topology.Resource{Ref: topology.Ref{Kind: "PeerAuthentication", Namespace: namespace, Name: name}, TLS: mode, Selector: selector, PortTLS: ports}
}

func TestJudge(t *testing.T) {
	a, b := end("a", journey.RoleSidecar), end("b", journey.RoleSidecar)
	appA, appB := end("a", journey.RoleApp), end("b", journey.RoleApp)
	bare, node, unseen := End{Namespace: "demo", Workload: "c", Role: journey.RoleApp, Process: "x"}, End{Host: true, Role: journey.RoleApp, Addr: netip.MustParseAddr("192.168.0.1")}, End{Namespace: "demo", Workload: "b"}
	labelled := end("labelled", journey.RoleSidecar)
	strictMesh := peerAuthentication("istio-system", "default", "STRICT", nil, nil)
	for name, c := range map[string]struct {
		edge      Connection
		resources []topology.Resource
		excludesA map[string]string
		excludesB map[string]string
		want      string // kinds
	}{
		"between sidecars":                    {edge: Connection{Client: a, Server: b, Port: 8080, Security: TLS}, resources: []topology.Resource{strictMesh}},
		"past both sidecars":                  {edge: Connection{Client: appA, Server: appB, Port: 8080}, want: "bypass bypass"},
		"past the server's":                   {edge: Connection{Client: a, Server: appB, Port: 8080}, want: "bypass"},
		"from a pod without one":              {edge: Connection{Client: bare, Server: b, Port: 8080}},
		"from a pod without one, to the app":  {edge: Connection{Client: bare, Server: appB, Port: 8080}, want: "bypass"},
		"to a pod without one":                {edge: Connection{Client: appA, Server: bare, Port: 8080}, want: "bypass"},
		"the kubelet's probe":                 {edge: Connection{Client: node, Server: appB, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh}},
		"a port of the sidecar's":             {edge: Connection{Client: bare, Server: appB, Port: 15020, Security: Plain}, resources: []topology.Resource{strictMesh}},
		"the server's socket was not seen":    {edge: Connection{Client: a, Server: unseen, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh}},
		"excluded at the server":              {edge: Connection{Client: a, Server: appB, Port: 9090}, excludesB: map[string]string{"excludeInboundPorts": "80, 9090"}, want: "excluded"},
		"another one is excluded":             {edge: Connection{Client: a, Server: appB, Port: 8080}, excludesB: map[string]string{"excludeInboundPorts": "80, 9090"}, want: "bypass"},
		"not among the included":              {edge: Connection{Client: a, Server: appB, Port: 9090}, excludesB: map[string]string{"includeInboundPorts": "8080"}, want: "excluded"},
		"all are included":                    {edge: Connection{Client: a, Server: appB, Port: 9090}, excludesB: map[string]string{"includeInboundPorts": "*"}, want: "bypass"},
		"excluded at the client":              {edge: Connection{Client: appA, Server: outside("1.2.3.4"), Port: 3306}, excludesA: map[string]string{"excludeOutboundPorts": "3306"}, want: "excluded"},
		"a range is excluded":                 {edge: Connection{Client: appA, Server: outside("1.2.3.4"), Port: 3306}, excludesA: map[string]string{"excludeOutboundIPRanges": "1.2.3.0/24"}, want: "excluded"},
		"another range is excluded":           {edge: Connection{Client: appA, Server: outside("1.2.3.4"), Port: 3306}, excludesA: map[string]string{"excludeOutboundIPRanges": "1.2.4.0/24,10.0.0.0/8"}, want: "bypass"},
		"another range is included":           {edge: Connection{Client: appA, Server: outside("1.2.3.4"), Port: 3306}, excludesA: map[string]string{"includeOutboundIPRanges": "10.0.0.0/8"}, want: "excluded"},
		"its range is included":               {edge: Connection{Client: appA, Server: outside("1.2.3.4"), Port: 3306}, excludesA: map[string]string{"includeOutboundIPRanges": "10.0.0.0/8, 1.0.0.0/8"}, want: "bypass"},
		"excluded at the wrong end":           {edge: Connection{Client: appA, Server: outside("1.2.3.4"), Port: 3306}, excludesA: map[string]string{"excludeInboundPorts": "3306"}, want: "bypass"},
		"plaintext, STRICT in the mesh":       {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh}, want: "plaintext"},
		"not known whether it is":             {edge: Connection{Client: bare, Server: b, Port: 8080}, resources: []topology.Resource{strictMesh}},
		"plaintext, nothing says":             {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}},
		"plaintext, PERMISSIVE in the mesh":   {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("istio-system", "default", "PERMISSIVE", nil, nil)}},
		"plaintext, the namespace says more":  {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh, peerAuthentication("demo", "x", "PERMISSIVE", nil, nil)}},
		"plaintext, the namespace is STRICT":  {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", nil, nil)}, want: "plaintext"},
		"plaintext, another namespace":        {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("other", "x", "STRICT", nil, nil)}},
		"plaintext, the namespace leaves it":  {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh, peerAuthentication("demo", "x", "UNSET", nil, nil)}, want: "plaintext"},
		"plaintext, labels not known":         {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh, peerAuthentication("demo", "x", "DISABLE", map[string]string{"app": "b"}, nil)}, want: "unsure"},
		"plaintext, labels of one that went":  {edge: Connection{Client: bare, Server: end("gone", journey.RoleSidecar), Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", map[string]string{"app": "b"}, nil)}, want: "unsure"},
		"plaintext, labels do not matter":     {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh, peerAuthentication("demo", "x", "STRICT", map[string]string{"app": "b"}, nil)}, want: "plaintext"},
		"plaintext, none may say STRICT":      {edge: Connection{Client: bare, Server: b, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "DISABLE", map[string]string{"app": "b"}, nil)}},
		"plaintext, two of one kind differ":   {edge: Connection{Client: bare, Server: labelled, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", nil, nil), peerAuthentication("demo", "y", "PERMISSIVE", nil, nil)}, want: "unsure"},
		"plaintext, of two with one name":     {edge: Connection{Client: bare, Server: twin("10.0.0.21"), Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", map[string]string{"app": "l"}, nil)}, want: "plaintext"},
		"plaintext, the other of these two":   {edge: Connection{Client: bare, Server: twin("10.0.0.22"), Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", map[string]string{"app": "l"}, nil)}},
		"plaintext, neither of these two":     {edge: Connection{Client: bare, Server: twin("10.0.0.23"), Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", map[string]string{"app": "l"}, nil)}, want: "unsure"},
		"plaintext, STRICT for it":            {edge: Connection{Client: bare, Server: labelled, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", map[string]string{"app": "l"}, nil)}, want: "plaintext"},
		"plaintext, DISABLE for it":           {edge: Connection{Client: bare, Server: labelled, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh, peerAuthentication("demo", "x", "DISABLE", map[string]string{"app": "l"}, nil)}},
		"plaintext, DISABLE for another":      {edge: Connection{Client: bare, Server: labelled, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh, peerAuthentication("demo", "x", "DISABLE", map[string]string{"app": "o"}, nil)}, want: "plaintext"},
		"plaintext, the port is DISABLE":      {edge: Connection{Client: bare, Server: labelled, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", map[string]string{"app": "l"}, map[uint16]string{8080: "DISABLE"})}},
		"a port of the whole namespace":       {edge: Connection{Client: bare, Server: labelled, Port: 8080, Security: Plain}, resources: []topology.Resource{peerAuthentication("demo", "x", "STRICT", nil, map[uint16]string{8080: "DISABLE"})}, want: "plaintext"}, // Istio takes ports with a selector only
		"plaintext, who has gone since":       {edge: Connection{Client: bare, Server: end("gone", journey.RoleSidecar), Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh}, want: "plaintext"},
		"plaintext past the server's sidecar": {edge: Connection{Client: bare, Server: appB, Port: 8080, Security: Plain}, resources: []topology.Resource{strictMesh}, want: "bypass plaintext"},
		"to an address that is nobody's":      {edge: Connection{Client: a, Server: outside("10.0.0.8"), Port: 8080, Gone: true}, want: "stale"},
	} {
		t.Run(name, func(t *testing.T) {
			builder := topology.NewBuilder("", 1)
			entry(builder, "a", c.excludesA)
			entry(builder, "b", c.excludesB)
			builder.Set("labelled", topology.Entry{Workload: topology.Workload{Namespace: "demo", Name: "labelled"}, Labels: map[string]string{"app": "l"}}, topology.Moment{})
			for addr, labels := range map[string]map[string]string{"10.0.0.21": {"app": "l"}, "10.0.0.22": {"app": "o"}} { // a pod and a WorkloadEntry
				builder.Set(addr, topology.Entry{Workload: topology.Workload{Namespace: "demo", Name: "twin"}, Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Labels: labels}, topology.Moment{})
			}
			for _, r := range c.resources {
				builder.SetResource(r)
			}
			table := New(1, func() { t.Error("lost") })
			table.Add(&c.edge)
			got := Judge(table.List(), Mesh{Store: builder.Store(1)})
			if len(got) != 1 {
				t.Fatalf("%+v", got)
			}
			var kinds []string
			for _, f := range got[0].Findings {
				kinds = append(kinds, string(f.Kind))
				if !strings.Contains(f.Why, " ") || strings.Contains(f.Why, "%!") {
					t.Errorf("no sentence: %s", f.Why)
				}
			}
			if text := strings.Join(kinds, " "); text != c.want {
				t.Errorf("%q, want %q: %+v", text, c.want, got[0])
			}
		})
	}
}

// Whether a proxy has a route to the server is said of proxies of which that is known.
func TestRouted(t *testing.T) {
	builder := topology.NewBuilder("", 1)
	entry(builder, "a", nil)
	entry(builder, "b", nil)
	told := map[string]map[string]bool{"demo/a": {"a.demo.svc": true}, "demo/d": {"b.demo.svc": true}}
	for client, want := range map[string]string{"a": "no", "d": "yes", "e": ""} {
		edge := Edge{Client: end(client, journey.RoleSidecar), Server: end("b", journey.RoleSidecar), Port: 8080}
		got := Judge([]Edge{edge}, Mesh{Store: builder.Store(1), Hosts: func(pod string) map[string]bool { return told[pod] }})[0]
		if d := cmp.Diff([]string{"b.demo.svc"}, got.Services); d != "" || got.Routed != want {
			t.Errorf("%s: %q, want %q; services %s", client, got.Routed, want, d)
		}
	}
	if got := Judge([]Edge{{Client: end("a", journey.RoleApp), Server: end("b", journey.RoleApp)}}, Mesh{Store: builder.Store(1), Hosts: func(string) map[string]bool { return nil }})[0]; got.Routed != "" {
		t.Errorf("an app has no routes: %q", got.Routed)
	}
}

func TestTable(t *testing.T) {
	lost := 0
	table := New(100, func() { lost++ })
	c := Connection{Client: end("a", journey.RoleSidecar), Server: end("b", journey.RoleSidecar), Port: 80, At: 10}
	table.Add(&c)
	c.At = 30
	table.Add(&c)
	c.At = 20 // out of order
	table.Add(&c)
	inside := c
	inside.Server = end("a", journey.RoleApp) // of one pod
	table.Add(&inside)
	if got := table.List(); len(got) != 1 || got[0].Connections != 3 || got[0].First != 10 || got[0].Last != 30 {
		t.Errorf("%+v", got)
	}
	for i := range Most + 5 {
		more := c
		more.Client, more.At = outside(fmt.Sprintf("10.1.%d.%d", i/256, i%256)), 50
		table.Add(&more)
	}
	if n := len(table.List()); n != Most || lost != 6 {
		t.Errorf("%d edges, %d connections lost; want %d, 6", n, lost, Most)
	}
	c.At = 200 // what was last seen at 50 would make room, but that was looked for just now
	c.Port = 82
	table.Add(&c)
	if n := len(table.List()); n != Most || lost != 7 {
		t.Errorf("%d edges, %d connections lost; want %d, 7", n, lost, Most)
	}
	c.At += sweepEvery
	c.Port = 81
	table.Add(&c)
	if n := len(table.List()); n != 1 || lost != 7 {
		t.Errorf("%d edges, %d connections lost; want 1, 7", n, lost)
	}
}
