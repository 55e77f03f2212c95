package meshwatch

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/proxy"
)

// What the topology has is told whole, and an address is nobody's where that is not sure.
func TestMesh(t *testing.T) {
	addr := netip.MustParseAddr
	b := topology.NewBuilder("", 0)
	pod := topology.Entry{
		Workload:  topology.Workload{Namespace: "demo", Name: "a-1", Service: "a", Revision: "v1", Node: "n1", Zone: "z1"},
		Addresses: []netip.Addr{addr("10.0.0.7"), addr("fd00::7")}, Services: []string{"demo/a.demo.svc"}, Ports: []uint16{8080},
	}
	b.Set("a", pod, topology.Moment{})
	for _, name := range []string{"h1", "h2"} {
		b.Set(name, topology.Entry{Workload: topology.Workload{Name: name}, Addresses: []netip.Addr{addr("10.0.0.9")}, Shared: true}, topology.Moment{})
	}
	b.SetService("a", topology.Service{Namespace: "demo", Name: "a", Host: "a.demo.svc", Addresses: []topology.VIP{{Addr: addr("10.96.0.7")}}, Ports: []topology.Port{{Service: 80, Target: 8080}}})
	b.SetService("b", topology.Service{Namespace: "demo", Name: "b", Host: "b.demo.svc"})
	s := b.Store(1)
	w := control.Workload{
		Namespace: "demo", Name: "a-1", Service: "a", Version: "v1", Node: "n1", Zone: "z1", Addresses: pod.Addresses, Services: pod.Services, Ports: pod.Ports,
	}
	a := control.Service{Namespace: "demo", Name: "a", Host: "a.demo.svc", Addresses: []netip.Addr{addr("10.96.0.7")}, Ports: []control.Port{{Service: 80, Target: 8080}}, Workloads: 1}
	opts := cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})}
	m := meshOf(s)
	if d := cmp.Diff([]control.Service{a, {Namespace: "demo", Name: "b", Host: "b.demo.svc"}}, m.Services, opts); d != "" {
		t.Error(d)
	}
	if len(m.Workloads) != 3 || cmp.Diff(w, m.Workloads[2], opts) != "" {
		t.Errorf("%+v", m.Workloads)
	}
	for address, want := range map[string]control.Who{
		"10.0.0.7:80":         {Workload: &w, Known: true},
		"[fd00::7]:0":         {Workload: &w, Known: true},
		"[::ffff:10.0.0.7]:1": {Workload: &w, Known: true},
		"10.0.0.9:80":         {Known: true},
		"10.96.0.7:80":        {Services: []control.Service{a}},
		"10.0.0.1:80":         {},
	} {
		got := whoIs(s, netip.MustParseAddrPort(address), 1)
		want.Address = strings.TrimSuffix(address, ":0")
		if strings.HasSuffix(address, ":0") {
			want.Address = strings.Trim(want.Address, "[]")
		}
		if d := cmp.Diff(want, got, opts); d != "" {
			t.Errorf("%s: %s", address, d)
		}
	}
	if m := meshOf(nil); m.Workloads == nil || len(m.Workloads) > 0 {
		t.Errorf("of no topology: %+v", m)
	}
}

// Who one address is does not cost a list of all.
func TestWhoOfMany(t *testing.T) {
	b := topology.NewBuilder("", 0)
	for i := range 10_000 {
		name := strconv.Itoa(i)
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		b.Set(name, topology.Entry{Workload: topology.Workload{Namespace: "demo", Name: name}, Addresses: []netip.Addr{addr}, Services: []string{"demo/a.demo.svc"}}, topology.Moment{})
	}
	vip := netip.MustParseAddr("10.96.0.7")
	b.SetService("a", topology.Service{Namespace: "demo", Name: "a", Host: "a.demo.svc", Addresses: []topology.VIP{{Addr: vip}}})
	s := b.Store(1)
	for _, addr := range []netip.AddrPort{netip.MustParseAddrPort("10.1.3.232:80"), netip.AddrPortFrom(vip, 80)} {
		var who control.Who
		if n := testing.AllocsPerRun(5, func() { who = whoIs(s, addr, 1) }); n > 10 {
			t.Errorf("%s: %.0f allocations", addr, n)
		}
		if who.Workload != nil && who.Workload.Name != "1000" || len(who.Services) > 0 && who.Services[0].Workloads != 10_000 || !who.Known && len(who.Services) == 0 {
			t.Errorf("%s: %+v", addr, who)
		}
	}
}

func TestRuleOf(t *testing.T) {
	got := ruleOf(&proxy.Rule{Table: "80", Domains: []string{"a"}, Route: proxy.Route{
		Name: "r", Resource: proxy.Resource{Kind: "VirtualService", Namespace: "demo", Name: "a"},
		Policy: &proxy.Policy{Timeout: time.Second, Retry: &proxy.Retry{On: "5xx", Most: 2}, Fault: &proxy.Fault{Delay: time.Second, DelayShare: 0.1, Abort: 503, AbortShare: 1}},
	}})
	want := control.Rule{
		Table: "80", Domains: []string{"a"}, Name: "r", Resource: "VirtualService demo/a", Timeout: time.Second, Retries: 2, RetryOn: "5xx",
		Fault: "delay 1s for 10 %, 503 for 100 %",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := (&Agent{}).Routes("demo", "a"); err == nil || !strings.Contains(err.Error(), "set topology.xds.address and topology.xds.proxies") {
		t.Errorf("without a control plane: %v", err)
	}
}
