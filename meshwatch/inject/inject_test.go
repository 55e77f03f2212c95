package inject

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology"
)

func pod(inum uint32, name, addr string, ports ...uint16) *netpath.Namespace {
	return &netpath.Namespace{
		Inum: inum, Name: name, Filter: netpath.Filter{Outbound: ports},
		Links: []netpath.Link{{Index: 1, Name: "lo", Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}, {Index: 2, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}},
	}
}

func TestChoose(t *testing.T) {
	host := pod(1, "host", "10.0.0.1/24", 15001)
	host.Host = true
	s := netpath.NewState([]*netpath.Namespace{
		host, pod(2, "cni-a", "10.0.0.2/24", 15001), pod(3, "cni-b", "10.0.0.3/24", 15001, 15053), pod(4, "cni-c", "10.0.0.4/24"), // without a sidecar
		pod(5, "cni-d", "10.0.0.5/24", 1, 2, 3, 4, 5), pod(6, "unknown", "10.0.0.6/24", 15001),
	}, nil)
	store, err := topology.Parse([]byte(`
workloads:
- {name: frontend-1, namespace: shop, addresses: [10.0.0.2]}
- {name: backend-1, namespace: shop, addresses: [10.0.0.3]}
- {name: backend-2, namespace: bank, addresses: [10.0.0.4]}
- {name: odd, namespace: bank, addresses: [10.0.0.5]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		workloads, exclude string
		store              *topology.Store
		want               []string
	}{
		{"*", "", store, []string{"shop/backend-1", "shop/frontend-1", "unknown"}},
		{"*", "", nil, []string{"cni-a", "cni-b", "unknown"}},
		{"shop/*", "", store, []string{"shop/backend-1", "shop/frontend-1"}},
		{"*/frontend*", "", store, []string{"shop/frontend-1"}},
		{"shop/frontend", "", store, nil},
		{"frontend-1", "", store, nil},
		{"cni-?", "", store, []string{"shop/backend-1", "shop/frontend-1"}},
		{"bank/*", "", store, nil},
		{"host", "", store, nil},
		{"unknown", "", store, []string{"unknown"}},
		{"*", "cni-a unk*", store, []string{"shop/backend-1"}},
		{"", "", store, nil},
	} {
		ports, names := choose(s, c.store, 0, strings.Fields(c.workloads), strings.Fields(c.exclude))
		if diff := cmp.Diff(c.want, names); diff != "" {
			t.Errorf("%q without %q (-want +got):\n%s", c.workloads, c.exclude, diff)
		}
		if len(ports) != len(names) {
			t.Errorf("%q: %v for %v", c.workloads, ports, names)
		}
	}
	ports, _ := choose(s, store, 0, []string{"shop/*"}, nil)
	if diff := cmp.Diff(map[uint32][]uint16{2: {15001}, 3: {15001, 15053}}, ports); diff != "" {
		t.Error(diff)
	}
}
