package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

var epoch = time.Unix(1_700_000_000, 0)

func request(ms int, class journey.Class, where string) control.Summary {
	return control.Summary{Start: epoch, Duration: time.Duration(ms) * time.Millisecond, Class: class, Where: where, Legs: 6}
}

func TestWeigh(t *testing.T) {
	rows := []report.HopRow{
		{Owner: "node", Hop: "iptables FORWARD", Share: 0.3}, {Owner: "gateway", Share: 0.3}, {Owner: "node", Hop: "veth", Share: 0.2},
		{Owner: "backend app", Share: 0.2},
	}
	old := request(900, journey.ClassGateway, "gateway")
	old.Start = epoch.Add(-1)
	part := request(10, journey.ClassSidecar, "frontend")
	part.Legs = 5
	e := weigh(rows, []control.Summary{old, request(60, journey.ClassNode, "iptables FORWARD in node"), part,
		request(30, journey.ClassMixed, "frontend")}, epoch)
	wantOwners := []portion{{"node", 0.5}, {"gateway", 0.3}, {"backend app", 0.2}}
	wantVerdicts := []portion{{"node", 0.6}, {"mixed", 0.3}, {"frontend sidecar", 0.1}}
	if diff := cmp.Diff(wantOwners, e.owners, cmp.AllowUnexported(portion{})); diff != "" {
		t.Errorf("owners (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(wantVerdicts, e.verdicts, cmp.AllowUnexported(portion{})); diff != "" {
		t.Errorf("verdicts (-want +got)\n%s", diff)
	}
	if n, legs := e.whole(); n != 2 || legs != 6 {
		t.Errorf("%d requests with %d legs, want 2 with 6", n, legs)
	}
	for quantile, ms := range map[float64]time.Duration{0: 10, 0.5: 30, 0.95: 60, 1: 60} {
		if got := e.at(quantile).Duration; got != ms*time.Millisecond {
			t.Errorf("quantile %v is %s, want %d ms", quantile, got, ms)
		}
	}
	if e := weigh(nil, nil, epoch); e.owners != nil || e.verdicts != nil || e.requests != nil {
		t.Errorf("something of nothing: %+v", e)
	}
}

func stretchOf(owner string, share float64, verdict string) evidence {
	return evidence{
		owners: []portion{{owner, share}, {"client app", 0.1}}, verdicts: []portion{{verdict, 0.9}},
		requests: []control.Summary{request(3, journey.ClassMixed, "")},
	}
}

func TestJudge(t *testing.T) {
	before := stretchOf("frontend sidecar", 0.4, "frontend sidecar")
	for kind, c := range cases {
		f := faultOf(kind, lab.SidecarEnvoy)
		if f.Kind != kind || f.Pod != pod || c.says == "" || c.owner == "" {
			t.Errorf("%s is incomplete: %+v", kind, f)
		}
		name := verdictName(f.class, pod)
		text, found := judge(f, before, stretchOf(f.owner, 0.8, name))
		if !found || !strings.Contains(text, "The time moved to what was made slow: "+f.owner+" had 0 % of it, now 80 %.") {
			t.Errorf("%s: not found: %s", kind, text)
		}
		for why, after := range map[string]evidence{
			"the hops say another": stretchOf("frontend sidecar", 0.8, name),
			"the verdicts do":      stretchOf(f.owner, 0.8, "frontend sidecar"),
			"nothing was seen":     {requests: before.requests},
		} {
			if text, found := judge(f, before, after); found || !strings.Contains(text, "did NOT clearly move") {
				t.Errorf("%s, %s: %s", kind, why, text)
			}
		}
		was := stretchOf(f.owner, 0.8, name)
		if _, found := judge(f, was, was); found {
			t.Errorf("%s: found where nothing changed", kind)
		}
	}
	if says := faultOf(lab.FaultSidecar, lab.SidecarHAProxy).says; says != "the backend's sidecar may use 0.5 % of a CPU (cgroup quota)" {
		t.Error(says)
	}
	if len(cases) != len(lab.FaultKinds) {
		t.Errorf("%d cases for %d faults", len(cases), len(lab.FaultKinds))
	}
}

// The wrong pod of the right class is not what was made slow.
func TestJudgePlace(t *testing.T) {
	before := stretchOf("client app", 0.5, "mixed")
	for _, kind := range []lab.FaultKind{lab.FaultApp, lab.FaultSidecar} {
		other := report.Owner(cases[kind].class, "frontend")
		if text, found := judge(faultOf(kind, lab.SidecarEnvoy), before, stretchOf(other, 0.8, other)); found {
			t.Error(text)
		}
	}
}

func TestBusy(t *testing.T) {
	from := parseTicks("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 1 1 1\n")
	if want := (ticks{all: 1000, idle: 850}); from != want {
		t.Errorf("%+v, want %+v", from, want)
	}
	to := ticks{all: 2000, idle: 900}
	if got := busy(from, to); got != 0.95 {
		t.Errorf("busy %v, want 0.95", got)
	}
	if busy(from, from) != 0 || parseTicks("cpu x") != (ticks{}) || parseTicks("") != (ticks{}) {
		t.Error("something of nothing")
	}
	if text := (evidence{busy: 0.95}).excuse(); !strings.Contains(text, "95 % busy") {
		t.Error(text)
	}
	if text := (evidence{busy: 0.5}).excuse(); text != "" {
		t.Error(text)
	}
}
