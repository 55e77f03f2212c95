package observe

import (
	"net/netip"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/topology"
)

// Who was called on another node is known by its address, with where it is.
func TestFar(t *testing.T) {
	b := topology.NewBuilder("", 0)
	b.Set("there", topology.Entry{
		Workload:  topology.Workload{Name: "shop-1", Namespace: "demo", Service: "shop", Kind: topology.KindPod, ServiceNamespace: "demo", Revision: "latest", Region: "r1", Zone: "z2"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.2.1")},
	}, topology.Moment{})
	n := NewNames(nil)
	n.SetStore(b.Store(0))
	w := n.far(netip.MustParseAddrPort("10.0.2.1:80"), 1)
	if want := (journey.Workload{Name: "shop-1", Namespace: "demo", Service: "shop", Kind: journey.KindPod, Region: "r1", Zone: "z2"}); w != want {
		t.Errorf("%+v", w)
	}
	if w := n.far(netip.MustParseAddrPort("10.0.2.2:80"), 1); w != (journey.Workload{}) {
		t.Errorf("%+v", w)
	}
	for _, c := range []struct {
		here journey.Workload
		want bool
	}{
		{journey.Workload{Region: "r1", Zone: "z1"}, true}, {journey.Workload{Region: "r1", Zone: "z2"}, false},
		{journey.Workload{Region: "r2", Zone: "z2"}, true}, {journey.Workload{}, false},
	} {
		if got := c.here.Elsewhere(&w); got != c.want {
			t.Errorf("%+v: %t", c.here, got)
		}
	}
}
