package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/test/await"
)

// The phases of the load: each request says in which it was sent.
const (
	phaseBefore = "before"
	phaseIstiod = "istiod-away"
	phaseAPI    = "api-server-away"
	phaseAfter  = "after"
)

const (
	istiodAway = 60 * time.Second
	apiAway    = 15 * time.Second
)

// testAway takes istiod away for a minute and then the API server, under load: the agent goes on with what it knows, says how old that
// is, and follows both again when they are back.
func testAway(t *testing.T, c *Cluster) {
	a := c.observe(t, "x-truth-id")
	if err := a.WaitReady(ctxWithin(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	pods, err := c.MeshPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := c.loadSteadily(t)
	if err := a.WaitFollowed(ctxWithin(t, time.Minute), pods); err != nil {
		t.Fatal(err)
	}
	l.awaitAnswers(t, 1000) // what the agent keeps of requests has grown
	first, before := status(t, a), c.usage(t)
	had := descriptors(t, first.Pid)

	l.phase.Store(phaseIstiod)
	began := time.Now()
	lift, err := c.StopIstiod(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lift(context.WithoutCancel(t.Context())) }() // also when the test ends here
	c.awaitLost(t, a, "istiod", func(s *control.Status) bool {
		return !s.Topology.Connected && s.Topology.Addresses >= len(pods)
	})
	l.stay(t, istiodAway-time.Since(began))
	sayAge(t, a, "topology")
	if err := lift(ctxWithin(t, 2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	awaitBack(t, a, "istiod", func(s *control.Status) bool {
		return s.Topology.Connected && s.Topology.Proxies.Followed > 0 && s.Topology.Proxies.Connected == s.Topology.Proxies.Followed
	})

	l.phase.Store(phaseAPI)
	liftAPI, err := c.StopAPIServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = liftAPI(context.WithoutCancel(t.Context())) }()
	c.awaitLost(t, a, "the API server", func(s *control.Status) bool { return !s.Kubernetes.Connected && s.Topology.Addresses >= len(pods) })
	l.stay(t, apiAway)
	sayAge(t, a, "kubernetes")
	if err := liftAPI(ctxWithin(t, 2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	awaitBack(t, a, "the API server", func(s *control.Status) bool { return s.Kubernetes.Connected && s.Kubernetes.Ready })

	l.phase.Store(phaseAfter)
	c.followsAgain(t, a)
	l.stay(t, 5*time.Second)
	after := c.usage(t)
	now := status(t, a)
	if now.Pid != first.Pid || !now.Started.Equal(first.Started) {
		t.Errorf("the agent is another one: %d, then %d", first.Pid, now.Pid)
	}
	has := descriptors(t, first.Pid)
	t.Logf("before %s; after %s; descriptors (-before +after)\n%s", before, after, cmp.Diff(had, has))
	const links = 8                                       // of probes on one binary, at most
	others := links * max(0, len(now.TLS)-len(first.TLS)) // who else works on this machine may have started some
	if after.goroutines > before.goroutines+5 || after.descriptors > before.descriptors+float64(3+others) || after.heap > before.heap+20<<20 || after.memory > before.memory+40<<20 {
		t.Errorf("it has grown: %s, then %s", before, after)
	}
	l.end(t)
	named(t, a, pods)
}

// descriptors are those of a process by what they are.
func descriptors(t *testing.T, pid int) map[string]int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, fd := range list {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil { // else it was closed meanwhile
			what, _, _ := strings.Cut(to, ":[") // socket:[1234]
			out[what]++
		}
	}
	return out
}

func status(t *testing.T, a *Agent) control.Status {
	t.Helper()
	s, err := a.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitLost waits until the agent says that a source is away, and that it still knows what it knew.
func (c *Cluster) awaitLost(t *testing.T, a *Agent, source string, is func(*control.Status) bool) {
	t.Helper()
	var s control.Status
	if err := await.Until(ctxWithin(t, 2*soon), func() bool { s = status(t, a); return is(&s) }); err != nil {
		t.Fatalf("%v: the agent does not say that %s is away: %+v %+v", err, source, s.Topology, s.Kubernetes)
	}
	if someone(t, a) == nil {
		t.Errorf("without %s nobody is known", source)
	}
}

// someone is a workload of the demo's that the agent knows, nil: none.
func someone(t *testing.T, a *Agent) *control.Workload {
	t.Helper()
	mesh, err := a.Mesh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range mesh.Workloads {
		if w.Namespace == Namespace && len(w.Addresses) > 0 {
			return &w
		}
	}
	return nil
}

// sayAge looks at what `meshwatch topology status` says of a source that is away.
func sayAge(t *testing.T, a *Agent, source string) {
	t.Helper()
	text, err := a.Ask(t.Context(), "topology", "status")
	if err != nil {
		t.Error(err)
	}
	if !regexp.MustCompile(`(?m)^` + source + ` .*last change \d+\S* ago; lost \d+\S* ago, what it said stays: .+`).MatchString(text) {
		t.Errorf("meshwatch topology status does not say how old what is known of %s is: %s", source, text)
	}
	t.Log(text)
}

func awaitBack(t *testing.T, a *Agent, source string, is func(*control.Status) bool) {
	t.Helper()
	begun := time.Now()
	var s control.Status
	if err := await.Until(ctxWithin(t, 2*time.Minute), func() bool { s = status(t, a); return is(&s) }); err != nil {
		t.Fatalf("%v: the agent does not follow %s again: %+v %+v %+v", err, source, s.Topology, s.Topology.Proxies, s.Kubernetes)
	}
	t.Logf("%s followed again %s after it was ready", source, time.Since(begun).Round(time.Millisecond))
}

// news are a service, of which the API server tells, and a route, of which istiod tells the proxies.
const news = `
apiVersion: v1
kind: Service
metadata: {name: news, namespace: demo}
spec: {selector: {app: backend}, ports: [{name: http, port: 81, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: news, namespace: demo}
spec:
  hosts: [news.demo.svc.cluster.local]
  http: [{name: news, route: [{destination: {host: news.demo.svc.cluster.local}}]}]
`

// followsAgain checks that the agent hears of what is new, from both.
func (c *Cluster) followsAgain(t *testing.T, a *Agent) {
	t.Helper()
	frontend := pod(t, c, Namespace, "app=frontend")
	apply(t, c, news, func() error { return nil })
	var last error
	behind := func() bool { // Kubernetes' own controllers come back to the API server as late as a minute after it
		var list struct {
			Items []struct{ Endpoints []struct{} }
		}
		last = c.Get(t.Context(), &list, "endpointslices", "--namespace="+Namespace, "--selector=kubernetes.io/service-name=news")
		return last == nil && len(list.Items) == 1 && len(list.Items[0].Endpoints) == 2
	}
	if err := await.Until(ctxWithin(t, 2*time.Minute), behind); err != nil {
		t.Fatalf("%v: nobody is behind the new service: %v", err, last)
	}
	if err := await.Until(ctxWithin(t, soon), func() bool { last = c.heardNews(t, a, frontend); return last == nil }); err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}

// heardNews says what the agent has not heard of.
func (c *Cluster) heardNews(t *testing.T, a *Agent, frontend Pod) error {
	t.Helper()
	rules, err := a.Routes(t.Context(), frontend.Namespace, frontend.Name)
	if err != nil {
		return err
	}
	mesh, err := a.Mesh(t.Context())
	if err != nil {
		return err
	}
	route := slices.ContainsFunc(rules, func(r control.Rule) bool { return r.Name == "news" })
	service := slices.ContainsFunc(mesh.Services, func(s control.Service) bool {
		return s.Host == "news.demo.svc.cluster.local" && s.Workloads == 2
	})
	if !route || !service {
		return fmt.Errorf("the agent has not heard: route %t, service %t", route, service)
	}
	return nil
}

// named checks who the agent's journeys say was asked, in each phase.
func named(t *testing.T, a *Agent, pods []Pod) {
	t.Helper()
	counts := map[string]*Score{phaseBefore: {}, phaseIstiod: {}, phaseAPI: {}, phaseAfter: {}}
	for j, err := range a.Journeys() {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range j.Exchanges {
			s := counts[e.Headers["x-truth-id"]]
			if s == nil {
				continue
			}
			for _, p := range pods {
				if p.IP == e.Leg.Server.Local.Addr() && s.Add(e.Leg.Server.Workload.Name, p.Name) {
					t.Errorf("%s is said to be %s", p.Name, e.Leg.Server.Workload.Name)
				}
			}
		}
	}
	for phase, s := range counts {
		t.Logf("%s: names: %s", phase, s)
		if s.Lines < 100 || s.Said != s.Lines && phase != phaseBefore {
			t.Errorf("%s: too little is said: %s", phase, s)
		}
	}
}
