package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/meshwatch/verdict"
	"github.com/meshwatch/meshwatch/test/lab"
)

// almostASecond is the least that a lost SYN costs: the timer (RFC 6298) runs in ticks of up to 10 ms.
const almostASecond = 950 * time.Millisecond

// cut ends all connections that a pod has to another one: the next request opens a new one.
func cut(t *testing.T, l *lab.Lab, from, to string) {
	t.Helper()
	a, _ := l.Pod(from)
	b, _ := l.Pod(to)
	for _, addr := range []string{b.V4.String(), "[" + b.V6.String() + "]"} {
		if out, err := exec.Command("ip", "netns", "exec", a.Netns, "ss", "-K", "-t", "dst", addr).CombinedOutput(); err != nil {
			t.Fatalf("end connections of %s to %s: %v\n%s", from, addr, err, out)
		}
	}
}

// The answer to the first packet is lost: what is seen of that is that the SYN is sent again.
func TestLostAnswer(t *testing.T) {
	l := up(t, lab.Options{Sidecar: lab.SidecarEnvoy})
	a := start(t, l, "")
	backend, _ := l.Pod("backend")
	drop := exec.Command("ip", "netns", "exec", l.NodeNetns(), "iptables", "-I", "FORWARD", "-s", backend.V4.String(), "-p", "tcp",
		"--tcp-flags", "SYN,ACK", "SYN,ACK", "-m", "statistic", "--mode", "nth", "--every", "3", "--packet", "0", "-j", "DROP")
	if out, err := drop.CombinedOutput(); err != nil {
		t.Fatalf("drop answers: %v\n%s", err, out)
	}
	cut(t, l, "frontend", "backend")
	j := a.journeys(1, withID(send(t, l, "/")))[0]
	c := j.Exchanges[4].Connect
	if c == nil || time.Duration(c.Recv-c.Start) < almostASecond || c.Retransmits != 1 || j.Verdict.Class != journey.ClassNetwork {
		t.Errorf("verdict %+v, connect %+v", j.Verdict, c)
	}
}

// checkConnect wants the leg that crosses to the backend to have a connect of a second or more, gapless, with nothing of it left
// to the sidecar.
func checkConnect(t *testing.T, j *report.Line) {
	t.Helper()
	c := j.Exchanges[4].Connect
	if c == nil {
		t.Errorf("no connect: %+v", j.Exchanges[4])
		return
	}
	if took := time.Duration(c.Recv - c.Start); took < almostASecond || c.Recv > j.Exchanges[4].Request.Start {
		t.Errorf("connect took %s, ended %d ns before the request", took, int64(j.Exchanges[4].Request.Start-c.Recv))
	}
	if c.Retransmits != 1 || c.DropReason == 0 {
		t.Errorf("%d retransmits, drop reason %d", c.Retransmits, c.DropReason)
	}
	at, waited := c.Start, time.Duration(0)
	for _, h := range c.Hops {
		if h.From != at {
			t.Errorf("%s begins at %d, the hop before it ended at %d", h.Name, h.From-c.Start, at-c.Start)
		}
		if at = h.To; h.Kind == "retransmit" {
			waited += time.Duration(h.To - h.From)
		}
	}
	if at != c.Recv || waited < 900*time.Millisecond {
		t.Errorf("hops end at %d of %d, %s of them waiting: %+v", at-c.Start, c.Recv-c.Start, waited, c.Hops)
	}
	for _, r := range verdict.Breakdown(&j.Journey, nil) {
		if r.Part == verdict.Processing && r.Own > 200*time.Millisecond {
			t.Errorf("the server of leg %d has %s of its own", r.Exchange, r.Own)
		}
	}
}

// checkTable wants the table of hops to have the wait, of the network, apart from the hops of requests.
func checkTable(t *testing.T, a *agent) {
	t.Helper()
	rows, err := a.Hops(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(rows, func(r report.HopRow) bool { return r.Hop == "connect: retransmission wait" })
	if i < 0 {
		t.Fatalf("no such row in %+v", rows)
	}
	if r := rows[i]; r.Owner != "network" || r.Leg != "frontend → backend" || r.Count != 3 || r.P50 < 900*time.Millisecond || r.Share < 0.9 {
		t.Errorf("row %+v", r)
	}
}

// The first packet of a connection that a proxy opens for a request is lost: the second that this costs is the network's,
// not the proxy's.
func TestLostSYN(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"envoy":   {Sidecar: lab.SidecarEnvoy},
		"haproxy": {Sidecar: lab.SidecarHAProxy, IPv6: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			a := start(t, l, "")
			if err := l.StartFault(lab.Fault{Kind: lab.FaultLoss, SYN: true}); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				cut(t, l, "frontend", "backend")
				began := time.Now()
				id := send(t, l, "/")
				if took := time.Since(began); took < almostASecond {
					t.Fatalf("no SYN was lost: it took %s", took)
				}
				j := a.journeys(1, withID(id))[0]
				if len(j.Exchanges) != len(sixLegs) {
					t.Fatalf("legs %v", shape(j))
				}
				if j.Verdict.Class != journey.ClassNetwork || j.Verdict.Share < 0.9 || !strings.HasPrefix(j.Verdict.Where, "retransmission wait") {
					t.Errorf("verdict %+v, want network", j.Verdict)
				}
				checkConnect(t, j)
			}
			checkTable(t, a)
		})
	}
}
