package observe

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/edges"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/topology"
)

const edgeWorkloads = `workloads:
  - {name: shop, namespace: demo, addresses: [10.9.0.2]}
  - {name: front, namespace: demo, addresses: [10.9.0.3]}
  - {name: far, namespace: demo, addresses: [10.9.7.7]}
`

// What is said of connections by the first flight of each.
func TestConnection(t *testing.T) {
	straight := side{pidApp, pidApp, nsPod, 6, at("10.9.0.3:9090"), at("10.9.0.2:40001")} // the app, past its sidecar
	toApp := side{pidClient, pidClient, nsClient, 5, at("10.9.0.2:40001"), at("10.9.0.3:9090")}
	appOut := side{pidApp, pidApp, nsPod, 7, at("10.9.0.3:40002"), at("10.9.7.7:3306")}
	nobody := side{}
	lowPort, straightTo := toApp, straight // a masqueraded port may be any
	lowPort.addr, straightTo.peer = at("10.9.0.2:2610"), at("10.9.0.2:2610")
	up, down := overBridge(nsClient, 11, 12, nsPod), overBridge(nsPod, 12, 11, nsClient)
	shop := edges.End{Namespace: "demo", Workload: "shop", Service: "shop", Addr: at("10.9.0.2:1").Addr(), Process: "fortio", Role: journey.RoleApp}
	front := func(process string, role journey.Role) edges.End {
		return edges.End{Namespace: "demo", Workload: "front", Service: "front", Addr: at("10.9.0.3:1").Addr(), Process: process, Role: role, Sidecar: true}
	}
	for name, c := range map[string]struct {
		a, b  side
		wait  uint64
		marks []mark
		want  *edges.Edge
		msg   string // "": request
	}{
		"to a sidecar":                  {client, sidecarIn, 30, up, &edges.Edge{Client: shop, Server: front("envoy", journey.RoleSidecar), Port: 8080}, ""},
		"past a sidecar":                {toApp, straight, 30, up, &edges.Edge{Client: shop, Server: front("app", journey.RoleApp), Port: 9090}, ""},
		"the server's word comes first": {straight, toApp, 30, down, &edges.Edge{Client: shop, Server: front("app", journey.RoleApp), Port: 9090}, ""},
		"a sidecar that does not read":  {client, nobody, 0, up, &edges.Edge{Client: shop, Server: front("", ""), Port: 8080}, ""},
		"the answer is seen first":      {straight, toApp, 30, down, &edges.Edge{Client: shop, Server: front("app", journey.RoleApp), Port: 9090}, answer},
		"it is, to a low port":          {straightTo, lowPort, 30, down, &edges.Edge{Client: shop, Server: front("app", journey.RoleApp), Port: 9090}, answer},
		"from a low port":               {lowPort, straightTo, 30, up, &edges.Edge{Client: shop, Server: front("app", journey.RoleApp), Port: 9090}, ""},
		"one of two low ports":          {straightTo, lowPort, 30, down, nil, "\x01\x02\x03\x04\x05"},
		"inside of a pod":               {sidecarOut, app, 30, onLoopback(nsPod), nil, ""},
		"an app to another node":        {appOut, nobody, 0, down, &edges.Edge{Client: front("app", journey.RoleApp), Server: edges.End{Namespace: "demo", Workload: "far", Service: "far", Addr: at("10.9.7.7:1").Addr()}, Port: 3306}, ""},
		"an app to its sidecar, unread": {appOut, nobody, 0, onLoopback(nsPod), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.names.SetStore(store(t, edgeWorkloads))
			table := edges.New(hour, func() { t.Error("lost") })
			w.cfg.Began = func(f *bpf.Flight, b join.Bytes) {
				if c, ok := w.Connection(f, b); ok {
					table.Add(&c)
				}
			}
			w.begin()
			w.seen = func(*join.Tree) {}
			msg := c.msg
			if msg == "" {
				msg = request
			}
			for i := range uint32(2) { // the second is of the same connection
				w.say(c.a, c.b, 100+200*i, 200, uint64(i)*100, c.wait, c.marks, msg)
			}
			got := table.List()
			if c.want == nil {
				if len(got) != 0 {
					t.Fatalf("%+v", got)
				}
				return
			}
			want := *c.want
			want.Security, want.Connections, want.First, want.Last = edges.Plain, 1, hour, hour
			if len(got) != 1 {
				t.Fatalf("%+v", got)
			}
			if d := cmp.Diff(want, got[0], cmp.Comparer(func(x, y edges.End) bool { return x == y })); d != "" {
				t.Error(d)
			}
		})
	}
}

// A SYN is an edge only where nobody is any more: what answers is one by what it says.
func TestConnectionOfSYN(t *testing.T) {
	f := &bpf.Flight{StartNs: hour, SendSk: 1, SendPid: pidClient, SendNetns: nsClient, SendPort: 40000, SendPeer: 8080, SendAddr: bytes16(client.addr), SendPaddr: bytes16(client.peer), Flags: bpf.Flags(bpf.FlagSYN)}
	for name, c := range map[string]struct {
		left uint64 // when the workload did, 0: it is there
		want bool
	}{
		"there": {0, false}, "gone": {hour - 1, true}, "gone later": {hour + 1, false},
	} {
		w, b := newWorld(t), topology.NewBuilder("", hour)
		b.Set("front", topology.Entry{Workload: topology.Workload{Namespace: "demo", Name: "front"}, Addresses: []netip.Addr{client.peer.Addr()}}, topology.Moment{})
		if c.left != 0 {
			b.Remove("front", topology.Moment{At: c.left})
		}
		w.names.SetStore(b.Store(hour + 2))
		if got, ok := w.Connection(f, join.BytesUnknown); ok != c.want || ok && (!got.Gone || got.Server.Addr != client.peer.Addr() || got.Port != 8080) {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
}
