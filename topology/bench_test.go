package topology

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// mesh is a Builder with n workloads of two addresses each, and what makes the workload at i.
func mesh(n int) (*Builder, func(i int) (string, Entry)) {
	b := NewBuilder("", 70*second)
	one := func(i int) (string, Entry) {
		ip := uint16(i) //nolint:gosec // fewer
		v4 := netip.AddrFrom4([4]byte{10, 0, byte(ip >> 8), byte(ip)})
		v6 := netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(ip >> 8), 15: byte(ip)})
		name := fmt.Sprintf("Kubernetes//Pod/shop/app-%d-6f9c7d5b8-x%d", i/10, i)
		return name, Entry{
			Workload: Workload{
				Name: name[21:], Namespace: "shop", Service: fmt.Sprintf("app-%d", i/10), Node: fmt.Sprintf("node-%d", i%100), Revision: "v1",
				Account: "default", Cluster: "Kubernetes", Region: "lab", Zone: "z1",
			},
			Addresses: []netip.Addr{v4, v6}, Ports: []uint16{8080}, Services: []string{"shop/app.shop.svc.cluster.local"},
		}
	}
	for i := range n {
		name, e := one(i)
		b.Set(name, e, Moment{})
	}
	return b, one
}

func BenchmarkLookup(b *testing.B) {
	builder, _ := mesh(10_000)
	s := builder.Store(0)
	addrs := make([]netip.AddrPort, 10_000)
	for i := range addrs {
		addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 8080)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := s.Lookup(addrs[i], 1); !ok {
			b.Fatal("unknown")
		}
		if i++; i == len(addrs) {
			i = 0
		}
	}
}

// A second of a mesh of 10,000 workloads: 100 pods replaced by others of the same addresses, then a new Store.
func BenchmarkSecondOfChanges(b *testing.B) {
	builder, one := mesh(10_000)
	now := 100 * second
	next := 0
	var s *Store
	for b.Loop() {
		for range 50 { // each is two changes
			name, e := one(next % 10_000)
			builder.Remove(name, Moment{now, now})
			builder.Set(name, e, Moment{now + 1, now})
			next++
		}
		now += second
		s = builder.Store(now)
	}
	runtime.KeepAlive(s)
}

func TestLookupAllocates(t *testing.T) {
	builder, _ := mesh(100)
	s, addr := builder.Store(0), netip.MustParseAddrPort("10.0.0.7:8080")
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Lookup(addr, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Ten minutes of 100 changes a second in a mesh of 10,000 workloads.
func TestMemory(t *testing.T) {
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	before := heap()
	builder, one := mesh(10_000)
	s := builder.Store(0)
	full := heap() - before
	for i := range uint64(600) {
		now := (100 + i) * second
		for k := range uint64(50) {
			name, e := one(int((i*50 + k) % 10_000)) //nolint:gosec // small
			builder.Remove(name, Moment{now, now})
			builder.Set(fmt.Sprint(name, i), e, Moment{now + 1, now})
			builder.Remove(fmt.Sprint(name, i-200), Moment{now, now})
		}
		s = builder.Store(now)
	}
	after := heap() - before
	t.Logf("10,000 workloads: %.1f MB; after ten minutes of 100 changes a second: %.1f MB, %d addresses", full, after, s.Len())
	runtime.KeepAlive(builder)
	if after > 100 {
		t.Errorf("%.1f MB", after)
	}
}
