package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

const truthHeader = "x-truth-id"

// An app in Go hands no id on. What it asks is joined with what it was asked by the goroutine, or by one that this has started, with many
// requests under way: all of them, and none with another one's. What is true, a header says that joining does not look at.
func TestGoApp(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"clear text": {Sidecar: lab.SidecarEnvoy, Anonymous: true},
		"mutual TLS": {Sidecar: lab.SidecarEnvoy, Anonymous: true, TLS: true},
		"haproxy":    {Sidecar: lab.SidecarHAProxy, Anonymous: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			a := start(t, l, "depth: edges\ncapture_headers: [x-truth-id]")
			a.goProbed()
			if opts.TLS {
				a.probed("libssl.so", string(opts.Sidecar))
			}
			for _, how := range []struct {
				path string
				legs int
			}{{"/direct", 6}, {"/children?call=backend,backend&mode=par", 9}} {
				t.Run(how.path, func(t *testing.T) { a.in(t).joinsByGoroutine(l, how.path, how.legs) })
			}
			a.logLosses()
		})
	}
}

// goProbed waits until the apps have probes on net/http.
func (a *agent) goProbed() {
	a.t.Helper()
	a.eventually("the apps have probes on net/http", func() error {
		s, err := a.Status(a.t.Context())
		if err != nil {
			return err
		}
		for _, b := range s.TLS {
			if b.HTTP != nil && b.HTTP.Probed {
				return nil
			}
		}
		return fmt.Errorf("none of %+v", s.TLS)
	})
}

// joinsByGoroutine sends a load, and checks every journey of it.
func (a *agent) joinsByGoroutine(l *lab.Lab, path string, legs int) {
	a.t.Helper()
	const inFlight = 32
	load, err := l.Wrk(a.t.Context(), lab.Load{Connections: inFlight, Duration: 3 * time.Second, Truth: true, Drain: true, Path: path})
	if err != nil {
		a.t.Fatal(err)
	}
	var s goScore
	a.eventually("journeys of all requests", func() error {
		s = score(a.lines(), load.Run, legs)
		if s.requests < int(load.Requests) { //nolint:gosec // a count
			return fmt.Errorf("of %d: %+v", load.Requests, s)
		}
		return nil
	})
	a.t.Logf("%d requests, %.0f/s: %+v", load.Requests, load.Rate(), s)
	if s.wrong != 0 {
		a.t.Errorf("%d journeys have another request's exchanges", s.wrong)
	}
	if s.whole*1000 < s.requests*999 {
		a.t.Errorf("%d of %d journeys are whole", s.whole, s.requests)
	}
}

// goScore is what became of the requests of a load.
type goScore struct {
	requests, whole, wrong, byGoroutine int
}

// score looks whether each journey of a load has that many legs, all of one request.
func score(lines []*report.Line, run string, legs int) (s goScore) {
	for _, j := range lines {
		truth := j.Exchanges[0].Headers[truthHeader]
		if !strings.HasPrefix(truth, run+"-") {
			continue
		}
		for _, e := range j.Exchanges {
			if t := e.Headers[truthHeader]; t != truth {
				s.wrong++
				break
			}
		}
		for _, r := range j.Relays {
			if r.Method == journey.MethodGoroutine {
				s.byGoroutine++
			}
		}
		if j.Exchanges[0].Parent >= 0 || j.Exchanges[0].Leg.Client.Workload.Name != "client" {
			continue
		}
		s.requests++
		if len(j.Exchanges) == legs {
			s.whole++
		}
	}
	return s
}
