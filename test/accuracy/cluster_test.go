package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/cluster"
)

// meshWorld is a request through a cluster that only exists in a test: its lines of access logs.
func meshWorld() map[cluster.Received]cluster.Logged {
	pod := func(namespace, app, ip string) *cluster.Pod {
		return &cluster.Pod{Namespace: namespace, Name: app + "-1", Node: "n1", IP: netip.MustParseAddr(ip), Labels: map[string]string{"app": app}}
	}
	at := func(text string) cluster.Addr { return cluster.Addr{AddrPort: netip.MustParseAddrPort(text)} }
	gateway, front, back := pod(cluster.GatewayNamespace, "istio-ingressgateway", "10.0.0.1"), pod("demo", "frontend", "10.0.0.2"), pod("demo", "backend", "10.0.0.3")
	out := map[cluster.Received]cluster.Logged{}
	for _, l := range []cluster.Logged{
		{Access: cluster.Access{DownstreamDirect: at("10.9.9.9:1"), UpstreamLocal: at("10.0.0.1:2"), Route: "entry-two", Cluster: "outbound|80||frontend.demo.svc.cluster.local"}, Pod: gateway},
		{Access: cluster.Access{DownstreamDirect: at("10.0.0.1:2"), UpstreamLocal: at("127.0.0.6:3"), Route: "default", Cluster: "inbound|8080||"}, Pod: front},
		{Access: cluster.Access{DownstreamDirect: at("10.0.0.2:4"), UpstreamLocal: at("10.0.0.2:5"), Route: "one-v1", Cluster: "outbound|80|v1|backend.demo.svc.cluster.local"}, Pod: front},
		{Access: cluster.Access{DownstreamDirect: at("10.0.0.2:5"), UpstreamLocal: at("127.0.0.6:6"), Route: "default", Cluster: "inbound|8080||"}, Pod: back},
	} {
		l.Code, l.Attempts = okay, 1
		out[cluster.Received{ID: "run-1", Peer: l.DownstreamDirect.AddrPort}] = l
	}
	return out
}

// told is the journey that says all of a request as it was.
func told(r *meshRequest) *report.Line {
	j := &report.Line{}
	name := func(p *cluster.Pod) journey.Workload {
		if p == nil {
			return journey.Workload{}
		}
		return journey.Workload{Kind: journey.KindPod, Namespace: p.Namespace, Name: p.Name, Node: p.Node, Service: p.Labels["app"]}
	}
	for k := range r.legs {
		l := &r.legs[k]
		e := &journey.Exchange{Headers: map[string]string{truthHeader: "run-1"}, Parent: k - 1}
		e.Leg.Client = journey.End{Workload: name(l.client), Local: l.peer, Peer: netip.AddrPortFrom(l.server.IP, 8080)}
		e.Leg.Server = journey.End{Workload: name(l.server), Peer: l.peer, Known: true}
		if at := l.governed; at != nil {
			rule := appliedRoutes()[at.Route]
			e.Governance = &journey.Governance{Route: at.Route, Cluster: at.Cluster, Service: hostOf(l), Defined: rule.resource, Destination: appliedDestinations()[hostOf(l)],
				Policy: &journey.Policy{Timeout: rule.timeout, Retries: rule.retries, PerTry: rule.perTry}}
			if at.Inbound() {
				e.Governance.Destination = appliedAtServer()[hostOf(l)]
			}
		}
		j.Exchanges = append(j.Exchanges, e)
	}
	return j
}

// Each case changes one thing that a right journey says.
func TestMeshJudge(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*report.Line)
		why    string // what the judge says; "": nothing
		right  string // aspects that stay right
		joins  int    // wrong ones
	}{
		"all right":         {func(*report.Line) {}, "", "workload service route resource", 0},
		"no governance":     {func(l *report.Line) { l.Exchanges[0].Governance = nil }, "unknown resource of client→gateway", "workload", 0},
		"another pod":       {func(l *report.Line) { l.Exchanges[3].Leg.Server.Workload.Name = "other" }, "wrong workload of frontend→its sidecar", "service route resource", 0},
		"the load is named": {func(l *report.Line) { l.Exchanges[0].Leg.Client.Workload.Name = "n1" }, "wrong workload of client→gateway", "service route resource", 0},
		"another service":   {func(l *report.Line) { l.Exchanges[2].Leg.Client.Workload.Service = "backend" }, "wrong service of frontend sidecar→frontend", "workload route resource", 0},
		"another host":      {func(l *report.Line) { l.Exchanges[4].Governance.Service = "x" }, "wrong service of frontend sidecar→backend sidecar", "workload route resource", 0},
		"another route":     {func(l *report.Line) { l.Exchanges[3].Governance.Route = "split" }, "wrong route of frontend→its sidecar", "workload service resource", 0},
		"another cluster": {func(l *report.Line) {
			l.Exchanges[3].Governance.Cluster = "outbound|80|v2|backend.demo.svc.cluster.local"
		}, "wrong route of frontend→its sidecar", "workload service resource", 0},
		"another resource":    {func(l *report.Line) { l.Exchanges[0].Governance.Defined.Name = "x" }, "wrong resource of client→gateway", "workload service route", 0},
		"a rule that is none": {func(l *report.Line) { l.Exchanges[4].Governance.Destination = l.Exchanges[3].Governance.Destination }, "wrong resource of frontend sidecar→backend sidecar", "workload service route", 0},
		"another timeout":     {func(l *report.Line) { l.Exchanges[3].Governance.Policy.Timeout = time.Second }, "wrong resource of frontend→its sidecar", "workload service route", 0},
		"an app is governed":  {func(l *report.Line) { l.Exchanges[5].Governance = l.Exchanges[4].Governance }, "wrong route of backend sidecar→backend", "workload service resource", 0},
		"a leg is missing":    {func(l *report.Line) { l.Exchanges = l.Exchanges[1:] }, "", "", 0},
		"another connection":  {func(l *report.Line) { l.Exchanges[1].Leg.Server.Peer = netip.MustParseAddrPort("10.0.0.1:9") }, wrongJoin, "", 1},
		"another request":     {func(l *report.Line) { l.Exchanges[1].Headers = map[string]string{truthHeader: "run-2"} }, wrongJoin, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			j := newMeshJudge(readMeshTruth(meshWorld()))
			l := told(j.requests["run-1"])
			c.change(l)
			why := j.line(l)
			m := &meshResult{}
			m.score(j)
			var right []string
			for _, a := range aspectNames {
				if m.Right[a] == 1 {
					right = append(right, a)
				}
				if wrong := strings.HasPrefix(c.why, "wrong "+a); (m.Wrong[a] == 1) != wrong {
					t.Errorf("wrong %s: %d", a, m.Wrong[a])
				}
			}
			complete := len(l.Exchanges) == legCount && c.joins == 0
			if got := strings.Join(right, " "); why != c.why || got != c.right || m.WrongJoins != c.joins || (m.Complete == 1) != complete || m.Scored != 1 {
				t.Errorf("%q, right: %q, %d wrong joins, complete: %d of %d; want %q, %q, %d, %t", why, got, m.WrongJoins, m.Complete, m.Scored, c.why, c.right, c.joins, complete)
			}
		})
	}
}

// A request of which a line is missing, was repeated, or was answered by an error is not scored.
func TestMeshTruth(t *testing.T) {
	for name, change := range map[string]func(*cluster.Logged) bool{
		"a line is missing":  func(l *cluster.Logged) bool { return l.Route != "one-v1" },
		"repeated":           func(l *cluster.Logged) bool { l.Attempts = 2; return true },
		"an error":           func(l *cluster.Logged) bool { l.Code = 503; return true },
		"another connection": func(l *cluster.Logged) bool { l.UpstreamLocal = l.DownstreamDirect; return true },
	} {
		lines := meshWorld()
		for key, l := range lines {
			delete(lines, key)
			if change(&l) {
				lines[key] = l
			}
		}
		if m := readMeshTruth(lines); len(m.requests) != 0 || m.parts != 1 {
			t.Errorf("%s: %d requests, %d of which lines are missing", name, len(m.requests), m.parts)
		}
	}
}
