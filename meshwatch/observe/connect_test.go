package observe

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/netpath"
)

// open lets a SYN go from a, so many µs after the start, and be delivered at the last mark.
func (w *world) open(a side, seq uint32, at uint64, marks []mark) {
	w.id++
	f := bpf.Flight{
		Id: w.id, StartNs: hour + at*us, Seq: seq, End: seq, Nstamps: uint32(len(marks)), Flags: bpf.Flags(bpf.FlagSYN), Retransmits: 1,
		SendSk: a.sock, SendNetns: a.netns, RecvNetns: a.netns, SendPort: a.addr.Port(), SendPeer: a.peer.Port(),
		SendAddr: bytes16(a.addr), SendPaddr: bytes16(a.peer),
	}
	for i, m := range marks {
		f.Stamps[i].Delta, f.Stamps[i].Place = m.us*1000, m.place()
	}
	f.RecvNs = f.StartNs + uint64(f.Stamps[len(marks)-1].Delta)
	f.SendNs, f.RecvEndNs = f.RecvNs, f.RecvNs
	w.joiner.Flight(&f, nil)
}

// lostOnce is a SYN on a pod's loopback that is dropped there, and sent again after a second.
func lostOnce(ns uint32) []mark {
	marks := []mark{{0, netpath.HookOutput, ns, 1}, {2, netpath.HookPostrouting, ns, 1}, {5, netpath.HookDrop, ns, 1}}
	for _, m := range onLoopback(ns) {
		m.us += 1_000_000
		marks = append(marks, m)
	}
	return marks
}

// withConnect is one request for which the sidecar opens its connection to the app; 1 s of its 1,001,000 µs goes by the way.
func (w *world) withConnect() {
	const late = 1_000_000
	w.say(client, sidecarIn, 100, 200, 0, 30, overBridge(nsClient, 11, 12, nsPod), request)
	w.open(sidecarOut, 299, 100, lostOnce(nsPod))
	w.say(sidecarOut, app, 300, 400, late+130, 20, onLoopback(nsPod), request)
	w.say(app, sidecarOut, 400, 300+uint32(len(request)), late+750, 20, onLoopback(nsPod), answer)
	w.say(sidecarIn, client, 200, 100+uint32(len(request)), late+870, 130, overBridge(nsPod, 12, 11, nsClient), answer)
}

func TestConnectIsRendered(t *testing.T) {
	w := newWorld(t)
	var got *journey.Journey
	w.seen = func(tree *join.Tree) { got = w.Render(tree) }
	w.withConnect()
	w.finish(hour + uint64(10*time.Second))
	if got.Exchanges[0].Connect != nil {
		t.Error("the root has a connect")
	}
	c := got.Exchanges[1].Connect
	if c == nil {
		t.Fatal("no connect")
	}
	var hops []string
	for _, h := range c.Hops {
		hops = append(hops, fmt.Sprintf("%s (%s, %s): %d", h.Name, h.Kind, h.Class, (h.To-h.From)/us))
	}
	want := []string{
		"iptables OUTPUT (iptables, node): 2", "postrouting to drop (drop, unknown): 3", "retransmission wait (retransmit, network): 999995",
		"iptables OUTPUT (iptables, node): 2", "iptables POSTROUTING (iptables, node): 1", "loopback (loopback, node): 1",
		"iptables PREROUTING (iptables, node): 2", "iptables INPUT (iptables, node): 1", "handshake (handshake, node): 0",
	}
	if diff := cmp.Diff(want, hops); diff != "" {
		t.Errorf("hops (-want +got):\n%s", diff)
	}
	if c.Start != hour+100*us || c.Recv != hour+1_000_107*us || c.Retransmits != 1 || c.Seq != 299 || c.Bytes != 0 {
		t.Errorf("connect %+v", c)
	}
}

func TestConnectIsMeasured(t *testing.T) {
	w := newWorld(t)
	w.seen = w.Measure
	w.withConnect()
	w.finish(hour + uint64(10*time.Second))
	for direction, want := range map[string][]string{
		"connect": {
			"frontend → frontend handshake (handshake, node): 1, 0",
			"frontend → frontend iptables INPUT (iptables, node): 1, 1", "frontend → frontend iptables OUTPUT (iptables, node): 2, 4",
			"frontend → frontend iptables POSTROUTING (iptables, node): 1, 1", "frontend → frontend iptables PREROUTING (iptables, node): 1, 2",
			"frontend → frontend loopback (loopback, node): 1, 1", "frontend → frontend postrouting to drop (drop, unknown): 1, 3",
			"frontend → frontend retransmission wait (retransmit, network): 1, 999995",
		},
		"processing": {
			"frontend → frontend process app (process, app): 1, 600",
			"frontend → frontend process envoy (process, sidecar): 1, 193", // as without the connect, less the 7 that it took besides the second
		},
	} {
		if diff := cmp.Diff(want, w.hops(direction)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", direction, diff)
		}
	}
	if n := len(w.hops("request")); n != 13 {
		t.Errorf("%d series of requests: %q", n, w.hops("request"))
	}
}

// A stamp counts to 4.29 s, a SYN may take longer; and it may meet more hooks than there is room for.
func TestConnectThatTookLong(t *testing.T) {
	whole := lostOnce(nsPod)
	for name, tt := range map[string]struct {
		marks []mark
		want  []string
	}{
		"saturated": {whole, []string{"iptables OUTPUT 2", "postrouting to drop 3", "retransmission wait 6999995", "iptables OUTPUT 0",
			"iptables POSTROUTING 0", "loopback 0", "iptables PREROUTING 0", "iptables INPUT 0", "handshake 0"}},
		"truncated": {whole[:3], []string{"iptables OUTPUT 2", "postrouting to drop 3", "retransmission wait 6999995"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			f := bpf.Flight{
				StartNs: hour, RecvNs: hour + 7_000_000*us, Flags: bpf.Flags(bpf.FlagSYN), Nstamps: uint32(len(tt.marks)), SendNetns: nsPod, RecvNetns: nsPod,
			}
			for i, m := range tt.marks {
				f.Stamps[i].Delta, f.Stamps[i].Place = m.us*1000, m.place()
				if m.us >= 1_000_000 {
					f.Stamps[i].Delta = math.MaxUint32
				}
			}
			x := &join.Exchange{Connect: &f, Req: &join.Message{Flight: &bpf.Flight{SendNetns: nsPod, RecvNetns: nsPod, RecvSk: 1}}}
			var got []string
			c := w.renderFlight(&f, w.connectPath(x), newRoom(&join.Tree{Exchanges: []*join.Exchange{x}}))
			for _, h := range c.Hops {
				got = append(got, fmt.Sprintf("%s %d", h.Name, (h.To-h.From)/us))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			w.connectPath(x).measure(w.Observer, &f)
			var sum float64
			for _, v := range w.Total(nil) {
				sum += v.Sum
			}
			if math.Abs(sum-7) > 1e-9 {
				t.Errorf("%v s measured, want 7", sum)
			}
			if at := lastSeen(&f); at != f.RecvNs {
				t.Errorf("last seen after %d ns", at-hour)
			}
		})
	}
}

// What a process waits for to be connected is not its own, whatever else it waits for at the time.
func TestProcessingWithConnects(t *testing.T) {
	type child struct{ connect, delivered, from, to uint64 } // ns after the start
	for name, tt := range map[string]struct {
		children []child
		want     float64 // ns
	}{
		"one":                 {[]child{{100, 500, 600, 900}}, 300},
		"beside an exchange":  {[]child{{0, 0, 200, 700}, {100, 500, 800, 900}}, 300},
		"around an exchange":  {[]child{{0, 0, 200, 300}, {100, 500, 800, 900}}, 500},
		"two at once":         {[]child{{100, 500, 600, 900}, {150, 550, 610, 800}}, 250},
		"ended after its end": {[]child{{900, 1200, 950, 1100}}, 900},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			root := &join.Exchange{Parent: -1, Resp: measured(hour+1000, hour+2000), Req: measured(hour-500, hour)}
			root.Req.RecvPid, root.Req.RecvNetns = pidApp, nsPod
			root.Req.Flight = &bpf.Flight{RecvSk: 1, RecvPid: pidApp, RecvNetns: nsPod}
			tree := &join.Tree{Exchanges: []*join.Exchange{root}}
			for _, c := range tt.children {
				x := &join.Exchange{Req: measured(hour+c.from, 0), Parent: 0}
				x.Resp = measured(hour+c.to, hour+c.to)
				if c.delivered != 0 {
					x.Req.Flight = &bpf.Flight{}
					x.Connect = &bpf.Flight{StartNs: hour + c.connect, RecvNs: hour + c.delivered, Flags: bpf.Flags(bpf.FlagSYN)}
				}
				tree.Exchanges = append(tree.Exchanges, x)
			}
			w.Measure(tree)
			got := -1.0
			for _, v := range w.Total(nil) {
				if v.Labels.Hop == "process app" {
					got = v.Sum * 1e9
				}
			}
			if math.Abs(got-tt.want) > 0.5 {
				t.Errorf("%.0f ns, want %.0f", got, tt.want)
			}
		})
	}
}
