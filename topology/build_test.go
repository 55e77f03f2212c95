package topology

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

const second = uint64(time.Second)

// who is the workload at an address, 0: no port, the zero Workload for nobody.
func who(s *Store, addr string, at uint64) Workload { return whoAt(s, addr, 0, at) }

func whoAt(s *Store, addr string, port uint16, at uint64) Workload {
	if w, ok := s.Lookup(netip.AddrPortFrom(netip.MustParseAddr(addr), port), at); ok {
		return *w
	}
	return Workload{}
}

func entry(name string, addrs ...string) Entry {
	e := Entry{Workload: Workload{Name: name}}
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
	}
	return e
}

func names(t *testing.T, s *Store, addr string, want map[uint64]string) {
	t.Helper()
	for at, name := range want {
		if got := who(s, addr, at*second).Name; got != name {
			t.Errorf("%s at %d s: %q, want %q", addr, at, got, name)
		}
	}
}

func at(s uint64) Moment { return Moment{s * second, (s - min(s, 10)) * second} }

func TestAddressChangesHands(t *testing.T) {
	b := NewBuilder("", 3600*second)
	b.Set("a", entry("a", "10.0.0.1", "fd00::1"), Moment{})
	b.Remove("a", at(100))
	b.Set("b", entry("b", "::ffff:10.0.0.1"), at(105))
	early := b.Store(0)
	b.Set("b", entry("b", "10.0.0.2"), at(200))
	b.Set("c", entry("c", "10.0.0.1"), at(300))
	s := b.Store(0)
	// The last 10 s before it is b's are nobody's: it may have been b's. Where nobody comes after it, it stays a's.
	names(t, s, "10.0.0.1", map[uint64]string{0: "a", 94: "a", 95: "", 100: "", 104: "", 105: "b", 199: "b", 200: "", 299: "", 300: "c", 1 << 30: "c"})
	names(t, s, "fd00::1", map[uint64]string{0: "a", 99: "a", 100: ""})
	names(t, s, "10.0.0.2", map[uint64]string{0: "", 199: "", 200: "b"})
	names(t, early, "10.0.0.1", map[uint64]string{94: "a", 105: "b", 300: "b"}) // a Store does not change
	if s.Len() != 2 || early.Len() != 1 {
		t.Errorf("%d and %d addresses", s.Len(), early.Len())
	}
}

func TestTwoHaveAnAddress(t *testing.T) {
	b := NewBuilder("", 3600*second)
	b.Set("a", entry("a", "10.0.0.1"), Moment{})
	b.Set("b", entry("b", "10.0.0.1"), at(100)) // before a is known to be gone
	b.Remove("a", at(110))
	names(t, b.Store(0), "10.0.0.1", map[uint64]string{89: "a", 90: "", 100: "", 109: "", 110: "b"})
}

func TestHostNetwork(t *testing.T) {
	b := NewBuilder("", 0)
	for name, ports := range map[string][]uint16{"dns": {53, 9153}, "exporter": {9100}, "other-dns": {53}} {
		e := entry(name, "192.0.2.1")
		e.Ports, e.Shared = ports, true
		b.Set(name, e, Moment{})
	}
	e := entry("alone", "192.0.2.2")
	e.Ports, e.Shared = []uint16{80}, true
	b.Set("alone", e, Moment{})
	s := b.Store(0)
	for port, want := range map[uint16]string{9153: "dns", 9100: "exporter", 53: "", 40000: ""} {
		if got := whoAt(s, "192.0.2.1", port, 1).Name; got != want {
			t.Errorf("port %d: %q, want %q", port, got, want)
		}
	}
	if whoAt(s, "192.0.2.2", 80, 1).Name != "alone" || whoAt(s, "192.0.2.2", 40000, 1).Name != "" {
		t.Error("the only pod in a node's namespace has its own port, and no other")
	}
}

func TestNetworks(t *testing.T) {
	fill := func(own string) *Store {
		b := NewBuilder(own, 0)
		for _, network := range []string{"east", "west"} {
			e := entry(network, "10.0.0.1")
			e.Workload.Network, e.Ports = network, []uint16{80}
			b.Set(network, e, Moment{})
			b.SetService(network, Service{Name: network, Addresses: []VIP{{network, netip.MustParseAddr("10.96.0.1")}}})
		}
		return b.Store(0)
	}
	for own, want := range map[string]string{"": "", "east": "east", "west": "west", "north": ""} {
		s := fill(own)
		if got := whoAt(s, "10.0.0.1", 80, 1).Name; got != want {
			t.Errorf("in network %q: %q, want %q", own, got, want)
		}
		services := s.ServicesAt(netip.MustParseAddr("::ffff:10.96.0.1"))
		if (len(services) == 1) != (want != "") || want != "" && services[0].Name != want || len(s.Services()) != 2 {
			t.Errorf("in network %q: services %v", own, services)
		}
	}
}

// What Lookup does not look at makes no version, so that it drives none out.
func TestHealthIsNoVersion(t *testing.T) {
	b := NewBuilder("", 3600*second)
	b.Set("a", entry("a", "10.0.0.1"), Moment{})
	b.Remove("a", at(1))
	for i := range uint64(100) {
		e := entry("b", "10.0.0.1")
		e.Unhealthy = i%2 == 0
		b.Set("b", e, at(20+i))
	}
	s := b.Store(0)
	names(t, s, "10.0.0.1", map[uint64]string{0: "a", 20: "b", 119: "b"})
	if e := s.Entry(netip.MustParseAddrPort("10.0.0.1:80"), 119); s.Entries()[0].Unhealthy || e == nil || e.Unhealthy {
		t.Errorf("the last state is not kept: %+v", e)
	}
	b.Remove("b", at(200))
	names(t, b.Store(0), "10.0.0.1", map[uint64]string{199: "b", 200: ""})
}

func TestForget(t *testing.T) {
	b := NewBuilder("", 60*second)
	b.Set("a", entry("a", "10.0.0.1", "10.0.0.2"), Moment{})
	b.Remove("a", at(100))
	b.Set("b", entry("b", "10.0.0.1"), at(100))
	for want := 2; want > 0; want-- {
		s := b.Store(map[int]uint64{2: 159, 1: 161}[want] * second)
		if len(s.byAddr) != want || len(s.byAddr[netip.MustParseAddr("10.0.0.1")]) != want {
			t.Errorf("want %d of each, have %v", want, s.byAddr)
		}
		names(t, s, "10.0.0.1", map[uint64]string{100: "b"})
	}
	for i := range uint64(1000) {
		b.Set("b", entry("b", "10.0.0.1"), at(200+2*i))
		b.Remove("b", at(201+2*i))
	}
	if n := len(b.byAddr[netip.MustParseAddr("10.0.0.1")]); n != maxVersions {
		t.Errorf("%d versions of one address", n)
	}
}

// 1,000 times an address gets another owner. The source tells up to 10 s later, of the end and the beginning in any order, and every
// answer, at every moment, of what was asked for a moment before, is the owner or nobody.
func TestChurn(t *testing.T) {
	type life struct {
		name     string
		addr     int
		from, to uint64
	}
	type news struct {
		at    uint64
		apply func(*Builder, Moment)
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's
	lateness := func() uint64 { return r.Uint64N(Lateness) }
	const addrs, reuses = 50, 1000
	address := func(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }
	free := [addrs]uint64{}
	var lives []life
	learned := map[uint64]news{}
	tell := func(at uint64, apply func(*Builder, Moment)) {
		for _, taken := learned[at]; taken; _, taken = learned[at] {
			at++
		}
		learned[at] = news{at, apply}
	}
	for i := range addrs + reuses {
		l := life{name: fmt.Sprintf("w%d", i), addr: i % addrs}
		l.from = free[l.addr] + r.Uint64N(3*second)
		l.to = l.from + 15*second + r.Uint64N(60*second)
		free[l.addr] = l.to
		lives = append(lives, l)
		begin := l.from + lateness()
		tell(begin, func(b *Builder, m Moment) { b.Set(l.name, entry(l.name, address(l.addr)), m) })
		tell(max(begin+1, l.to+lateness()), func(b *Builder, m Moment) { b.Remove(l.name, m) })
	}
	b := NewBuilder("", 3600*second)
	all := make([]news, 0, len(learned))
	for _, n := range learned {
		all = append(all, n)
	}
	slices.SortFunc(all, func(x, y news) int { return cmp.Compare(x.at, y.at) })
	for _, n := range all {
		n.apply(b, Moment{n.at, n.at - min(n.at, Lateness)})
	}
	s := b.Store(0)
	wrong, known, asked := 0, 0, 0
	for _, l := range lives {
		for range 20 {
			got := who(s, address(l.addr), l.from+r.Uint64N(l.to-l.from)).Name
			asked++
			switch got {
			case "":
			case l.name:
				known++
			default:
				wrong++
			}
		}
	}
	t.Logf("%d reuses: of %d answers %d are right, %d are nobody, %d are wrong", reuses, asked, known, asked-known-wrong, wrong)
	if wrong != 0 || known < asked/2 {
		t.Errorf("%d wrong, %d known of %d", wrong, known, asked)
	}
}

// What several sources say of one workload makes one owner of its addresses: the strongest word, and what it leaves open from weaker ones.
func TestRanks(t *testing.T) {
	b := NewBuilder("", 3600*second)
	told := entry("a", "10.0.0.1")
	told.Workload.Service, told.Workload.Account, told.Services = "by-istiod", "account", []string{"demo/a"}
	b.SetRanked("a", Hearsay, entry("a", "10.0.0.1"), Moment{})
	b.Set("a", told, Moment{})
	if w := who(b.Store(0), "10.0.0.1", 0); w.Service != "by-istiod" {
		t.Errorf("%+v", w)
	}
	seen := entry("a", "10.0.0.2")
	seen.Workload.Service = "by-its-labels"
	b.SetRanked("a", Seen, seen, at(100))
	s := b.Store(0)
	if w := who(s, "10.0.0.2", 100*second); w.Service != "by-its-labels" || w.Account != "account" || len(s.Entries()) != 1 {
		t.Errorf("%+v of %d", w, len(s.Entries()))
	}
	names(t, s, "10.0.0.1", map[uint64]string{99: "a", 100: ""})
	told = entry("a", "10.0.0.2")
	b.Set("a", told, at(150))

	// It is gone, which the weaker sources have not heard; its address is another's at once.
	b.RemoveRanked("a", Seen, at(200))
	b.SetRanked("b", Seen, entry("b", "10.0.0.2"), at(200))
	names(t, b.Store(0), "10.0.0.2", map[uint64]string{189: "a", 195: "", 200: "b"})
	b.Remove("a", at(210)) // now they have
	b.RemoveRanked("a", Hearsay, at(211))
	names(t, b.Store(0), "10.0.0.1", map[uint64]string{211: ""})
	if n := len(b.Store(0).Entries()); n != 1 {
		t.Errorf("%d entries", n)
	}

	// A successor has the same name, and the weaker source heard of it first.
	b.SetRanked("set-0", Seen, entry("set-0", "10.0.0.5"), at(212))
	b.Set("set-0", entry("set-0", "10.0.0.6"), at(213))
	b.RemoveRanked("set-0", Seen, at(214))
	names(t, b.Store(0), "10.0.0.6", map[uint64]string{214: "set-0"})
	b.Remove("set-0", at(215))

	// The weaker word stays where only a weaker one is taken back.
	b.SetRanked("b", Hearsay, entry("b", "10.0.0.9"), at(220))
	b.RemoveRanked("b", Hearsay, at(221))
	names(t, b.Store(0), "10.0.0.2", map[uint64]string{221: "b"})
}

// A source that comes late says that something was always so, but others saw who had the address before.
func TestLateSource(t *testing.T) {
	b := NewBuilder("", 3600*second)
	b.Set("a", entry("a", "10.0.0.1"), Moment{})
	b.Remove("a", at(100))
	b.SetRanked("b", Seen, entry("b", "10.0.0.1"), Moment{})
	names(t, b.Store(0), "10.0.0.1", map[uint64]string{50: "", 100: "b"})
}

func TestResources(t *testing.T) {
	b := NewBuilder("", 0)
	b.SetResource(Resource{Ref: Ref{"VirtualService", "demo", "b"}})
	b.SetResource(Resource{Ref: Ref{"VirtualService", "demo", "a"}, Hosts: []string{"a"}})
	b.SetResource(Resource{Ref: Ref{"Gateway", "demo", "z"}})
	early := b.Store(0)
	b.RemoveResource(Ref{"Gateway", "demo", "z"})
	s := b.Store(0)
	if all := s.Resources(); len(all) != 2 || all[0].Name != "a" || s.Resource(all[1].Ref) != all[1] || len(early.Resources()) != 3 {
		t.Errorf("%+v", all)
	}
	if !s.After(early) || !s.After(nil) || early.After(s) {
		t.Error("which Store is later is not known")
	}
	var none *Store
	if none.Resources() != nil || none.Resource(Ref{}) != nil {
		t.Error("no Store has resources")
	}
}

// An address is gone from when its last owner left it until it has another, as long as that is remembered.
func TestGone(t *testing.T) {
	b := NewBuilder("", 100)
	addr, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	entry := func(name string) Entry {
		return Entry{Workload: Workload{Name: name}, Addresses: []netip.Addr{addr}}
	}
	b.Set("a", entry("a"), Moment{})
	b.Remove("a", Moment{At: 10})
	left := b.Store(20)
	b.Set("b", entry("b"), Moment{At: 30})
	again := b.Store(40)
	b.Remove("b", Moment{At: 50})
	late, forgotten := b.Store(140), b.Store(500)
	var none *Store
	for _, c := range []struct {
		name  string
		store *Store
		addr  netip.Addr
		at    uint64
		want  bool
	}{
		{"before it left", left, addr, 9, false}, {"when it left", left, addr, 10, true}, {"mapped", left, netip.MustParseAddr("::ffff:10.0.0.1"), 20, true},
		{"never anybody's", left, other, 20, false}, {"another's now", again, addr, 40, false}, {"before that", again, addr, 20, true},
		{"the first is forgotten", late, addr, 140, true}, {"all is forgotten", forgotten, addr, 500, false}, {"nobody is known", none, addr, 1, false},
	} {
		if got := c.store.Gone(c.addr, c.at); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
