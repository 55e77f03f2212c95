package observe

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology"
)

var update = flag.Bool("update", false, "write the golden files")

// The namespaces of node: the host, a client's, and a pod with a sidecar.
const nsHost, nsClient, nsPod, nsOther uint32 = 4026531833, 4026532001, 4026532002, 4026532003

// The processes of the tests.
const pidClient, pidSidecar, pidApp, pidGateway, pidGone uint32 = 4_000_010, 4_000_020, 4_000_030, 4_000_040, 4_000_050

const (
	hour = uint64(time.Hour)
	us   = uint64(time.Microsecond)
	id1  = "5a0c8b1e-33a4-4c0e-9d6e-000000000001"
)

// node is two pods whose veths are ports of a bridge.
func node() *netpath.State {
	pod := func(inum uint32, name, addr string, peer uint32) *netpath.Namespace {
		return &netpath.Namespace{Inum: inum, Name: name, Links: []netpath.Link{
			{Index: 1, Name: "lo", Kind: netpath.KindLoopback, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
			{Index: 2, Name: "eth0", Kind: netpath.KindVeth, Up: true, Peer: peer, PeerNetns: nsHost, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}},
		}}
	}
	sidecar := pod(nsPod, "frontend", "10.9.0.3/24", 12)
	sidecar.Filter.Redirects = []uint16{netpath.IstioOutbound, netpath.IstioInbound}
	host := &netpath.Namespace{Inum: nsHost, Name: "host", Host: true, Links: []netpath.Link{
		{Index: 2, Name: "br0", Kind: netpath.KindBridge, Up: true},
		{Index: 11, Name: "veth1", Kind: netpath.KindVeth, Up: true, Master: 2, Peer: 2, PeerNetns: nsClient},
		{Index: 12, Name: "veth2", Kind: netpath.KindVeth, Up: true, Master: 2, Peer: 2, PeerNetns: nsPod},
	}}
	return netpath.NewState([]*netpath.Namespace{host, pod(nsClient, "client", "10.9.0.2/24", 11), sidecar, pod(nsOther, "other", "10.9.0.4/24", 0)}, nil)
}

func store(t *testing.T, yaml string) *topology.Store {
	t.Helper()
	s, err := topology.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// world joins and observes flights that only exist in a test.
type world struct {
	*Observer
	joiner *join.Joiner
	cfg    join.Config
	lost   loss.Set
	id     uint64
	seen   func(*join.Tree)
}

func newWorld(t testing.TB, captures ...string) *world {
	t.Helper()
	names := NewNames([]string{"envoy", "haproxy"})
	names.SetState(node())
	for pid, p := range map[uint32]process{
		pidClient: names.called("fortio", nsClient, hour), pidSidecar: names.called("envoy", nsPod, hour), pidSidecar + 1: names.called("wrk:worker_0", nsPod, hour),
		pidApp: names.called("app", nsPod, hour), pidGateway: names.called("haproxy", nsOther, hour),
	} {
		names.procs[pid] = p
	}
	w := &world{Observer: New(names, captures)}
	cfg := join.DefaultConfig(head.New(head.Config{CaptureHeaders: captures}))
	cfg.Proxy, cfg.SelfID = func(pid uint32) bool { return names.IsProxy(pid, hour) }, 1
	w.cfg = cfg
	w.begin()
	return w
}

func (w *world) begin() {
	w.joiner = join.New(w.cfg, &w.lost, func(tree *join.Tree) { w.seen(tree) })
	w.joiner.Tick(hour)
}

// early lets messages be measured as they come.
func (w *world) early() {
	w.cfg.Measure = w.MeasureMessage
	w.begin()
}

// mark is a stamp that is still to be placed: so many µs after the flight's start.
type mark struct {
	us      uint32
	hook    netpath.Hook
	netns   uint32
	ifindex uint32
}

func (m mark) place() uint32 {
	return uint32(m.hook)<<28 | uint32(netpath.Low(m.netns))<<14 | uint32(netpath.Low(m.ifindex))
}

// onLoopback and overBridge are what flights meet.
func onLoopback(ns uint32) []mark {
	return []mark{
		{0, netpath.HookOutput, ns, 1}, {2, netpath.HookPostrouting, ns, 1}, {3, netpath.HookEgress, ns, 1}, {4, netpath.HookIngress, ns, 1},
		{6, netpath.HookInput, ns, 1}, {7, netpath.HookDelivered, ns, 1},
	}
}

func overBridge(from, up, down, to uint32) []mark {
	return []mark{
		{0, netpath.HookOutput, from, 2}, {2, netpath.HookPostrouting, from, 2}, {3, netpath.HookEgress, from, 2}, {5, netpath.HookIngress, nsHost, up},
		{9, netpath.HookEgress, nsHost, down}, {11, netpath.HookIngress, to, 2}, {15, netpath.HookInput, to, 2}, {16, netpath.HookDelivered, to, 2},
	}
}

// side is one end of a connection.
type side struct {
	pid, tid, netns uint32
	sock            uint64
	addr            netip.AddrPort
	peer            netip.AddrPort // as it sees the other one
}

// say lets a message go from a to b: sent at some µs, read so many later.
func (w *world) say(a, b side, seq, ack uint32, at, wait uint64, marks []mark, msg string) {
	w.id++
	f := bpf.Flight{
		Id: w.id, StartNs: hour + at*us, Seq: seq, End: seq + uint32(len(msg)), Ack: ack, Nstamps: uint32(len(marks)), HeadLen: uint16(len(msg)),
		SendSk: a.sock, SendPid: a.pid, SendTid: a.tid, SendNetns: a.netns, SendPort: a.addr.Port(), SendPeer: a.peer.Port(),
		SendAddr: bytes16(a.addr), SendPaddr: bytes16(a.peer),
	}
	f.SendNs = f.StartNs + us
	for i, m := range marks {
		f.Stamps[i].Delta, f.Stamps[i].Place = m.us*1000, m.place()
	}
	if wait > 0 {
		f.RecvNs = f.StartNs + wait*us
		f.RecvEndNs, f.RecvUpto = f.RecvNs, f.End
		f.RecvSk, f.RecvPid, f.RecvTid, f.RecvNetns, f.RecvPort, f.RecvPeer = b.sock, b.pid, b.tid, b.netns, b.addr.Port(), b.peer.Port()
		f.RecvAddr, f.RecvPaddr = bytes16(b.addr), bytes16(b.peer)
	}
	w.joiner.Flight(&f, []byte(msg))
}

func bytes16(a netip.AddrPort) (b [16]byte) {
	copy(b[:], a.Addr().AsSlice())
	return b
}

func (w *world) finish(now uint64) {
	w.joiner.Tick(now)
	w.joiner.Close()
}

func at(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }

// The legs of a request from the client through the sidecar to the app: the sidecar's port is not the one that was asked for.
var (
	client     = side{pidClient, pidClient, nsClient, 1, at("10.9.0.2:40000"), at("10.9.0.3:8080")}
	sidecarIn  = side{pidSidecar, pidSidecar + 1, nsPod, 2, at("10.9.0.3:15006"), at("10.9.0.2:40000")}
	sidecarOut = side{pidSidecar, pidSidecar + 1, nsPod, 3, at("127.0.0.6:41000"), at("10.9.0.3:8080")}
	app        = side{pidApp, pidApp, nsPod, 4, at("10.9.0.3:8080"), at("127.0.0.6:41000")}
)

const (
	request = "GET /cart?user=1 HTTP/1.1\r\nHost: frontend\r\nX-Truth: 7\r\nX-Request-ID: " + id1 + "\r\n\r\n"
	answer  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

// oneRequest takes 1,000 µs at the client, of which the app has 600 and the sidecar 100 + 100.
func (w *world) oneRequest() {
	up, down := overBridge(nsClient, 11, 12, nsPod), overBridge(nsPod, 12, 11, nsClient)
	w.say(client, sidecarIn, 100, 200, 0, 30, up, request)
	w.say(sidecarOut, app, 300, 400, 130, 20, onLoopback(nsPod), request)
	w.say(app, sidecarOut, 400, 300+uint32(len(request)), 750, 20, onLoopback(nsPod), answer)
	w.say(sidecarIn, client, 200, 100+uint32(len(request)), 870, 130, down, answer)
}

// One request as it comes out: every name, time and relation.
func TestRender(t *testing.T) {
	w := newWorld(t, "x-truth")
	w.names.SetStore(store(t, "workloads:\n- {name: frontend-1, namespace: shop, service: frontend, node: n1, addresses: [10.9.0.3]}\n- {name: load, role: client, addresses: [10.9.0.2]}\n"))
	var got []byte
	w.seen = func(tree *join.Tree) {
		line := report.AppendJSON(nil, w.Render(tree), journey.Clock{Offset: 1767323045_000000000})
		var b bytes.Buffer
		if err := json.Indent(&b, line, "", " "); err != nil {
			t.Fatal(err)
		}
		got = append(b.Bytes(), '\n')
	}
	w.oneRequest()
	w.finish(hour + uint64(10*time.Second))
	const golden = "testdata/journey.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("journey (-want +got; -update writes it):\n%s", diff)
	}
}

// hops are the series of all requests so far: "who → whom hop: count, sum in µs".
func (w *world) hops(direction string) (out []string) {
	for _, v := range w.Total(nil) {
		if v.Labels.Direction == direction {
			out = append(out, fmt.Sprintf("%s → %s %s (%s, %s): %d, %.0f", v.Labels.Source, v.Labels.Destination, v.Labels.Hop, v.Labels.Kind, v.Labels.Class, v.Count, v.Sum*1e6))
		}
	}
	slices.Sort(out)
	return out
}

func TestMeasure(t *testing.T) {
	w := newWorld(t)
	w.seen = w.Measure
	w.oneRequest()
	w.finish(hour + uint64(10*time.Second))
	for direction, want := range map[string][]string{
		"request": {
			"client → frontend bridge (bridge, node): 1, 4", "client → frontend iptables INPUT (iptables, node): 1, 1",
			"client → frontend iptables OUTPUT (iptables, node): 1, 2", "client → frontend iptables POSTROUTING (iptables, node): 1, 1",
			"client → frontend iptables PREROUTING (iptables, node): 1, 4", "client → frontend socket wait (socket-wait, sidecar): 1, 14",
			"client → frontend veth (veth, node): 2, 4",
			"frontend → frontend iptables INPUT (iptables, node): 1, 1", "frontend → frontend iptables OUTPUT (iptables, node): 1, 2",
			"frontend → frontend iptables POSTROUTING (iptables, node): 1, 1", "frontend → frontend iptables PREROUTING (iptables, node): 1, 2",
			"frontend → frontend loopback (loopback, node): 1, 1", "frontend → frontend socket wait (socket-wait, app): 1, 13",
		},
		"processing": {
			"frontend → frontend process app (process, app): 1, 600",
			"frontend → frontend process envoy (process, sidecar): 1, 200", // 840 less the 640 that the app's leg took
		},
	} {
		if diff := cmp.Diff(want, w.hops(direction)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", direction, diff)
		}
	}
	if n := len(w.hops("response")); n != 13 {
		t.Errorf("%d series of responses: %q", n, w.hops("response"))
	}
}

// Every flight counts once, whether its path waits for more of them, has just had enough, or cannot be remembered.
func TestMeasureCountsAll(t *testing.T) {
	for _, full := range []bool{false, true} {
		w := newWorld(t)
		const n = 3*pendingFlights + 1
		w.seen = func(tree *join.Tree) {
			w.renew()
			for i := range maxPaths {
				if full {
					w.paths[way{n: -i}] = &path{}
				}
			}
			for range n {
				w.Measure(tree)
			}
			if got := w.hops("request")[0]; !strings.HasSuffix(got, fmt.Sprintf("%d, %d", n, 4*n)) {
				t.Errorf("all paths taken: %v: %s", full, got)
			}
			if len(w.paths) > maxPaths {
				t.Errorf("%d paths are remembered", len(w.paths))
			}
		}
		w.oneRequest()
		w.finish(hour + uint64(10*time.Second))
	}
}

// Messages that are measured as they come count as those that are measured with their tree: once, also one that nobody has read.
func TestMeasureMessage(t *testing.T) {
	var counted [2][]Value
	for i := range counted {
		w := newWorld(t)
		if w.seen = w.Measure; i == 1 {
			w.early()
		}
		w.oneRequest()
		w.say(client, sidecarIn, 100+uint32(len(request)), 200+uint32(len(answer)), 5000, 0, overBridge(nsClient, 11, 12, nsPod), request)
		w.finish(hour + uint64(10*time.Minute))
		counted[i] = w.Total(nil)
		slices.SortFunc(counted[i], func(a, b Value) int { return strings.Compare(fmt.Sprint(a.Labels), fmt.Sprint(b.Labels)) })
	}
	if diff := cmp.Diff(counted[0], counted[1]); diff != "" || len(counted[0]) == 0 {
		t.Errorf("with the tree and before it, of %d series:\n%s", len(counted[0]), diff)
	}
}

// A change of datapath or topology renames what is already under way, on connections that stay.
func TestMeasureFollowsNames(t *testing.T) {
	w := newWorld(t)
	w.seen = w.Measure
	w.oneRequest()
	w.joiner.Tick(hour + uint64(2*time.Second))
	if len(w.hops("request")) == 0 {
		t.Fatal("the first request is not given out")
	}
	w.names.SetStore(store(t, "workloads:\n- {name: load, addresses: [10.9.0.2]}\n- {name: shop, addresses: [10.9.0.3]}\n"))
	seq := [2]uint32{uint32(len(request)), uint32(len(answer))}
	up := overBridge(nsClient, 11, 12, nsPod)
	w.say(client, sidecarIn, 100+seq[0], 200+seq[1], 2000, 30, up, request)
	w.say(sidecarIn, client, 200+seq[1], 100+2*seq[0], 2500, 30, onLoopback(nsPod), answer)
	w.finish(hour + uint64(10*time.Minute))
	all := strings.Join(append(w.hops("request"), w.hops("processing")...), "\n")
	for _, want := range []string{"load → shop iptables OUTPUT", "load → shop socket wait", "shop → shop process envoy", "client → frontend iptables OUTPUT"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in\n%s", want, all)
		}
	}
}

// measured is a message whose hops are.
func measured(start, recv uint64) *join.Message {
	return &join.Message{StartNs: start, RecvNs: recv, Measured: true}
}

// Processing is what no child covers, whatever children overlap, end late or have no end.
func TestProcessing(t *testing.T) {
	type span struct{ from, to uint64 } // ns after the start; to 0: no response
	for name, tt := range map[string]struct {
		children []span
		want     float64 // ns
	}{
		"none":                   {nil, 1000},
		"one":                    {[]span{{100, 300}}, 800},
		"two in turn":            {[]span{{100, 300}, {400, 500}}, 700},
		"two at once":            {[]span{{100, 300}, {100, 300}}, 800},
		"overlapping":            {[]span{{100, 300}, {200, 400}}, 700},
		"one within another":     {[]span{{100, 500}, {200, 300}}, 600},
		"a third after a nested": {[]span{{100, 500}, {200, 300}, {400, 600}}, 500},
		"without response":       {[]span{{300, 0}}, 300},
		"answered after it":      {[]span{{900, 1500}}, 900},
		"before it was read":     {[]span{{0, 100}}, 900},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			root := &join.Exchange{Parent: -1, Resp: measured(hour+1000, hour+2000), Req: measured(hour-500, hour)}
			root.Req.RecvPid, root.Req.RecvNetns = pidApp, nsPod
			root.Req.Flight = &bpf.Flight{RecvSk: 1, RecvPid: pidApp, RecvNetns: nsPod}
			tree := &join.Tree{Exchanges: []*join.Exchange{root}}
			for _, c := range tt.children {
				x := &join.Exchange{Req: measured(hour+c.from, 0), Parent: 0}
				if c.to != 0 {
					x.Resp = measured(hour+c.to, hour+c.to)
				}
				tree.Exchanges = append(tree.Exchanges, x)
			}
			grand := &join.Exchange{Req: measured(hour+600, 0), Parent: len(tree.Exchanges) - 1}
			if len(tt.children) > 0 { // what a child asked in turn is the child's
				tree.Exchanges = append(tree.Exchanges, grand)
			}
			w.Measure(tree)
			for _, v := range w.Total(nil) {
				if v.Labels.Hop == "process app" && math.Abs(v.Sum*1e9-tt.want) > 0.5 {
					t.Errorf("%.0f ns, want %.0f", v.Sum*1e9, tt.want)
				}
			}
			if diff := cmp.Diff([]string{"frontend → frontend process app"}, slices.DeleteFunc(w.hopNames(), func(s string) bool { return !strings.Contains(s, " app") })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func (w *world) hopNames() (out []string) {
	for _, s := range w.hops("processing") {
		name, _, _ := strings.Cut(s, " (")
		out = append(out, name)
	}
	return out
}

// Places that the datapath does not know get no name that says more than is known, and no time is lost.
func TestPlacesThatDoNotResolve(t *testing.T) {
	w := newWorld(t)
	var got *journey.Journey
	w.seen = func(tree *join.Tree) { w.Measure(tree); got = w.Render(tree) }
	const gone = nsOther + 100
	w.say(client, sidecarIn, 100, 200, 0, 30, []mark{
		{0, netpath.HookOutput, nsClient, 2}, {2, netpath.HookEgress, gone, 3}, {5, netpath.HookIngress, gone, 3}, {7, netpath.HookInput, gone, 3},
		{9, netpath.HookEgress, nsPod, 77}, {10, netpath.HookIngress, nsPod, 78}, {11, 15, nsPod, 2},
	}, request)
	w.finish(hour + uint64(10*time.Minute))
	var names []string
	total := uint64(0)
	for _, h := range got.Exchanges[0].Request.Hops {
		names = append(names, h.Name)
		total += h.To - h.From
	}
	want := []string{"output to egress", "egress to ingress", "ingress to input", "input to egress", "egress to ingress", "ingress to hook 15", "socket wait"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if total != 30*us {
		t.Errorf("hops have %d ns of 30 µs", total)
	}
}

// Stamps that came out of order make hops of no time, never of 4 s.
func TestStampsOutOfOrder(t *testing.T) {
	w := newWorld(t)
	var got *journey.Journey
	w.seen = func(tree *join.Tree) { w.Measure(tree); got = w.Render(tree) }
	marks := onLoopback(nsPod)
	marks[3].us, marks[4].us = marks[4].us, marks[3].us
	w.say(sidecarOut, app, 300, 400, 0, 5, marks, request) // read before the last stamp, too
	w.finish(hour + uint64(10*time.Minute))
	for _, h := range got.Exchanges[0].Request.Hops {
		if h.To < h.From || h.To-h.From > 3*us {
			t.Errorf("%s from %d to %d", h.Name, h.From-hour, h.To-hour)
		}
	}
	for _, v := range w.Total(nil) {
		if v.Sum > 10e-6 {
			t.Errorf("%s: %v s", v.Labels.Hop, v.Sum)
		}
	}
}

func TestRole(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct {
		comm  string
		netns uint32
		topo  string
		want  journey.Role
	}{
		"a proxy that traffic is redirected to": {"envoy", nsPod, "", journey.RoleSidecar},
		"beside it":                             {"app", nsPod, "", journey.RoleApp},
		"a proxy":                               {"envoy", nsOther, "", journey.RoleGateway},
		"a proxy in a namespace unknown":        {"envoy", 1, "", journey.RoleGateway},
		"no proxy":                              {"app", nsOther, "", journey.RoleApp},
		"ended":                                 {"", nsPod, "", journey.RoleUnknown},
		"ended, of a gateway":                   {"", nsOther, "gateway", journey.RoleGateway},
		"a gateway of another name":             {"mygw", nsOther, "gateway", journey.RoleGateway},
		"nginx as an app":                       {"envoy", nsOther, "app", journey.RoleApp},
		"a sidecar of an app":                   {"envoy", nsPod, "app", journey.RoleSidecar},
		"a client":                              {"envoy", nsOther, "client", journey.RoleApp},
	} {
		if got := w.names.role(w.names.called(tt.comm, tt.netns, 0), topology.Workload{Role: tt.topo}); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestWorkload(t *testing.T) {
	w := newWorld(t)
	w.names.SetStore(store(t, "workloads:\n- {name: frontend, addresses: [10.9.0.3]}\n- {name: on-host, addresses: [10.0.0.1]}\n"))
	for name, tt := range map[string]struct {
		netns uint32
		addr  string
		want  string
	}{
		"by the namespace's address": {nsPod, "127.0.0.6", "frontend"},
		"again":                      {nsPod, "10.9.0.3", "frontend"},
		"no address is known":        {nsClient, "10.9.0.2", ""},
		"not by another's address":   {nsClient, "10.9.0.3", ""},
		"in the host, by its own":    {nsHost, "10.0.0.1", "on-host"},
		"in the host, nobody's":      {nsHost, "10.0.0.2", ""},
		"mapped":                     {nsHost, "::ffff:10.0.0.1", "on-host"},
		"in a namespace not known":   {1, "10.0.0.1", "on-host"},
	} {
		if got := w.names.workload(tt.netns, netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 80), hour); got.Name != tt.want {
			t.Errorf("%s: %q, want %q", name, got.Name, tt.want)
		}
	}
	w.names.SetStore(store(t, "workloads:\n- {name: other, addresses: [10.9.0.3]}\n"))
	if got := w.names.workload(nsPod, netip.MustParseAddrPort("10.9.0.3:80"), hour); got.Name != "other" {
		t.Errorf("after a change: %q", got.Name)
	}
	w.names.SetStore(nil)
	if got := w.names.workload(nsPod, netip.MustParseAddrPort("10.9.0.3:80"), hour); got.Name != "" {
		t.Errorf("without a topology: %q", got.Name)
	}
}

// A message is named by who had the address when it was sent.
func TestWorkloadAtItsTime(t *testing.T) {
	w, b := newWorld(t), topology.NewBuilder("", hour)
	addr := netip.MustParseAddrPort("10.9.0.3:80")
	for i, name := range []string{"first", "second"} {
		at := uint64(i) * hour
		b.Remove("first", topology.Moment{At: at, Since: at})
		b.Set(name, topology.Entry{Workload: topology.Workload{Name: name}, Addresses: []netip.Addr{addr.Addr()}}, topology.Moment{At: at, Since: at})
	}
	w.names.SetStore(b.Store(hour))
	for at, want := range map[uint64]string{hour - 1: "first", hour: "second"} {
		if got := w.names.workload(nsPod, addr, at); got.Name != want {
			t.Errorf("at %d: %q, want %q", at, got.Name, want)
		}
	}
}

// Flights come out of order: a process is looked up again when its time is over, not for each earlier flight.
func TestProcessIsKept(t *testing.T) {
	n := NewNames(nil)
	self := uint32(os.Getpid())
	if got := n.process(self, 1, hour); got.comm == "" {
		t.Fatal("this process has no name")
	}
	n.procs[self] = process{comm: "kept", netns: 1, at: hour}
	for _, now := range []uint64{hour, hour - 5e9, hour + 29e9} {
		if got := n.process(self, 1, now); got.comm != "kept" {
			t.Errorf("at %d s: looked up again", (int64(now)-int64(hour))/1e9)
		}
	}
	if got := n.process(self, 2, hour); got.comm == "kept" {
		t.Error("in another namespace: not looked up again")
	}
	n.procs[self] = process{comm: "kept", netns: 1, at: hour}
	if got := n.process(self, 1, hour+31e9); got.comm == "kept" {
		t.Error("later: not looked up again")
	}
	n.process(pidGone, 1, hour+200e9) // sweeps
	if _, ok := n.procs[self]; ok || len(n.procs) != 1 {
		t.Errorf("%d processes kept", len(n.procs))
	}
	if got := n.process(0, 1, hour); got != (process{}) {
		t.Errorf("no process: %+v", got)
	}
}

// A name is read once in a while, not for every question; who is asked about and never seen otherwise is forgotten too.
func TestIsProxyIsKept(t *testing.T) {
	n := NewNames([]string{"envoy", comm("/proc/self/comm")})
	now := hour
	self := uint32(os.Getpid())
	if !n.IsProxy(self, now) || n.IsProxy(0, now) || n.IsProxy(pidGone, now) {
		t.Fatal("this process is no proxy, or nobody is one")
	}
	if allocs := testing.AllocsPerRun(100, func() { n.IsProxy(self, now); n.IsProxy(pidGone, now) }); allocs != 0 {
		t.Errorf("%v allocations: it is looked up every time", allocs)
	}
	n.procs[self] = process{comm: "kept", at: now}
	if now += 29e9; n.IsProxy(self, now) {
		t.Error("looked up again within its time")
	}
	if now += 2e9; !n.IsProxy(self, now) {
		t.Error("not looked up again after its time")
	}
	n.process(self, 1, now) // by a flight, which knows the namespace
	n.procs[self] = process{comm: "kept", netns: 1, at: now}
	if n.IsProxy(self, now) || n.process(self, 1, now).comm != "kept" {
		t.Error("what a flight looked up does not count")
	}
	now += 200e9
	n.IsProxy(pidGone+1, now) // sweeps
	if len(n.procs) != 1 {
		t.Errorf("%d processes kept", len(n.procs))
	}
}

func TestTraceID(t *testing.T) {
	id, _ := head.ParseID([]byte(id1))
	trace := journey.TraceContext{TraceID: [16]byte{1}}
	x := func(c journey.TraceContext) *join.Exchange {
		return &join.Exchange{TraceID: c.TraceID}
	}
	none := journey.TraceContext{}
	for name, tt := range map[string]struct {
		tree *join.Tree
		want [16]byte
	}{
		"nothing":               {&join.Tree{Exchanges: []*join.Exchange{x(none)}}, [16]byte{}},
		"request id":            {&join.Tree{ID: id, Exchanges: []*join.Exchange{x(none)}}, [16]byte(id)},
		"trace context":         {&join.Tree{ID: id, Exchanges: []*join.Exchange{x(trace)}}, trace.TraceID},
		"trace context further": {&join.Tree{ID: id, Exchanges: []*join.Exchange{x(none), x(trace)}}, trace.TraceID},
	} {
		if got := traceID(tt.tree); got != tt.want {
			t.Errorf("%s: %x, want %x", name, got, tt.want)
		}
	}
}

func TestKeepable(t *testing.T) {
	for name, tt := range map[string]struct {
		resp   *join.Message
		status uint16
		error  string
		want   uint64
		failed bool
	}{
		"answered":                    {&join.Message{StartNs: hour + 900, RecvNs: hour + 950, RecvEndNs: hour + 1000}, 200, "", 1000, false},
		"by a reader on another node": {&join.Message{StartNs: hour + 900, StampNs: hour + 1000}, 200, "", 1000, false},
		"not answered":                {nil, 0, "no-response", 50, true},
		"5xx":                         {&join.Message{StartNs: hour + 900, StampNs: hour + 1000}, 500, "", 1000, true},
		"4xx":                         {&join.Message{StartNs: hour + 900, StampNs: hour + 1000}, 404, "", 1000, false},
	} {
		x := &join.Exchange{Req: &join.Message{StartNs: hour, RecvNs: hour + 50}, Error: tt.error, Parent: -1}
		if tt.resp != nil {
			x.Resp = tt.resp
			x.Resp.Status = tt.status
		}
		if d, failed := Keepable(&join.Tree{Exchanges: []*join.Exchange{x}}); d != tt.want || failed != tt.failed {
			t.Errorf("%s: %d ns, failed %v; want %d, %v", name, d, failed, tt.want, tt.failed)
		}
	}
}

// The process that wrote the request was not seen: it is the one that reads the answer.
func TestClientKnownByItsAnswer(t *testing.T) {
	w := newWorld(t)
	var got *journey.Journey
	w.seen = func(tree *join.Tree) { got = w.Render(tree) }
	unseen := client
	unseen.pid, unseen.tid = 0, 0
	w.say(unseen, sidecarIn, 100, 200, 0, 30, overBridge(nsClient, 11, 12, nsPod), request)
	w.say(sidecarIn, client, 200, 100+uint32(len(request)), 870, 130, nil, answer)
	w.finish(hour + uint64(10*time.Minute))
	if e := got.Exchanges[0].Leg.Client; e.Process != "fortio" || e.Local != client.addr || e.Pid != int(pidClient) {
		t.Errorf("client: %+v", e)
	}
}

// There is a bound on series, and what is beyond it is counted as other.
func TestSeriesAreBounded(t *testing.T) {
	w := newWorld(t)
	for i := range maxSeries + 10 {
		w.series(Labels{Source: fmt.Sprint(i), Destination: "d", Hop: "h"})
	}
	if n := len(w.all); n != maxSeries+1 {
		t.Errorf("%d series", n)
	}
	if s := w.series(Labels{Source: "new", Destination: "d", Hop: "h"}); s.Labels.Source != "other" || s.Labels.Destination != "other" || s.Labels.Hop != "h" {
		t.Errorf("labels %+v", s.Labels)
	}
	if s := w.series(Labels{Source: "7", Destination: "d", Hop: "h"}); s.Labels.Source != "7" {
		t.Errorf("a series that was there: %+v", s.Labels)
	}
}

// What is sent again although it had come does not move when it came.
func TestStampCount(t *testing.T) {
	for name, tt := range map[string]struct {
		hooks   []uint32
		recv    uint64
		recvEnd uint64
		want    int
	}{
		"as usual":                                {[]uint32{1, 3, 7}, 9, 9, 3},
		"all of it again, in vain":                {[]uint32{1, 3, 7, 1, 3, 7, 9}, 9, 9, 3},
		"lost, and sent again":                    {[]uint32{1, 3, 1, 3, 7}, 9, 9, 5},
		"dropped by a full socket":                {[]uint32{1, 3, 7, 9, 1, 3, 7}, 9, 9, 7},
		"a later part again":                      {[]uint32{1, 3, 7, 8}, 9, 9, 3},
		"a later part again, and read later":      {[]uint32{1, 3, 7, 8}, 9, 12, 3},
		"a later part again, and not read so far": {[]uint32{1, 3, 7, 8}, 0, 0, 4},
	} {
		f := &bpf.Flight{Nstamps: uint32(len(tt.hooks)), RecvNs: tt.recv, RecvEndNs: tt.recvEnd}
		for i, h := range tt.hooks {
			f.Stamps[i].Place = h << 28
		}
		if got := stampCount(f); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}
