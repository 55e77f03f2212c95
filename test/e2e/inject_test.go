package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// threeLegs is the way of a request that an app makes of its own accord.
var threeLegs = sixLegs[3:]

// podClient sends requests as a process of a pod: through its sidecar.
func podClient(l *lab.Lab, pod string, connections int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, addr string) (net.Conn, error) { return l.Dial(ctx, pod, addr) },
		MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections, DisableCompression: true,
	}}
}

// Requests that carry no id are given one: it is in every line of every access log on their way, and the journey has the app's own leg.
func TestInject(t *testing.T) {
	for _, sidecar := range []lab.Sidecar{lab.SidecarEnvoy, lab.SidecarHAProxy} {
		t.Run(string(sidecar), func(t *testing.T) { injects(t, lab.Options{Sidecar: sidecar, AccessLogs: true}) })
	}
}

func injects(t *testing.T, o lab.Options) {
	l := up(t, o)
	a := start(t, l, "inject: missing\ninject_workloads: [demo/frontend*, \"*-frontend\"]")
	defer a.logLosses()
	const connections, each = 32, 50
	backend, _ := l.Pod("backend")
	client := podClient(l, "frontend", connections)
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for n := range connections {
		wg.Go(func() {
			for i := range each {
				var body io.Reader = http.NoBody
				if i%3 == 0 {
					body = strings.NewReader(strings.Repeat("b", i*100))
				}
				resp, err := client.Post(fmt.Sprintf("http://%s:8080/inject-%d-%d", backend.V4, n, i), "text/plain", body)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if _ = resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("status %d, %v", resp.StatusCode, err)
				}
			}
		})
	}
	wg.Wait()
	got := a.journeys(connections*each, func(j *report.Line) bool { return strings.HasPrefix(j.Exchanges[0].Target, "/inject-") })
	ids := map[string]bool{}
	for _, j := range got {
		if diff := cmp.Diff(threeLegs, shape(j)); diff != "" {
			t.Fatalf("legs (-want +got):\n%s", diff)
		}
		for i, e := range j.Exchanges {
			if e.Parent != i-1 || e.RequestID == "" || e.Request.SendEnd == 0 {
				t.Fatalf("leg %d: %+v", i, e)
			}
		}
		ids[masked(j.Exchanges[0].RequestID)] = true
	}
	if len(ids) != len(got) {
		t.Errorf("%d ids in %d journeys", len(ids), len(got))
	}
	a.eventually("every line of the access logs has the id", func() error { return logged(l, ids) })
	s, err := a.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := s.Inject; i == nil || !i.On || len(i.Workloads) != 1 || i.Injected != connections*each || i.HadID != 0 {
		t.Errorf("status %+v", s.Inject)
	}
	t.Logf("%d requests, each with an id of its own at %d proxies; %+v", len(ids), 2, s.Inject)
}

// masked is an id without what Envoy puts into it.
func masked(id string) string {
	if len(id) != 36 {
		return id
	}
	return id[:14] + "4" + id[15:]
}

// logged says whether each id is in one line of both sidecars' logs, and no other line is there.
func logged(l *lab.Lab, ids map[string]bool) error {
	for _, pod := range []string{"frontend", "backend"} {
		seen := map[string]bool{}
		for line, err := range l.AccessLog(pod) {
			if err != nil {
				return err
			}
			if !strings.HasPrefix(line.Path, "/inject-") {
				continue
			}
			id := masked(line.RequestID)
			if !ids[id] || seen[id] {
				return fmt.Errorf("%s has a line with id %q: known %v, seen before %v", pod, line.RequestID, ids[id], seen[id])
			}
			seen[id] = true
		}
		if len(seen) != len(ids) {
			return fmt.Errorf("%d lines at %s", len(seen), pod)
		}
	}
	return nil
}
