package topology

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
		"[]":            "line 1: the file is not a mapping: allowed keys are workloads",
		a + "---\na: b": "the file has a second document: only one is allowed",
		a + "---\na: [": "the file has a second document: only one is allowed",
		a + "work: 1":   `line 3: the file has an unknown key "work": allowed are workloads`,
		a + "- a":       "line 3: workloads[1] is not a mapping: allowed keys are name, namespace, service, node, addresses, role",
		a + "- {name: b, address: [10.0.0.2], addresses: [10.0.0.3]}": `line 3: workloads[1] has an unknown key "address": ` +
			"allowed are name, namespace, service, node, addresses, role",
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
