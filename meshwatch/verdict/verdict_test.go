package verdict

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
)

// call is an exchange whose request and response travel for 10 ns each as one hop of the class.
func call(parent int, role journey.Role, start, end uint64) *journey.Exchange {
	flight := func(at uint64) journey.Flight {
		return journey.Flight{Start: at, Recv: at + 10, RecvEnd: at + 10, Hops: []journey.Hop{
			{Name: "veth", Kind: "veth", Class: journey.ClassNode, From: at, To: at + 10, Net: "n", Iface: "eth0"},
		}}
	}
	e := &journey.Exchange{Parent: parent, Method: "GET", Target: "/", Request: flight(start)}
	e.Leg.Server = journey.End{Known: true, Role: role, Workload: journey.Workload{Name: string(role) + "1"}}
	if end > 0 {
		f := flight(end - 10)
		e.Response = &f
	}
	return e
}

func lost(parent int, role journey.Role, start uint64, err string) *journey.Exchange {
	e := call(parent, role, start, 0)
	e.Error = err
	return e
}

func TestJudge(t *testing.T) {
	const none = journey.RoleUnknown
	app, sidecar, gw := journey.RoleApp, journey.RoleSidecar, journey.RoleGateway
	wait := call(-1, app, 100, 1100)
	wait.Request.Recv = 900
	wait.Request.Hops = append(wait.Request.Hops, journey.Hop{Kind: "socket-wait", Class: journey.ClassApp, From: 110, To: 900})
	unseen := call(-1, app, 100, 1100)
	unseen.Leg.Server.Known = false
	for _, tc := range []struct {
		name      string
		exchanges []*journey.Exchange
		want      journey.Verdict
	}{
		{"no exchange", nil, journey.Verdict{Class: "unknown"}},
		{"one leg", []*journey.Exchange{call(-1, app, 100, 1100)},
			verdict("app", 0.98, "app1", "app", 980, "node", 20)},
		{"waiting in the socket is the reader's", []*journey.Exchange{wait},
			verdict("app", 0.98, "app1", "app", 980, "node", 20)},
		{"unknown role", []*journey.Exchange{call(-1, none, 100, 1100)},
			verdict("unknown", 0.98, "1", "unknown", 980, "node", 20)},
		{"server not seen", []*journey.Exchange{unseen},
			verdict("unknown", 0.98, "app1", "unknown", 980, "node", 20)},
		{"hops win", []*journey.Exchange{call(-1, app, 100, 124)},
			verdict("node", 20.0/24, "veth n eth0", "node", 20, "app", 4)},
		{"mixed", []*journey.Exchange{call(-1, gw, 0, 1000), call(0, sidecar, 300, 900), call(1, app, 400, 800)},
			verdict("mixed", 0.38, "app1", "app", 380, "gateway", 380, "sidecar", 180, "node", 60)},
		{"fan-out: the one that finishes last", []*journey.Exchange{call(-1, gw, 0, 1000), call(0, app, 100, 700), call(0, sidecar, 300, 900)},
			verdict("sidecar", 0.58, "sidecar1", "sidecar", 580, "app", 190, "gateway", 180, "node", 50)},
		{"fan-out: one inside the other", []*journey.Exchange{call(-1, gw, 0, 1000), call(0, app, 100, 900), call(0, sidecar, 300, 500)},
			verdict("app", 0.78, "app1", "app", 780, "gateway", 180, "node", 40)},
		{"one after the other", []*journey.Exchange{call(-1, gw, 0, 1000), call(0, app, 100, 300), call(0, sidecar, 300, 900)},
			verdict("sidecar", 0.58, "sidecar1", "sidecar", 580, "app", 180, "gateway", 180, "node", 60)},
		{"timeout: it read and never answered", []*journey.Exchange{call(-1, sidecar, 0, 1000), lost(0, app, 100, "no-response")},
			verdict("app", 0.88, "app1", "app", 880, "sidecar", 90, "node", 30)},
		{"timeout and a retry", []*journey.Exchange{call(-1, sidecar, 0, 1000), lost(0, app, 100, "no-response"), call(0, app, 600, 900)},
			verdict("app", 0.77, "app1", "app", 770, "sidecar", 180, "node", 50)},
		{"reset: over when it was over", []*journey.Exchange{call(-1, sidecar, 0, 1000), lost(0, app, 100, "reset")},
			verdict("sidecar", 0.97, "sidecar1", "sidecar", 970, "node", 30)},
		{"root without a response", []*journey.Exchange{lost(-1, app, 0, "no-response")},
			verdict("node", 1, "veth n eth0", "node", 10)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := &journey.Journey{Exchanges: tc.exchanges}
			if diff := cmp.Diff(tc.want, Judge(j)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func verdict(c journey.Class, share float64, where string, shares ...any) journey.Verdict {
	v := journey.Verdict{Class: c, Share: share, Where: where}
	for k := 0; k < len(shares); k += 2 {
		v.Shares = append(v.Shares, journey.Share{Class: journey.Class(shares[k].(string)), Own: time.Duration(shares[k+1].(int))})
	}
	return v
}

func TestDemoIsTheBackends(t *testing.T) {
	v := Judge(journeytest.Demo())
	if v.Class != journey.ClassApp || v.Where != "backend" || v.Share < 0.5 {
		t.Errorf("got %+v, want app at backend", v)
	}
}

// However wrong the times are: shares are sorted, sum to at most the duration, and agree with the breakdown.
func TestShares(t *testing.T) {
	for seed := range uint64(5_000) {
		j := journeytest.Random(rand.New(rand.NewPCG(seed, 1)), 12)
		v, rows := Judge(j), Breakdown(j, nil)
		var sum, own time.Duration
		for k, s := range v.Shares {
			sum += s.Own
			if s.Own <= 0 || k > 0 && v.Shares[k-1].Own < s.Own {
				t.Fatalf("seed %d: shares not sorted or empty: %v", seed, v.Shares)
			}
		}
		for _, r := range rows {
			own += r.Own
			if r.Own < 0 || r.Own > time.Duration(r.To-r.From) {
				t.Fatalf("seed %d: row has more own time than it took: %+v", seed, r)
			}
		}
		if sum > j.Duration() || sum != own {
			t.Fatalf("seed %d: shares sum to %v, rows to %v, of %v", seed, sum, own, j.Duration())
		}
		if n := count(j); len(rows) != n {
			t.Fatalf("seed %d: %d rows, want %d", seed, len(rows), n)
		}
	}
}

// With consistent times nothing of the demo is left over.
func TestNothingLeftOver(t *testing.T) {
	j := journeytest.Demo()
	var own time.Duration
	for _, r := range Breakdown(j, nil) {
		own += r.Own
	}
	if own != j.Duration() {
		t.Errorf("rows sum to %v of %v", own, j.Duration())
	}
}

func BenchmarkJudge(b *testing.B) {
	j := journeytest.Demo()
	b.ReportAllocs()
	for b.Loop() {
		Judge(j)
	}
}

// The worst case for Where: every hop of 10 per flight is the winner's.
func BenchmarkJudgeNode(b *testing.B) {
	j := journeytest.Demo()
	for _, e := range j.Exchanges {
		for _, f := range []*journey.Flight{&e.Request, e.Response} {
			for len(f.Hops) < 10 {
				f.Hops = append(f.Hops, f.Hops[0])
			}
		}
		e.Leg.Server.Known = false
		for k := range e.Request.Hops {
			e.Request.Hops[k].To += 1000
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		Judge(j)
	}
}

func BenchmarkBreakdown(b *testing.B) {
	j := journeytest.Demo()
	var rows []Row
	b.ReportAllocs()
	for b.Loop() {
		rows = Breakdown(j, rows[:0])
	}
}

func TestExchangeOutsideTheTree(t *testing.T) {
	j := &journey.Journey{Exchanges: []*journey.Exchange{call(-1, journey.RoleApp, 0, 1000), call(-1, journey.RoleGateway, 0, 1000), call(2, journey.RoleGateway, 0, 1000)}}
	if v := Judge(j); v.Class != journey.ClassApp || len(v.Shares) != 2 {
		t.Errorf("got %+v, want the root's time only", v)
	}
	if rows := Breakdown(j, nil); len(rows) != 9 || rows[4].Class != journey.ClassGateway || rows[4].Part != Processing {
		t.Errorf("got rows %+v", rows)
	}
}
