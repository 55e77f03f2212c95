package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/proxy"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// routed are two apps in a namespace of their own, and all kinds of routes between them.
const routed = `
apiVersion: v1
kind: Namespace
metadata: {name: routes, labels: {istio-injection: enabled}}
`

const routedApp = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: routes}
spec:
  selector: {matchLabels: {app: %[2]s, version: %[3]s}}
  template:
    metadata: {labels: {app: %[2]s, version: %[3]s}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: app
          image: lab.local/app:lab
          imagePullPolicy: IfNotPresent
          args: [--name=%[1]s, --port=8080, --call=%[4]s, "--upstream=back=back=back.routes.svc.cluster.local:80"]
          ports: [{containerPort: 8080, name: http}]
          readinessProbe: {httpGet: {path: "/ready?call=", port: 8080}, periodSeconds: 1}
`

const routedRules = `
apiVersion: v1
kind: Service
metadata: {name: front, namespace: routes}
spec: {selector: {app: front}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: back, namespace: routes}
spec: {selector: {app: back}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: back-subsets, namespace: routes}
spec:
  host: back.routes.svc.cluster.local
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: back-routes, namespace: routes}
spec:
  hosts: [back.routes.svc.cluster.local]
  http:
    - name: exact
      match: [{uri: {exact: /exact}}]
      timeout: 2s
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v1}}]
    - name: header
      match: [{headers: {x-truth-id: {prefix: v2-}}}, {uri: {prefix: /always-v2}}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v2}}]
    - name: hidden
      match: [{uri: {prefix: /hidden}, headers: {x-shown: {exact: "1"}}}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v1}}]
    - name: without
      match: [{uri: {prefix: /without}, withoutHeaders: {x-truth-id: {exact: not}}}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v1}}]
    - name: prefix
      match: [{uri: {prefix: /prefix/}}]
      retries: {attempts: 3, perTryTimeout: 1s, retryOn: 5xx}
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v2}}]
    - name: regex
      match: [{uri: {regex: "/re[0-9]+/x"}}]
      route:
        - {destination: {host: back.routes.svc.cluster.local, subset: v1}, weight: 30}
        - {destination: {host: back.routes.svc.cluster.local, subset: v2}, weight: 70}
    - name: any-case
      match: [{uri: {prefix: /CaSe}, ignoreUriCase: true}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v2}}]
    - name: query
      match: [{queryParams: {q: {exact: "1"}}}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v1}}]
    - name: post
      match: [{method: {exact: POST}}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v2}}]
    - name: abort
      match: [{uri: {prefix: /abort}}]
      fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v1}}]
    - name: abort-half
      match: [{uri: {prefix: /half}}]
      fault: {abort: {httpStatus: 418, percentage: {value: 50}}}
      route: [{destination: {host: back.routes.svc.cluster.local}}]
    - name: redirect
      match: [{uri: {exact: /redirect}}]
      redirect: {uri: /exact}
    - name: direct
      match: [{uri: {exact: /direct}}]
      directResponse: {status: 204}
    - name: mirror
      match: [{uri: {prefix: /mirror}}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v1}}]
      mirror: {host: back.routes.svc.cluster.local, subset: v2}
    - name: split
      route:
        - {destination: {host: back.routes.svc.cluster.local, subset: v1}, weight: 50}
        - {destination: {host: back.routes.svc.cluster.local, subset: v2}, weight: 50}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: routes, namespace: routes}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [routes.example, "*.routes.example"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: entry, namespace: routes}
spec:
  hosts: [routes.example, "*.routes.example"]
  gateways: [routes]
  http:
    - name: direct-back
      match: [{authority: {exact: back.routes.example}}]
      route: [{destination: {host: back.routes.svc.cluster.local, subset: v1}, weight: 60}, {destination: {host: front.routes.svc.cluster.local}, weight: 40}]
    - name: entry-slow
      match: [{uri: {prefix: /prefix}}]
      timeout: 5s
      route: [{destination: {host: front.routes.svc.cluster.local}}]
    - name: entry
      route: [{destination: {host: front.routes.svc.cluster.local}}]
`

// TestRoutes compares what topology/proxy says of each request, with what a real istiod tells an agent of the proxies of its node, to
// what the proxies themselves say: every line of their access logs.
func TestRoutes(t *testing.T) {
	want(t)
	testRoutes(t, begin(t, Options{Nodes: 1}))
}

func testRoutes(t *testing.T, c *Cluster) {
	c.applyRoutes(t)
	istiod := pod(t, c, "istio-system", "app=istiod")
	client := c.followProxies(t, xds.Settings{Address: c.forward(t, istiod.IP.String()+":15010"), Security: xds.Plaintext})
	pods := c.routePods(t)
	var proxies []xds.Proxy
	for _, p := range pods {
		one := xds.Proxy{Pod: xds.Pod{Namespace: p.Namespace, Name: p.Name}, Addr: p.IP, Gateway: p.Namespace == GatewayNamespace, Labels: p.Labels}
		proxies = append(proxies, one)
	}
	client.Follow(proxies)
	c.awaitRoutes(t, client, pods)
	begun := time.Now()
	sent := c.sendVaried(t, pods)
	if sent < 1000 {
		t.Errorf("%d requests were sent", sent)
	}
	c.compare(t, client, pods, begun, sent)
	checkPolicies(t, client.Config(podOf(pods, "front")))
	c.checkSecure(t, istiod, proxies)
	client.Follow(proxies[:1])
	err := await.Until(ctxWithin(t, soon), func() bool { return len(client.Proxies()) == 1 && client.Config(proxies[1].Pod) == nil })
	if err != nil {
		t.Errorf("proxies that are no more stay: %+v", client.Proxies())
	}
}

// applyRoutes makes the apps and their rules, until the test ends.
func (c *Cluster) applyRoutes(t *testing.T) {
	t.Helper()
	apps := fmt.Sprintf(routedApp, "front", "front", "v1", "back") + fmt.Sprintf(routedApp, "back-v1", "back", "v1", "") + fmt.Sprintf(routedApp, "back-v2", "back", "v2", "")
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), routed); err != nil {
			t.Error(err)
		}
	})
	if err := c.Apply(t.Context(), routed); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(t.Context(), "routes", "create", soon, "configmap/istio-ca-root-cert"); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), routedRules+apps); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"front", "back-v1", "back-v2"} {
		if err := c.WaitRollout(ctxWithin(t, 2*soon), "routes", "deployment/"+d); err != nil {
			t.Fatal(err)
		}
	}
}

// routePods are the gateway's and the apps'.
func (c *Cluster) routePods(t *testing.T) []Pod {
	t.Helper()
	pods, err := c.Pods(t.Context(), "routes", "app")
	if err != nil || len(pods) != 3 {
		t.Fatalf("pods %+v, %v", pods, err)
	}
	return append([]Pod{pod(t, c, GatewayNamespace, "istio=ingressgateway")}, pods...)
}

// followProxies is a client of istiod's that runs until the test ends.
func (c *Cluster) followProxies(t *testing.T, settings xds.Settings) *xds.Client {
	t.Helper()
	start := time.Now()
	settings.ClusterID = "Kubernetes"
	client := xds.New(settings, xds.Options{
		Node: nodeName(1), Builder: topology.NewBuilder("", uint64(time.Hour)), Clock: func() uint64 { return uint64(time.Since(start)) },
		Changed: func(*topology.Store) {}, Refused: func(n int) { t.Errorf("%d resources of istiod's were refused", n) }, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { client.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return client
}

// checkSecure asks at istiod's port 15012, where it matters who asks: what the proxies of the agent's own namespace are told, and
// nothing of others.
func (c *Cluster) checkSecure(t *testing.T, istiod Pod, proxies []xds.Proxy) {
	t.Helper()
	var root struct{ Data map[string]string }
	if err := c.Get(t.Context(), &root, "configmap/istio-ca-root-cert", "--namespace=routes"); err != nil {
		t.Fatal(err)
	}
	token, err := c.Token(t.Context(), "routes", "default", "istio-ca", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := xds.Settings{Address: c.forward(t, istiod.IP.String()+":15012"), RootFile: filepath.Join(dir, "root"), TokenFile: filepath.Join(dir, "token"), ServerName: "istiod.istio-system.svc"}
	for name, text := range map[string]string{s.RootFile: root.Data["root-cert.pem"], s.TokenFile: token} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, s.Security = range []string{xds.Token, xds.MTLS} {
		client := c.followProxies(t, s)
		client.Follow(proxies)
		err := await.Until(ctxWithin(t, soon), func() bool {
			told, refused := 0, 0
			for _, p := range client.Proxies() {
				switch {
				case p.Pod.Namespace == "routes" && p.Resources > 10:
					told++
				case p.Pod.Namespace != "routes" && strings.Contains(p.Problem, "authorization failed: no identities"):
					refused++
				}
			}
			return told == len(proxies)-1 && refused == 1
		})
		if err != nil {
			t.Errorf("%s: %v: %+v", s.Security, err, client.Proxies())
		}
	}
}

// forward is an address of this machine at which the first node's connections to another are made, until the test ends.
func (c *Cluster) forward(t *testing.T, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := c.dialNode(1)(context.Background(), "tcp", address)
			if err != nil {
				_ = from.Close()
				continue
			}
			running.Go(func() { _, _ = io.Copy(to, from); _ = to.Close() })
			running.Go(func() { _, _ = io.Copy(from, to); _ = from.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close() }) // connections end with who made them
	return l.Addr().String()
}

// awaitRoutes waits until the proxies and the client know the rules.
func (c *Cluster) awaitRoutes(t *testing.T, client *xds.Client, pods []Pod) {
	t.Helper()
	gateway := c.GatewayClient()
	defer gateway.CloseIdleConnections()
	var last string
	err := await.Until(ctxWithin(t, 2*soon), func() bool {
		last = fmt.Sprintf("%+v", client.Proxies())
		for _, p := range pods {
			if client.Config(xds.Pod{Namespace: p.Namespace, Name: p.Name}).Len() < 10 {
				return false
			}
		}
		a := client.Config(podOf(pods, "front")).Lookup(toBack("/exact"))
		last += fmt.Sprintf(" %+v", a)
		return a.Route != nil && a.Route.Name == "exact" && c.ask(gateway, c.GatewayURL()+"/direct", "routes.example", "GET", nil) == http.StatusOK
	})
	if err != nil {
		t.Fatalf("wait for the rules: %v: %s", err, last)
	}
}

// podOf is the only pod of an app.
func podOf(pods []Pod, app string) xds.Pod {
	p := pods[slices.IndexFunc(pods, func(p Pod) bool { return p.Labels["app"] == app })]
	return xds.Pod{Namespace: p.Namespace, Name: p.Name}
}

// toBack is a request of the front's.
func toBack(path string) *proxy.Request {
	return &proxy.Request{Local: addr("10.96.0.99:80").AddrPort, Protocol: "http/1.1", Authority: "back.routes.svc.cluster.local", Method: "GET", Path: path,
		Header: func(string) (string, proxy.Presence) { return "", proxy.Absent }}
}

// checkPolicies compares what is said of requests to what the rules above say.
func checkPolicies(t *testing.T, front *proxy.Config) {
	t.Helper()
	retry := &proxy.Retry{On: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", Most: 2} // Istio's default
	mirror := []proxy.Mirror{{Cluster: "outbound|80|v2|back.routes.svc.cluster.local", Share: 1}}
	for path, want := range map[string]*proxy.Policy{
		"/exact":    {Timeout: 2 * time.Second, Retry: retry},
		"/prefix/a": {Retry: &proxy.Retry{On: "5xx", Most: 3, PerTry: time.Second}},
		"/abort":    {Retry: retry, Fault: &proxy.Fault{Abort: 418, AbortShare: 1}},
		"/half":     {Retry: retry, Fault: &proxy.Fault{Abort: 418, AbortShare: 0.5}},
		"/mirror":   {Retry: retry, Mirrors: mirror},
		"/redirect": {Local: "redirect"},
		"/direct":   {Local: "response"},
	} {
		a := front.Lookup(toBack(path))
		if a.Route == nil || a.Route.Resource != (proxy.Resource{Kind: "VirtualService", Namespace: "routes", Name: "back-routes"}) {
			t.Errorf("%s: %+v", path, a)
			continue
		}
		if d := cmp.Diff(want, a.Route.Policy); d != "" {
			t.Errorf("%s: %s", path, d)
		}
		if a.Cluster != nil && a.Cluster.Resource != (proxy.Resource{Kind: "DestinationRule", Namespace: "routes", Name: "back-subsets"}) {
			t.Errorf("%s: %+v", path, a.Cluster)
		}
	}
}

// ask sends a request and returns the answer's status; 0: none.
func (c *Cluster) ask(client *http.Client, url, host, method string, header map[string]string) int {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return 0
	}
	req.Host = host
	for k, v := range header {
		req.Header.Set(k, v)
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// sendVaried sends requests of all kinds, through the gateway and from the front's own pod, and returns how many.
func (c *Cluster) sendVaried(t *testing.T, pods []Pod) (sent int) {
	t.Helper()
	var service struct{ Spec struct{ ClusterIP string } }
	if err := c.Get(t.Context(), &service, "service/back", "--namespace=routes"); err != nil {
		t.Fatal(err)
	}
	paths := []string{"/exact", "/exact?q=2", "/exact/", "/always-v2", "/hidden/a", "/without", "/prefix/a", "/prefix", "/prefixed", "/re12/x", "/re12/xy", "/rex/x", "/case/1", "/CASE/2", "/?q=1", "/?a=1&q=1",
		"/?q=2", "/abort", "/half", "/redirect", "/direct", "/mirror", "/", "/other/one"}
	headers := []map[string]string{nil, {"x-truth-id": "v2-1"}, {"x-truth-id": "not"}, {"x-shown": "1"}, {"x-truth-id": "other"}}
	front := pods[slices.IndexFunc(pods, func(p Pod) bool { return p.Labels["app"] == "front" })]
	outside, inside := c.GatewayClient(), front.Client()
	defer outside.CloseIdleConnections()
	defer inside.CloseIdleConnections()
	for round := range 3 {
		for _, path := range paths {
			for i, header := range headers {
				for _, host := range []string{"routes.example", "a.routes.example:30080", "back.routes.example"} {
					u, _ := url.Parse(c.GatewayURL() + path)
					c.ask(outside, u.String(), host, []string{"GET", "POST"}[(round+i)%2], header)
					sent++
				}
				for _, host := range []string{"back.routes.svc.cluster.local", "back", "BACK.routes.svc:80", service.Spec.ClusterIP} {
					c.ask(inside, "http://"+service.Spec.ClusterIP+path, host, []string{"GET", "POST", "PUT"}[(round+i)%3], header)
					sent++
				}
			}
		}
		c.ask(inside, "http://"+service.Spec.ClusterIP+"/", "nowhere.example", "GET", nil)
		c.ask(outside, c.GatewayURL()+"/a", "nowhere.else", "GET", nil)
		sent += 2
	}
	for _, path := range lastPaths { // by both versions
		c.ask(outside, c.GatewayURL()+path, "routes.example", "GET", nil)
		sent++
	}
	return sent
}

// lastPaths are of the last requests: a proxy that has logged one has logged all before it.
var lastPaths = []string{"/exact?last", "/prefix/last"}

// compare looks up each line of the access logs.
func (c *Cluster) compare(t *testing.T, client *xds.Client, pods []Pod, begun time.Time, sent int) {
	t.Helper()
	err := await.Until(ctxWithin(t, soon), func() bool { // Envoy writes within a second
		return !slices.ContainsFunc(pods, func(p Pod) bool {
			return len(lines(t, p, func(a Access) bool { return a.Start.After(begun) && slices.Contains(lastPaths, a.Path) })) == 0
		})
	})
	if err != nil {
		t.Errorf("wait for the proxies' access logs: %v", err)
	}
	scores, why := map[string]*tally{}, map[string]int{}
	shown := 0
	for _, p := range pods {
		config := client.Config(xds.Pod{Namespace: p.Namespace, Name: p.Name})
		for _, a := range lines(t, p, func(a Access) bool { return a.Start.After(begun) && a.Path != "/ready?call=" && a.Method != "" }) {
			direction, name := directionOf(p, a)
			answer := config.Lookup(requestOf(a, direction))
			if scores[name] == nil {
				scores[name] = &tally{}
			}
			if wrong := scores[name].add(a, answer); wrong && shown < 20 {
				shown++
				t.Errorf("%s: %+v\nsaid %+v %+v %s", name, a, answer.Route, answer.Cluster, answer.Why)
			}
			why[name+" "+string(answer.Why)]++
		}
	}
	for name, s := range scores {
		t.Logf("%s: routes: %s; clusters: %s", name, s.routes.String(), s.clusters.String())
		if least := 0.5; float64(s.routes.Said) < least*float64(s.routes.Lines) {
			t.Errorf("%s: too little is said", name)
		}
	}
	t.Logf("%d requests sent; reasons: %v", sent, why)
	if len(scores) != 3 {
		t.Errorf("%d kinds of proxies have lines", len(scores))
	}
}

func directionOf(p Pod, a Access) (proxy.Direction, string) {
	switch {
	case p.Namespace == GatewayNamespace:
		return proxy.Gateway, "gateway"
	case a.DownstreamLocal.Addr() == p.IP:
		return proxy.Inbound, "inbound"
	}
	return proxy.Outbound, "outbound"
}

// requestOf is what a line says of a request that the client sent.
func requestOf(a Access, d proxy.Direction) *proxy.Request {
	return &proxy.Request{
		Direction: d, Local: a.DownstreamLocal.AddrPort, TLS: a.DownstreamTLS != "" && a.DownstreamTLS != "-", Protocol: strings.ToLower(a.Protocol),
		Authority: a.Authority, Method: a.Method, Path: a.Path, Upstream: a.UpstreamHost.AddrPort,
		Header: func(name string) (string, proxy.Presence) {
			switch {
			case name != "x-truth-id":
				return "", proxy.Unknown
			case a.TruthID == "" || a.TruthID == "-":
				return "", proxy.Absent
			}
			return a.TruthID, proxy.Present
		},
	}
}

// tally counts for a kind of proxy what is said of routes and of clusters.
type tally struct{ routes, clusters Score }

// add counts a line, and says whether the answer to it is wrong.
func (y *tally) add(a Access, answer proxy.Answer) (wrong bool) {
	if answer.Route != nil {
		wrong = y.routes.Add(answer.Route.Name, a.Route)
	} else {
		y.routes.Lines++
	}
	if answer.Cluster != nil {
		return y.clusters.Add(answer.Cluster.Name, a.Cluster) || wrong
	}
	y.clusters.Lines++
	return wrong
}
