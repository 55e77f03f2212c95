package xds

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshwatch/meshwatch/topology"
)

// part appends a field of bytes.
func part(b []byte, n protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func number(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func port(b []byte, n protowire.Number, service, target uint64) []byte {
	return part(b, n, string(number(number(nil, 1, service), 2, target)))
}

// fullWorkload has every field that is read, and some that are not.
func fullWorkload() []byte {
	var w []byte
	for n, text := range map[protowire.Number]string{
		1: "front-6f9c-x1", 2: "shop", 3: "\x0a\x00\x00\x01", 4: "east", 6: "cluster.local", 7: "front-account", 9: "node-1", 10: "front", 11: "v2", 13: "front",
		18: "Kubernetes", 20: "Kubernetes//Pod/shop/front-6f9c-x1", 24: string(part(part(nil, 1, "lab"), 2, "z1")),
	} {
		w = part(w, n, text)
	}
	w = part(w, 3, "\xfd"+strings.Repeat("\x00", 14)+"\x01")
	ports := string(port(port(nil, 1, 80, 8080), 1, 81, 8081))
	w = part(w, 22, string(part(part(nil, 1, "shop/front.shop.svc.cluster.local"), 2, ports)))
	w = part(w, 22, string(part(part(nil, 1, "shop/alias.shop.svc.cluster.local"), 2, string(port(nil, 1, 90, 8080)))))
	w = number(number(w, 17, 1), 25, 1)
	return protowire.AppendFixed64(protowire.AppendTag(w, 99, protowire.Fixed64Type), 7)
}

func TestWorkload(t *testing.T) {
	got, err := workload(fullWorkload())
	want := &topology.Entry{
		Workload: topology.Workload{
			Name: "front-6f9c-x1", Namespace: "shop", Service: "front", Node: "node-1", Revision: "v2", Account: "front-account", Cluster: "Kubernetes",
			Network: "east", Region: "lab", Zone: "z1",
		},
		Ports: []uint16{8080, 8081}, Services: []string{"shop/alias.shop.svc.cluster.local", "shop/front.shop.svc.cluster.local"}, Shared: true, Unhealthy: true,
	}
	if err != nil {
		t.Fatal(err)
	}
	addrs := map[netip.Addr]bool{}
	for _, a := range got.Addresses {
		addrs[a] = true
	}
	if len(addrs) != 2 || !addrs[netip.MustParseAddr("10.0.0.1")] || !addrs[netip.MustParseAddr("fd00::1")] {
		t.Errorf("addresses %v", got.Addresses)
	}
	got.Addresses = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A workload without a canonical name has its Deployment's, else its own.
func TestServiceName(t *testing.T) {
	for want, b := range map[string][]byte{"owner": part(part(nil, 1, "pod"), 13, "owner"), "pod": part(nil, 1, "pod")} {
		if e, err := workload(b); err != nil || e.Workload.Service != want {
			t.Errorf("%+v, %v: want %s", e, err, want)
		}
	}
}

func TestService(t *testing.T) {
	b := part(part(part(nil, 1, "front"), 2, "shop"), 3, "front.shop.svc.cluster.local")
	b = part(b, 4, string(part(part(nil, 1, "east"), 2, "\x0a\x60\x00\x01")))
	b = part(b, 4, string(part(part(nil, 1, "west"), 2, "\x0a\x60\x00\x02")))
	b = port(b, 5, 80, 8080)
	got, err := serviceOf(b)
	want := &topology.Service{
		Name: "front", Namespace: "shop", Host: "front.shop.svc.cluster.local", Ports: []topology.Port{{Service: 80, Target: 8080}},
		Addresses: []topology.VIP{{Network: "east", Addr: netip.MustParseAddr("10.96.0.1")}, {Network: "west", Addr: netip.MustParseAddr("10.96.0.2")}},
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A name that was a workload's can become a service's.
func TestSet(t *testing.T) {
	b := topology.NewBuilder("", 0)
	a := addresses{b}
	names := func() (int, int) { s := b.Store(0); return len(s.Entries()), len(s.Services()) }
	for _, step := range []struct {
		field              protowire.Number
		workload, services int
	}{{addressWorkload, 1, 0}, {addressService, 0, 1}, {addressWorkload, 1, 0}} {
		if err := a.set("x", part(nil, step.field, string(part(part(nil, 1, "x"), 3, "\x0a\x00\x00\x01"))), topology.Moment{}); err != nil {
			t.Fatal(err)
		}
		if w, s := names(); w != step.workload || s != step.services {
			t.Errorf("%d workloads, %d services: want %+v", w, s, step)
		}
	}
	a.remove("x", topology.Moment{})
	if w, s := names(); w+s != 0 {
		t.Errorf("%d workloads, %d services are left", w, s)
	}
}

func TestSetErrors(t *testing.T) {
	a := addresses{topology.NewBuilder("", 0)}
	for want, b := range map[string][]byte{
		"it is neither a workload nor a service":       nil,
		"the workload has no name":                     part(nil, 1, ""),
		"the service has no hostname":                  part(nil, 2, ""),
		"an address has 3 bytes: it must have 4 or 16": part(nil, 1, string(part(part(nil, 1, "a"), 3, "123"))),
		`"\xff" is no UTF-8`:                           part(nil, 1, string(part(nil, 1, "\xff"))),
		"a port is 65536: it must be at most 65535":    part(nil, 2, string(port(part(nil, 3, "h"), 5, 65536, 1))),
		"unexpected EOF":                               {0x0a, 0x05},
	} {
		if err := a.set("x", b, topology.Moment{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func FuzzSet(f *testing.F) {
	f.Add(part(nil, 1, string(fullWorkload())))
	f.Add(part(nil, 2, string(port(part(nil, 3, "h"), 5, 80, 8080))))
	f.Fuzz(func(t *testing.T, b []byte) {
		builder := topology.NewBuilder("", 0)
		a := addresses{builder}
		err := a.set("x", b, topology.Moment{})
		s := builder.Store(0)
		if n := len(s.Entries()) + len(s.Services()); (err == nil) != (n == 1) {
			t.Errorf("%d resources, error %v", n, err)
		}
		for _, e := range s.Entries() {
			if e.Workload.Name == "" || e.Workload.Service == "" {
				t.Errorf("%+v", e)
			}
		}
	})
}

func TestKindOf(t *testing.T) {
	for name, want := range map[string]string{
		"Kubernetes//Pod/demo/frontend-1": "Pod", "east/networking.istio.io/ServiceEntry/demo/out/10.0.0.1": "ServiceEntry", "frontend-1": "", "demo/backend.demo.svc": "",
	} {
		if got := kindOf(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
