package topology

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// example is the one in the documentation.
func example(t testing.TB) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/topology-file.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatal("no example in docs/topology-file.md")
	}
	return string(block[1])
}

func TestDocumentedExample(t *testing.T) {
	s, err := Parse([]byte(example(t)))
	if err != nil {
		t.Fatal(err)
	}
	w := func(name, namespace, service, node, role string) Workload {
		return Workload{Name: name, Namespace: namespace, Service: service, Node: node, Role: role}
	}
	frontend := w("frontend-7d9c", "shop", "frontend", "node-1", RoleApp)
	want := map[string]Workload{
		"10.244.1.17":         frontend,
		"::ffff:10.244.1.17":  frontend,
		"fd00:10:244:1::11":   frontend,
		"fd00:10:244:1::11%1": frontend,
		"10.244.2.9":          w("backend", "shop", "backend", "node-2", RoleUnknown),
		"10.244.1.2":          w("ingress", "istio-system", "ingress", "", RoleGateway),
		"192.0.2.10":          w("load", "", "load", "", RoleClient),
	}
	got := map[string]Workload{}
	for addr := range want {
		got[addr] = who(s, addr, 0)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if s.Len() != 5 {
		t.Errorf("%d addresses", s.Len())
	}
	host := "backend.shop.svc.cluster.local"
	services := []*Service{{Name: "backend", Namespace: "shop", Host: host, Addresses: []VIP{{Addr: netip.MustParseAddr("10.96.0.9")}}, Ports: []Port{{80, 8080}}}}
	if diff := cmp.Diff(services, s.Services(), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" || len(s.ServicesAt(netip.MustParseAddr("10.96.0.9"))) != 1 {
		t.Errorf("-want +got:\n%s", diff)
	}
	resources := []*Resource{
		{Ref: Ref{"PeerAuthentication", "shop", "default"}, TLS: ModeStrict},
		{Ref: Ref{"VirtualService", "shop", "backend"}, Hosts: []string{host}, Routes: []Route{{
			Name: "slow", Match: []string{"uri prefix /slow"}, Destinations: []Destination{{Host: host, Subset: "v1", Port: 80, Weight: 100}}, Timeout: 2 * time.Second, Attempts: 3,
		}}},
	}
	if diff := cmp.Diff(resources, s.Resources()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Every key has its place.
func TestParseAll(t *testing.T) {
	s, err := Parse([]byte(`
workloads:
- {name: a, namespace: n, service: s, node: n1, role: app, addresses: [10.0.0.1], service_namespace: sn, version: v, service_account: sa, cluster: c, region: r, zone: z, ports: [80, 81],
  services: [n/a.n.svc], labels: {app: a}, excludes: {excludeInboundPorts: "9090"}, unhealthy: true}
services: [{host: a.n.svc}]
resources:
- {kind: K, namespace: n, name: x, hosts: [h], gateways: [g], selector: {app: a}, tls: M, port_tls: {80: DISABLE}, ports: [443], addresses: [10.0.0.0/8], detail: d,
  subsets: [{name: v1, labels: {v: "1"}}],
  routes: [{name: r, match: [m], destinations: [{host: h}], timeout: 1s, attempts: 2, per_try_timeout: 3ms, retry_on: 5xx, delay: 4s, delay_share: 0.5, abort: "503", abort_share: 1, detail: mirror}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	entries := []*Entry{{
		Workload:  Workload{Name: "a", Namespace: "n", Service: "s", Node: "n1", Role: "app", ServiceNamespace: "sn", Version: "v", Account: "sa", Cluster: "c", Region: "r", Zone: "z"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ports: []uint16{80, 81}, Services: []string{"n/a.n.svc"}, Labels: map[string]string{"app": "a"},
		Excludes: map[string]string{"excludeInboundPorts": "9090"}, Unhealthy: true,
	}}
	if diff := cmp.Diff(entries, s.Entries(), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := s.Services(); len(got) != 1 || got[0].Name != "a.n.svc" || got[0].Host != "a.n.svc" {
		t.Errorf("%+v", got)
	}
	resources := []*Resource{{
		Ref: Ref{"K", "n", "x"}, Hosts: []string{"h"}, Gateways: []string{"g"}, Selector: map[string]string{"app": "a"}, TLS: "M", PortTLS: map[uint16]string{80: "DISABLE"}, Ports: []uint16{443},
		Addresses: []string{"10.0.0.0/8"}, Detail: "d", Subsets: []Subset{{"v1", map[string]string{"v": "1"}}},
		Routes: []Route{{
			Name: "r", Match: []string{"m"}, Destinations: []Destination{{Host: "h"}}, Timeout: time.Second, Attempts: 2, TryTimeout: 3 * time.Millisecond, RetryOn: "5xx", Delay: 4 * time.Second,
			DelayShare: 0.5, Abort: "503", AbortShare: 1, Detail: "mirror",
		}},
	}}
	if diff := cmp.Diff(resources, s.Resources()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDocumentedError(t *testing.T) {
	doc, err := os.ReadFile("../docs/topology-file.md")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse([]byte(strings.Replace(example(t), "role: app", "role: ap", 1)))
	if err == nil || !strings.Contains(string(doc), "`"+err.Error()+"`") {
		t.Errorf("not documented: %v", err)
	}
}

func TestNobody(t *testing.T) {
	empty, err := Parse([]byte("workloads: []"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{nil, empty} {
		if w := who(s, "10.0.0.1", 0); w != (Workload{}) || s.Len() != 0 {
			t.Errorf("%v has %v", s, w)
		}
		if _, ok := s.Lookup(netip.AddrPort{}, 0); ok {
			t.Errorf("%v has the zero address", s)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const a = "workloads:\n- {name: a, addresses: [10.0.0.1]}\n"
	for in, want := range map[string]string{
		"":              "the file is empty: write workloads: [] if there are none",
		"# nothing":     "the file is empty: write workloads: [] if there are none",
		"{}":            "line 1: workloads is missing: write workloads: [] if there are none",
		"workloads:":    "line 1: workloads is not a list: write [] for an empty one",
		"[]":            "line 1: the file is not a mapping: allowed keys are workloads, services, resources",
		a + "---\na: b": "the file has a second document: only one is allowed",
		a + "---\na: [": "the file has a second document: only one is allowed",
		a + "work: 1":   `line 3: the file has an unknown key "work": allowed are workloads, services, resources`,
		a + "- a":       "line 3: workloads[1] is not a mapping: allowed keys are name, namespace, service, node, addresses, role, service_namespace, version, service_account, cluster, region, zone, ports, services, labels, excludes, unhealthy",
		a + "- {name: b, address: [10.0.0.2], addresses: [10.0.0.3]}": `line 3: workloads[1] has an unknown key "address": ` +
			"allowed are name, namespace, service, node, addresses, role, service_namespace, version, service_account, cluster, region, zone, ports, services, labels, excludes, unhealthy",
		a + "- {name: b, name: c, addresses: [10.0.0.2]}": "line 3: workloads[1] has the key name twice",
		a + "- {addresses: [10.0.0.2]}":                   "line 3: workloads[1].name is missing: every workload needs a name",
		a + "- {name: [b], addresses: [10.0.0.2]}": "line 3: workloads[1].name is not a text\n" +
			"line 3: workloads[1].name is missing: every workload needs a name",
		a + "- {name: \"b\\e\", addresses: [10.0.0.2]}":        `line 3: workloads[1].name is "b\x1b": allowed are printable characters`,
		a + "- {name: b, addresses: 10.0.0.2}":                 "line 3: workloads[1].addresses is not a list: write [] for an empty one",
		a + "- {name: b, addresses: []}":                       "line 3: workloads[1].addresses is missing: every workload needs at least one IP address",
		a + "- {name: b}":                                      "line 3: workloads[1].addresses is missing: every workload needs at least one IP address",
		a + "- name: b\n  addresses: [10.0.0.2]\n  role: app1": `line 5: workloads[1].role is "app1": allowed are app, gateway and client`,
		a + "- {name: b, addresses: [10.0.0.2:80]}": `line 3: workloads[1].addresses[0] is "10.0.0.2:80": ` +
			"allowed is an IPv4 or IPv6 address without port, prefix or zone",
		a + "- {name: b, addresses: ['fe80::1%eth0']}": `line 3: workloads[1].addresses[0] is "fe80::1%eth0": ` +
			"allowed is an IPv4 or IPv6 address without port, prefix or zone",
		a + "- {name: b, addresses: ['::ffff:127.0.0.1']}": "line 3: workloads[1].addresses[0] is ::ffff:127.0.0.1: " +
			"allowed is an address that one workload alone has, not loopback, multicast or unspecified",
		a + "- {name: b, addresses: ['::ffff:10.0.0.1']}": "line 3: workloads[1].addresses[0] is ::ffff:10.0.0.1, " +
			"which workloads[0].addresses[0] has already: an address belongs to one workload",
		a + "services: 1":                  "line 3: services is not a list: write [] for an empty one",
		a + "services: [{addresses: [a]}]": "line 3: services[0].host is missing: every service needs the host name that clients ask for\n" + `line 3: services[0].addresses[0] is "a": allowed is an IPv4 or IPv6 address without port, prefix or zone`,
		a + "services: [{host: h, ports: [{port: 0}, {target: 1}, 80]}]": `line 3: services[0].ports[0].port is "0": allowed is a number from 1 to 65535` + "\n" +
			"line 3: services[0].ports[0].port is missing: allowed is a number from 1 to 65535\nline 3: services[0].ports[1].port is missing: allowed is a number from 1 to 65535\n" +
			"line 3: services[0].ports[2] is not a mapping: allowed keys are port, target\nline 3: services[0].ports[2].port is missing: allowed is a number from 1 to 65535",
		a + "services: [{host: h}, {host: h}]":                              "line 3: services[1] is /h, which another service is already",
		a + "resources: [{namespace: n}]":                                   "line 3: resources[0].kind is missing: every resource needs a kind and a name\nline 3: resources[0].name is missing: every resource needs a kind and a name",
		a + "resources: [{kind: K, name: x}, {kind: K, name: x}]":           "line 3: resources[1] is K /x, which another resource is already",
		a + "resources: [{kind: K, name: x, port_tls: {a: b}}]":             `line 3: resources[0].port_tls has the port "a": allowed is a number from 1 to 65535`,
		a + "resources: [{kind: K, name: x, selector: [a]}]":                "line 3: resources[0].selector is not a mapping of texts",
		a + "resources: [{kind: K, name: x, routes: [{timeout: 2}]}]":       `line 3: resources[0].routes[0].timeout is "2": allowed is a time with its unit, such as 2s or 150ms`,
		a + "resources: [{kind: K, name: x, routes: [{abort_share: 2}]}]":   `line 3: resources[0].routes[0].abort_share is "2": allowed is a number from 0 to 1`,
		a + "resources: [{kind: K, name: x, routes: [{delay_share: NaN}]}]": `line 3: resources[0].routes[0].delay_share is "NaN": allowed is a number from 0 to 1`,
		a + "- {name: b, addresses: [10.0.0.2], unhealthy: yes}":            `line 3: workloads[1].unhealthy is "yes": allowed are true and false`,
	} {
		s, err := Parse([]byte(in))
		if err == nil || s != nil {
			t.Errorf("%q: no error", in)
		} else if err.Error() != want {
			t.Errorf("%q:\n got %s\nwant %s", in, err, want)
		}
	}
	if _, err := Parse([]byte("a: [")); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("not YAML: %v", err)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "topology.yaml")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("absent file: %v", err)
	}
	write(t, path, "workload: []")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("bad file: %v", err)
	}
	write(t, path, example(t))
	if s, err := Load(path); err != nil || s.Len() != 5 {
		t.Errorf("%d addresses, %v", s.Len(), err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example(f)))
	f.Add([]byte("workloads: &w [{name: a, addresses: [::1]}, *x]"))
	f.Add([]byte("workloads: []\nservices: [{host: h, ports: [{port: 1}]}]\nresources: [{kind: K, name: x, routes: [{timeout: 1s, destinations: [{host: h}]}]}]"))
	f.Add([]byte("a: &a [*a]\nworkloads: *a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if (s == nil) == (err == nil) {
			t.Fatalf("store %v, error %v", s, err)
		}
		if err != nil {
			return
		}
		for addr := range s.byAddr {
			if got, ok := s.Lookup(netip.AddrPortFrom(addr, 0), 0); !ok || got.Name == "" || got.Service == "" || addr != addr.Unmap() || addr.IsLoopback() {
				t.Errorf("%v: %+v", addr, got)
			}
		}
	})
}
