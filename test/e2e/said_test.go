package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// Apps that hand no ids on ask alike things at the same time: each is joined to what its sidecar made of it, as the sidecar says.
func TestSaidJoins(t *testing.T) {
	for name, sidecar := range map[string]lab.Sidecar{"envoy": lab.SidecarEnvoy, "haproxy": lab.SidecarHAProxy} {
		t.Run(name, func(t *testing.T) { checkSaidJoins(t, sidecar) })
	}
}

func checkSaidJoins(t *testing.T, sidecar lab.Sidecar) {
	als, log := logSockets(t)
	l := up(t, lab.Options{Sidecar: sidecar, Anonymous: true, ALS: als, Said: log, AccessLogs: true}) // the files are the truth
	a := start(t, l, fmt.Sprintf("access_logs: {envoy: [%s], haproxy_rings: [%s], use: join}\ngo: {probes: \"off\"}", als, log))
	defer a.logLosses()
	leaves := func(j *report.Line) bool {
		x := j.Exchanges[0]
		return x.Leg.Client.Role == journey.RoleApp && x.Leg.Client.Workload.Name == "frontend" && x.Target == "/"
	}
	a.eventually("the sidecar is heard", func() error {
		send(t, l, "/before")
		a.out.mu.Lock()
		defer a.out.mu.Unlock()
		for _, j := range a.out.lines {
			if len(j.Relays) > 0 && j.Relays[0].Method == journey.MethodProxyLog {
				return nil
			}
		}
		return fmt.Errorf("no join by what it says in %d journeys", len(a.out.lines))
	})
	const clients, each = 16, 60
	askAll(t, l, clients, each, func(int, int) string { return "/" })
	got := a.journeys(clients*each, leaves)
	methods := map[journey.Method]int{}
	for _, j := range got {
		if len(j.Relays) == 0 || j.Relays[0].To != 1 {
			methods["none"]++
			continue
		}
		methods[j.Relays[0].Method]++
		if j.Relays[0].Confidence >= 1 {
			t.Errorf("a join by %s is sure", j.Relays[0].Method)
		}
	}
	t.Logf("%s: %d requests: %v", sidecar, len(got), methods)
	if n := methods[journey.MethodProxyLog]; methods["none"]*1000 > len(got) || n*100 < len(got)*99 {
		t.Errorf("%d of %d are joined, %d by what the sidecar says", len(got)-methods["none"], len(got), n)
	}
	checkByLog(t, a, l, leaves)
}

// checkByLog compares every join by what a sidecar said with its access log, by the id that the sidecar made.
func checkByLog(t *testing.T, a *agent, l *lab.Lab, leaves func(*report.Line) bool) {
	t.Helper()
	var joins []*report.Line
	for _, j := range a.journeys(1, leaves) {
		if len(j.Relays) > 0 && j.Relays[0].Method == journey.MethodProxyLog {
			joins = append(joins, j)
		}
	}
	came := map[string]netip.AddrPort{}
	a.eventually("the sidecar's own log has them all", func() error { // it is written late
		for line, err := range l.AccessLog("frontend") {
			if err != nil {
				return err
			}
			if line.Listener == "outbound" {
				came[line.RequestID] = line.DownstreamRemote.AddrPort
			}
		}
		for _, j := range joins {
			if _, known := came[j.Exchanges[1].RequestID]; !known {
				return fmt.Errorf("no %s among %d requests", j.Exchanges[1].RequestID, len(came))
			}
		}
		return nil
	})
	for _, j := range joins {
		if from := came[j.Exchanges[1].RequestID]; from != j.Exchanges[0].Leg.Client.Local {
			t.Errorf("%s: joined to the request from %v, which came from %v", j.Exchanges[1].RequestID, j.Exchanges[0].Leg.Client.Local, from)
		}
	}
	t.Logf("%d joins compared with the access log", len(joins))
	if len(joins) < 950 {
		t.Errorf("only %d", len(joins))
	}
}
