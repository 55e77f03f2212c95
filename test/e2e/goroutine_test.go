package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

const truthHeader = "x-truth-id"

// takesTime has the backend answer late: many requests are under way at a time, and the agent gets CPU beside other tests.
const takesTime = "up.sleep=40ms"

// An app in Go hands no id on. What it asks is joined with what it was asked by the goroutine, or by one that this has started, with many
// requests under way: all of them, and none with another one's. What is true, a header says that joining does not look at.
func TestGoApp(t *testing.T) {
	for name, opts := range map[string]lab.Options{
		"clear text": {Sidecar: lab.SidecarEnvoy, Anonymous: true},
		"mutual TLS": {Sidecar: lab.SidecarEnvoy, Anonymous: true, TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, opts)
			a := start(t, l, "depth: edges\ncapture_headers: [x-truth-id]\nrecorder: {flights: 65536}")
			a.goProbed()
			if opts.TLS {
				a.probed("libssl.so", string(opts.Sidecar))
			}
			t.Run("itself", func(t *testing.T) {
				a.in(t).joinsByGoroutine(l, lab.Load{Path: "/direct?" + takesTime, Varied: true}, 1)
			})
			t.Run("children", func(t *testing.T) {
				a.in(t).joinsByGoroutine(l, lab.Load{Path: "/?call=backend,backend&mode=par&" + takesTime}, 2)
			})
			a.logLosses()
		})
	}
}

// goProbed waits until the lab's apps have probes on net/http.
func (a *agent) goProbed() {
	a.t.Helper()
	a.eventually("the apps have probes on net/http", func() error {
		s, err := a.Status(a.t.Context())
		if err != nil {
			return err
		}
		for _, b := range s.TLS {
			if filepath.Base(b.Path) == "app" && b.HTTP != nil && b.HTTP.Probed {
				return nil
			}
		}
		return fmt.Errorf("none of %+v", s.TLS)
	})
}

// joinsByGoroutine sends a load, for each request of which the frontend's app asks so often, and checks every journey of it. Sidecars hand on
// what carries no id: if the app asks for something else each time, they are joined, too, and the journey is whole.
func (a *agent) joinsByGoroutine(l *lab.Lab, load lab.Load, asks int) {
	a.t.Helper()
	load.Connections, load.Duration, load.Truth, load.Drain = 32, 3*time.Second, true, true
	sent, err := l.Wrk(a.t.Context(), load)
	if err != nil {
		a.t.Fatal(err)
	}
	var s goScore
	a.eventually("journeys of all requests", func() error {
		s = score(a.lines(), sent.Run)
		if s.requests < int(sent.Requests) { //nolint:gosec // a count
			return fmt.Errorf("of %d: %+v", sent.Requests, s)
		}
		return nil
	})
	a.t.Logf("%d requests, %.0f/s, %d at a time: %+v", sent.Requests, sent.Rate(), load.Connections, s)
	if s.wrong != 0 {
		a.t.Errorf("%d joins by goroutine are of another request's exchanges", s.wrong)
	}
	if s.mixed*1000 > s.requests { // by sidecars, of requests that are alike: as much as docs/accuracy.md allows
		a.t.Errorf("%d of %d journeys have another request's exchanges", s.mixed, s.requests)
	}
	if s.asks*1000 < asks*s.requests*995 { // records are lapped where the machine is busy
		a.t.Errorf("the app asked for %d of %d requests", s.asks, asks*s.requests)
	}
	if load.Varied && s.whole*100 < s.requests*99 {
		a.t.Errorf("%d of %d journeys are whole", s.whole, s.requests)
	}
}

// goScore is what became of the requests of a load.
type goScore struct {
	requests int
	asks     int // of the frontend's app that were joined, in the journeys of these
	whole    int // with all legs
	wrong    int // joins by goroutine of what is not of one request
	mixed    int // journeys, also others, with exchanges that are not their request's
}

// score looks at each journey of a load.
func score(lines []*report.Line, run string) (s goScore) {
	for _, j := range lines {
		truth := j.Exchanges[0].Headers[truthHeader]
		if !strings.HasPrefix(truth, run+"-") {
			continue
		}
		if slices.ContainsFunc(j.Exchanges, func(e *journey.Exchange) bool { return e.Headers[truthHeader] != truth }) {
			s.mixed++
		}
		for _, r := range j.Relays {
			if r.Method == journey.MethodGoroutine && j.Exchanges[r.From].Headers[truthHeader] != j.Exchanges[r.To].Headers[truthHeader] {
				s.wrong++
			}
		}
		if j.Exchanges[0].Leg.Client.Workload.Name != "client" {
			continue
		}
		s.requests++
		for _, r := range j.Relays {
			if r.Method == journey.MethodGoroutine {
				s.asks++
			}
		}
		if len(j.Exchanges) == len(sixLegs) {
			s.whole++
		}
	}
	return s
}
