package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	typeapi "istio.io/api/type/v1beta1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/meshwatch/meshwatch/topology"
)

func contextOf(tb testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(tb.Context())
}

func aPod(name string, ips ...string) *core.Pod {
	p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: "uid-1", Labels: map[string]string{"app": "shop"}}}
	p.Spec.NodeName, p.Spec.ServiceAccountName, p.Status.Phase = "n1", "default", core.PodRunning
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, core.PodIP{IP: ip})
	}
	return p
}

func aNode(name, zone, ip string) *core.Node {
	return &core.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{core.LabelTopologyRegion: "r1", core.LabelTopologyZone: zone}},
		Status:     core.NodeStatus{Addresses: []core.NodeAddress{{Type: core.NodeInternalIP, Address: ip}}},
	}
}

func ptr[T any](v T) *T { return &v }

func aSlice(name, service string, endpoints ...discovery.Endpoint) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "demo", Name: name, Labels: map[string]string{discovery.LabelServiceName: service}},
		AddressType: discovery.AddressTypeIPv4, Endpoints: endpoints, Ports: []discovery.EndpointPort{{Port: ptr(int32(80))}},
	}
}

func ofPod(pod, node, addr string) discovery.Endpoint {
	return discovery.Endpoint{Addresses: []string{addr}, NodeName: &node, Zone: ptr("z2"), TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: "demo", Name: pod}}
}

// entry is the one of a name now.
func (f *follower) entry(name string) *topology.Entry {
	for _, e := range f.Builder.Store(f.now.Load()).Entries() {
		if e.Workload.Name == name {
			return e
		}
	}
	return nil
}

func TestPods(t *testing.T) {
	s := newServer(t)
	s.set(nodesPath, aNode("n1", "z1", "192.0.2.1"))
	p := aPod("shop-1", "10.0.0.1", "fd00::1")
	p.Annotations = map[string]string{"resource.opentelemetry.io/service.name": "the-shop", "traffic.sidecar.istio.io/excludeInboundPorts": "9090"}
	p.Labels[canonicalRevision] = "v3"
	p.Spec.Containers = []core.Container{{Ports: []core.ContainerPort{{ContainerPort: 8080}}}}
	s.set(podsPath, p)
	on := aPod("agent", "192.0.2.1")
	on.Spec.HostNetwork = true
	on.Spec.Containers = []core.Container{{Ports: []core.ContainerPort{{ContainerPort: 80}}}}
	s.set(podsPath, on)
	s.set(slicesPath, aSlice("shop-a", "shop", ofPod("shop-1", "n1", "10.0.0.1")))
	f := follow(t, s)
	f.await("ready", func() bool { return f.Status().Ready })
	f.is("10.0.0.1", "shop-1")
	f.is("fd00::1", "shop-1")
	f.is("192.0.2.1", "agent")
	want := topology.Entry{
		Workload: topology.Workload{
			Name: "shop-1", Namespace: "demo", Kind: "Pod", UID: "uid-1", Service: "the-shop", Node: "n1", Revision: "v3", Account: "default",
			Cluster: "Kubernetes", Region: "r1", Zone: "z1",
		},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Ports: []uint16{80, 8080},
		Services: []string{"demo/shop.demo.svc.cluster.local"}, Excludes: map[string]string{"excludeInboundPorts": "9090"}, Labels: p.Labels,
	}
	f.await("services", func() bool { e := f.entry("shop-1"); return e != nil && len(e.Services) == 1 })
	if diff := cmp.Diff(&want, f.entry("shop-1"), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Error(diff)
	}
	bare := aPod("bare", "10.0.0.3")
	bare.Labels = nil
	s.set(podsPath, bare)
	f.is("10.0.0.3", "bare")
	if e := f.entry("bare"); e.Labels == nil {
		t.Error("that a pod has no labels is not known")
	}
	s.mu.Lock()
	if q := s.queries[podsPath]; !strings.Contains(q, "fieldSelector=spec.nodeName%3Dn1") {
		t.Errorf("pods are asked for by %s", q)
	}
	s.mu.Unlock()
	p.Status.Phase = core.PodSucceeded
	s.set(podsPath, p)
	f.is("10.0.0.1", "")
	s.remove(podsPath, "demo/agent")
	f.is("192.0.2.1", "")
}

// Pods of other nodes are known by slices; of this node's only pods count, as slices are late.
func TestEndpoints(t *testing.T) {
	s := newServer(t)
	s.set(slicesPath, aSlice("shop-a", "shop", ofPod("shop-1", "n2", "10.0.2.1"), ofPod("old", "n1", "10.0.0.9"), ofPod("host", "n2", "192.0.2.2")))
	s.set(slicesPath, aSlice("shop-6", "shop", discovery.Endpoint{Addresses: []string{"fd00::21"}, NodeName: ptr("n2"), TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: "demo", Name: "shop-1"}}))
	s.set(slicesPath, aSlice("db-x", "db", discovery.Endpoint{Addresses: []string{"198.51.100.7"}}))
	s.set(servicesPath, &core.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "shop"},
		Spec:       core.ServiceSpec{ClusterIPs: []string{"10.96.0.1", "fd00:96::1"}, Ports: []core.ServicePort{{Port: 80}}},
	})
	s.set(servicesPath, &core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "headless"}, Spec: core.ServiceSpec{ClusterIPs: []string{"None"}}})
	f := follow(t, s)
	f.await("ready", func() bool { return f.Status().Ready })
	f.is("10.0.2.1", "shop-1")
	f.is("fd00::21", "shop-1")
	f.is("198.51.100.7", "db")
	f.is("10.0.0.9", "")
	s.set(nodesPath, aNode("n2", "z2", "192.0.2.2")) // the node comes after what is on it
	f.await("shared address", func() bool { e := f.entry("host"); return e != nil && e.Shared })
	if w := f.entry("shop-1").Workload; w.Service != "shop" || w.Zone != "z2" || w.Region != "r1" || w.Node != "n2" {
		t.Errorf("%+v", w)
	}
	store := f.Builder.Store(f.now.Load())
	for _, vip := range []string{"10.96.0.1", "fd00:96::1"} {
		if got := store.ServicesAt(netip.MustParseAddr(vip)); len(got) != 1 || got[0].Host != "shop.demo.svc.cluster.local" || got[0].Ports[0] != (topology.Port{Service: 80, Target: 80}) {
			t.Errorf("%s: %+v", vip, got)
		}
	}
	if n := len(store.Services()); n != 2 {
		t.Errorf("%d services", n)
	}
	s.set(slicesPath, aSlice("shop-a", "shop"))
	f.is("10.0.2.1", "")
	f.is("fd00::21", "shop-1")
	s.remove(slicesPath, "demo/shop-6")
	f.is("fd00::21", "")
	if len(f.parts) != 0 {
		t.Errorf("%v", f.parts)
	}
	if f.lost(LostBad) != 0 {
		t.Error("something bad was said")
	}
}

func TestResources(t *testing.T) {
	s := newServer(t)
	s.set(istioPath+"virtualservices", &networking.VirtualService{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "shop"},
		Spec: api.VirtualService{Hosts: []string{"shop"}, Gateways: []string{"mesh"}, Http: []*api.HTTPRoute{{
			Name: "slow", Timeout: durationpb.New(3 * time.Second), Retries: &api.HTTPRetry{Attempts: 2, PerTryTimeout: durationpb.New(time.Second), RetryOn: "5xx"},
			Match: []*api.HTTPMatchRequest{{Uri: &api.StringMatch{MatchType: &api.StringMatch_Prefix{Prefix: "/slow"}}}},
			Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: "shop", Subset: "v1"}}},
			Fault: &api.HTTPFaultInjection{
				Delay: &api.HTTPFaultInjection_Delay{HttpDelayType: &api.HTTPFaultInjection_Delay_FixedDelay{FixedDelay: durationpb.New(time.Second)}, Percentage: &api.Percent{Value: 50}},
				Abort: &api.HTTPFaultInjection_Abort{ErrorType: &api.HTTPFaultInjection_Abort_HttpStatus{HttpStatus: 503}, Percentage: &api.Percent{Value: 1}},
			},
		}}},
	})
	s.set("/apis/security.istio.io/v1/peerauthentications", &security.PeerAuthentication{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "default"},
		Spec:       securityapi.PeerAuthentication{Mtls: &securityapi.PeerAuthentication_MutualTLS{Mode: securityapi.PeerAuthentication_MutualTLS_STRICT}},
	})
	s.set(istioPath+"serviceentries", &networking.ServiceEntry{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "outside"},
		Spec: api.ServiceEntry{
			Hosts: []string{"outside.example"}, Addresses: []string{"240.0.0.9"}, Resolution: api.ServiceEntry_STATIC,
			Ports: []*api.ServicePort{{Number: 80, TargetPort: 8080}}, Endpoints: []*api.WorkloadEntry{{Address: "198.51.100.1", Locality: "r2/z9"}, {Address: "name.example"}},
		},
	})
	s.set(istioPath+"workloadentries", &networking.WorkloadEntry{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "vm-1"},
		Spec:       api.WorkloadEntry{Address: "198.51.100.2", Labels: map[string]string{"app": "vm"}, ServiceAccount: "vm"},
	})
	s.answer(gatewayPath+"httproutes", http.StatusNotFound)
	f := follow(t, s)
	f.await("ready", func() bool { return f.Status().Ready })
	if st := f.Status(); !st.Connected || len(st.Absent) != 1 || st.Absent[0] != "httproutes.gateway.networking.k8s.io" || st.Problem != "" {
		t.Errorf("%+v", st)
	}
	f.is("198.51.100.1", "outside")
	f.is("198.51.100.2", "vm-1")
	if w := f.entry("vm-1").Workload; w.Service != "vm" || w.Kind != "WorkloadEntry" || w.Account != "vm" {
		t.Errorf("%+v", w)
	}
	if w := f.entry("outside").Workload; w.Region != "r2" || w.Zone != "z9" {
		t.Errorf("%+v", w)
	}
	store := f.Builder.Store(0)
	if got := store.ServicesAt(netip.MustParseAddr("240.0.0.9")); len(got) != 1 || got[0].Host != "outside.example" || got[0].Ports[0] != (topology.Port{Service: 80, Target: 8080}) {
		t.Errorf("%+v", got)
	}
	want := []topology.Route{{
		Name: "slow", Match: []string{"path /slow*"}, Timeout: 3 * time.Second, Attempts: 2, TryTimeout: time.Second, RetryOn: "5xx",
		Destinations: []topology.Destination{{Host: "shop", Subset: "v1"}}, Delay: time.Second, DelayShare: 0.5, Abort: "503", AbortShare: 0.01,
	}}
	if diff := cmp.Diff(want, store.Resource(topology.Ref{Kind: "VirtualService", Namespace: "demo", Name: "shop"}).Routes); diff != "" {
		t.Error(diff)
	}
	if r := store.Resource(topology.Ref{Kind: "PeerAuthentication", Namespace: "demo", Name: "default"}); r.TLS != "STRICT" {
		t.Errorf("%+v", r)
	}
	route := gatewayAPI("HTTPRoute", "r", map[string]any{
		"hostnames": []any{"shop.example"}, "parentRefs": []any{map[string]any{"name": "gw"}},
		"rules": []any{map[string]any{
			"timeouts": map[string]any{"request": "2s"}, "matches": []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/a"}}},
			"backendRefs": []any{map[string]any{"name": "shop", "port": int64(80)}},
		}},
	})
	s.answer(gatewayPath+"httproutes", 0) // the CRD is installed
	s.set(gatewayPath+"httproutes", route)
	ref := topology.Ref{Kind: "HTTPRoute", Namespace: "demo", Name: "r"}
	f.await("HTTPRoute", func() bool { return f.Builder.Store(0).Resource(ref) != nil })
	want = []topology.Route{{Match: []string{"path /a*"}, Timeout: 2 * time.Second, Destinations: []topology.Destination{{Host: "shop", Port: 80, Weight: 1}}}}
	if r := f.Builder.Store(0).Resource(ref); cmp.Diff(want, r.Routes) != "" || r.Gateways[0] != "gw" || r.Hosts[0] != "shop.example" {
		t.Errorf("%+v", r)
	}
	s.remove(gatewayPath+"httproutes", "demo/r")
	f.await("no HTTPRoute", func() bool { return f.Builder.Store(0).Resource(ref) == nil })
	if len(f.Status().Absent) != 0 {
		t.Errorf("%+v", f.Status())
	}
}

// gatewayAPI is an object of the Gateway API.
func gatewayAPI(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": map[string]any{"namespace": "demo", "name": name}, "spec": spec,
	}}
}

// What is kept of each resource of Istio and of the Gateway API.
func TestKept(t *testing.T) {
	s := newServer(t)
	meta := metav1.ObjectMeta{Namespace: "demo", Name: "x"}
	labels := map[string]string{"app": "shop"}
	s.set(istioPath+"destinationrules", &networking.DestinationRule{ObjectMeta: meta, Spec: api.DestinationRule{
		Host: "shop", Subsets: []*api.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}}}, TrafficPolicy: &api.TrafficPolicy{
			Tls: &api.ClientTLSSettings{Mode: api.ClientTLSSettings_ISTIO_MUTUAL}, OutlierDetection: &api.OutlierDetection{},
			ConnectionPool: &api.ConnectionPoolSettings{Tcp: &api.ConnectionPoolSettings_TCPSettings{ConnectTimeout: durationpb.New(5 * time.Second)}},
		},
	}})
	s.set(istioPath+"gateways", &networking.Gateway{ObjectMeta: meta, Spec: api.Gateway{
		Selector: labels, Servers: []*api.Server{{Hosts: []string{"shop.example"}, Port: &api.Port{Number: 443, Name: "tls", Protocol: "HTTPS"}}},
	}})
	s.set(istioPath+"sidecars", &networking.Sidecar{ObjectMeta: meta, Spec: api.Sidecar{
		WorkloadSelector: &api.WorkloadSelector{Labels: labels}, Egress: []*api.IstioEgressListener{{Hosts: []string{"./*", "istio-system/*"}}},
		OutboundTrafficPolicy: &api.OutboundTrafficPolicy{Mode: api.OutboundTrafficPolicy_REGISTRY_ONLY},
	}})
	s.set("/apis/security.istio.io/v1/peerauthentications", &security.PeerAuthentication{ObjectMeta: meta, Spec: securityapi.PeerAuthentication{
		Selector: &typeapi.WorkloadSelector{MatchLabels: labels}, PortLevelMtls: map[uint32]*securityapi.PeerAuthentication_MutualTLS{9090: {Mode: securityapi.PeerAuthentication_MutualTLS_DISABLE}},
	}})
	s.set("/apis/telemetry.istio.io/v1/telemetries", &telemetry.Telemetry{ObjectMeta: meta, Spec: telemetryapi.Telemetry{
		Selector: &typeapi.WorkloadSelector{MatchLabels: labels}, AccessLogging: []*telemetryapi.AccessLogging{{}}, Metrics: []*telemetryapi.Metrics{{}},
		Tracing: []*telemetryapi.Tracing{{RandomSamplingPercentage: wrapperspb.Double(1.5), DisableSpanReporting: wrapperspb.Bool(true)}},
	}})
	s.set(gatewayPath+"gateways", gatewayAPI("Gateway", "x", map[string]any{
		"gatewayClassName": "istio", "listeners": []any{map[string]any{"name": "http", "hostname": "*.example", "port": int64(80), "protocol": "HTTP"}},
	}))
	s.set(gatewayPath+"grpcroutes", gatewayAPI("GRPCRoute", "x", map[string]any{
		"parentRefs": []any{map[string]any{"kind": "Service", "name": "shop", "namespace": "other"}},
		"rules": []any{map[string]any{
			"matches":     []any{map[string]any{"method": map[string]any{"service": "shop.Cart", "method": "Add"}}, map[string]any{"method": map[string]any{"service": "shop.Cart"}}},
			"backendRefs": []any{map[string]any{"name": "a", "port": int64(80), "weight": int64(9)}, map[string]any{"name": "b", "namespace": "far", "port": int64(80), "weight": int64(1)}},
			"filters":     []any{map[string]any{"type": "RequestMirror"}},
		}},
	}))
	f := follow(t, s)
	f.await("all", func() bool { return f.Status().Ready && len(f.Builder.Store(0).Resources()) == 7 })
	got := f.Builder.Store(0)
	for _, want := range []topology.Resource{
		{Ref: topology.Ref{Kind: "DestinationRule"}, Hosts: []string{"shop"}, Subsets: []topology.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}}}, TLS: "ISTIO_MUTUAL", Detail: "connect timeout 5s, outlier detection"},
		{Ref: topology.Ref{Kind: "Gateway"}, Hosts: []string{"shop.example"}, Selector: labels, Ports: []uint16{443}},
		{Ref: topology.Ref{Kind: "Sidecar"}, Hosts: []string{"./*", "istio-system/*"}, Selector: labels, Detail: "outbound REGISTRY_ONLY"},
		{Ref: topology.Ref{Kind: "PeerAuthentication"}, Selector: labels, TLS: "UNSET", PortTLS: map[uint16]string{9090: "DISABLE"}},
		{Ref: topology.Ref{Kind: "Telemetry"}, Selector: labels, Detail: "samples 1.5 %, no spans, access log, metrics"},
		{Ref: topology.Ref{Kind: topology.KubernetesGateway}, Hosts: []string{"*.example"}, Ports: []uint16{80}, Detail: "class istio"},
		{Ref: topology.Ref{Kind: topology.GRPCRoute}, Gateways: []string{"Service other/shop"}, Routes: []topology.Route{{
			Match: []string{"method shop.Cart/Add", "method shop.Cart"}, Detail: "RequestMirror",
			Destinations: []topology.Destination{{Host: "a", Port: 80, Weight: 9}, {Host: "far/b", Port: 80, Weight: 1}},
		}}},
	} {
		want.Namespace, want.Name = "demo", "x"
		if diff := cmp.Diff(&want, got.Resource(want.Ref)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", want.Kind, diff)
		}
	}
}

// What makes no sense in an object is counted, and the rest of it taken.
func TestBadValues(t *testing.T) {
	s := newServer(t)
	s.set(podsPath, aPod("a", "10.0.0.1", "none"))
	s.set(slicesPath, aSlice("s", "shop", ofPod("b", "n2", "10.0.2.1"), ofPod("c", "n2", "10.0.2")))
	s.set(servicesPath, &core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "shop"}, Spec: core.ServiceSpec{ClusterIPs: []string{"10.96.0.1", "10.96"}}})
	f := follow(t, s)
	f.await("ready", func() bool { return f.Status().Ready })
	f.is("10.0.0.1", "a")
	f.is("10.0.2.1", "b")
	if n, vip := f.lost(LostBad), f.Builder.Store(0).ServicesAt(netip.MustParseAddr("10.96.0.1")); n != 3 || len(vip) != 1 {
		t.Errorf("%d bad values, want 3; %v", n, vip)
	}
}

// What the service account may not read is said in a sentence; the rest is followed.
func TestForbidden(t *testing.T) {
	s := newServer(t)
	s.answer(slicesPath, http.StatusForbidden)
	s.set(podsPath, aPod("shop-1", "10.0.0.1"))
	f := follow(t, s)
	f.is("10.0.0.1", "shop-1")
	f.await("sentence", func() bool { return f.Status().Ready })
	want := `the service account may not read endpointslices.discovery.k8s.io: its ClusterRole needs apiGroups: ["discovery.k8s.io"], resources: [endpointslices], verbs: [list, watch]`
	if st := f.Status(); !st.Connected || len(st.Missing) != 1 || st.Missing[0] != want || f.lost(LostForbidden) == 0 {
		t.Errorf("%+v", st)
	}
	s.answer(slicesPath, 0)
	f.await("reading it", func() bool { return len(f.Status().Missing) == 0 && f.Status().Ready })
}

// An API server that does not take the agent's token any more, as after its end, is away until it takes one: what it told stays.
func TestTokenRefused(t *testing.T) {
	s := newServer(t)
	s.set(podsPath, aPod("a", "10.0.0.1"))
	f := follow(t, s)
	f.await("ready", func() bool { return f.Status().Ready })
	s.answer(podsPath, http.StatusUnauthorized)
	s.away(true) // watches that are open end, too
	s.away(false)
	f.await("refused", func() bool {
		st := f.Status()
		return !st.Connected && strings.Contains(st.Problem, "nauthorized")
	})
	f.is("10.0.0.1", "a")
	s.set(podsPath, aPod("b", "10.0.0.2"))
	s.answer(podsPath, 0)
	f.await("back", func() bool { st := f.Status(); return st.Connected && st.Ready && st.Problem == "" })
	f.is("10.0.0.2", "b")
}

// charts/rbac.yaml lets a Client read what it follows, and nothing else.
func TestRole(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("..", "..", "charts", "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var role rbac.ClusterRole
	for part := range strings.SplitSeq(string(file), "\n---\n") {
		var is metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(part), &is); err != nil {
			t.Fatal(err)
		}
		if is.Kind == "ClusterRole" {
			if err := yaml.UnmarshalStrict([]byte(part), &role); err != nil {
				t.Fatal(err)
			}
		}
	}
	allowed, used := map[string]bool{}, map[string]bool{}
	for _, r := range role.Rules {
		if diff := cmp.Diff([]string{"list", "watch"}, r.Verbs); diff != "" || len(r.APIGroups) != 1 {
			t.Errorf("%+v: %s", r, diff)
		}
		for _, resource := range r.Resources {
			allowed[resource+"/"+r.APIGroups[0]] = true
		}
	}
	s := newServer(t)
	for _, k := range (&Client{}).kinds(s.clients(t)) {
		used[k.resource+"/"+k.group] = true
	}
	if diff := cmp.Diff(used, allowed); diff != "" {
		t.Errorf("(-used +allowed)\n%s", diff)
	}
}

// The API server goes and comes back: what it told stays, its age is said, what happened meanwhile is taken with the time that is known
// of it, and nothing is left over.
func TestAway(t *testing.T) {
	s := newServer(t)
	s.set(podsPath, aPod("a", "10.0.0.1"))
	f := follow(t, s)
	f.await("ready", func() bool { return f.Status().Ready })
	f.is("10.0.0.1", "a")
	settled := func() int {
		n := runtime.NumGoroutine()
		for range 40 {
			time.Sleep(5 * time.Millisecond)
			n = min(n, runtime.NumGoroutine())
		}
		return n
	}
	var before int // after a loss: a connection more or less is idle
	f.now.Store(200 * second)
	for i := range 3 {
		s.away(true)
		f.await("loss", func() bool { return !f.Status().Connected })
		if st := f.Status(); st.Problem == "" || st.Since.IsZero() || f.at("10.0.0.1", f.now.Load()) == "" {
			t.Errorf("%+v", st)
		}
		f.now.Add(100 * second)
		s.remove(podsPath, "demo/"+string(rune('a'+i)))
		s.set(podsPath, aPod(string(rune('b'+i)), "10.0.0.1"))
		s.away(false)
		f.await("connection", func() bool { st := f.Status(); return st.Connected && st.Ready })
		f.is("10.0.0.1", string(rune('b'+i)))
		if i < 2 {
			before = max(before, settled()) // some kinds may be watched again a little later
		}
	}
	// When b came is not known: between the last word before the loss and the list after it.
	if got := f.at("10.0.0.1", 150*second); got != "" && got != "a" {
		t.Errorf("at 150 s it was %q", got)
	}
	if got := f.at("10.0.0.1", 250*second); got != "" {
		t.Errorf("at 250 s it is sure to have been %q", got)
	}
	if f.lost(LostAway) == 0 {
		t.Error("the loss is not counted")
	}
	if after := settled(); after > before+5 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

// 1,000 times an address is another pod's, heard of up to Lateness late: no lookup of a moment is ever answered with the wrong pod.
func TestChurn(t *testing.T) {
	s := newServer(t)
	f := follow(t, s)
	f.await("ready", func() bool { return f.Status().Ready })
	const addresses = 8
	type life struct {
		name     string
		from, to uint64 // really had it
	}
	lives := map[string][]life{}
	now := 200 * second
	var wrong, right, unknown int
	for i := range 1000 {
		addr := fmt.Sprintf("10.0.0.%d", 1+i%addresses)
		name := fmt.Sprintf("p%d", i)
		if old := lives[addr]; len(old) > 0 {
			last := &old[len(old)-1]
			last.to = now
			now += second / 10
			f.now.Store(now + uint64(i%9)*second/2) // the word is late
			s.remove(podsPath, "demo/"+last.name)
			f.await("removal", func() bool { return !f.has(last.name) })
		}
		lives[addr] = append(lives[addr], life{name, now, ^uint64(0)})
		f.now.Store(now + uint64(i%17)*second/2)
		s.set(podsPath, aPod(name, addr))
		f.await("pod", func() bool { return f.has(name) })
		now = f.now.Load() + second
		f.now.Store(now)
		store := f.Builder.Store(now)
		for addr, all := range lives {
			for _, l := range all[max(0, len(all)-4):] {
				for _, at := range []uint64{l.from, l.from + second/20, (l.from + min(l.to, now)) / 2, min(l.to, now) - 1} {
					switch w, ok := store.Lookup(netip.AddrPortFrom(netip.MustParseAddr(addr), 80), at); {
					case !ok:
						unknown++
					case w.Name == l.name && at >= l.from && at < l.to:
						right++
					default:
						wrong++
					}
				}
			}
		}
	}
	t.Logf("1,000 reuses: %d lookups right, %d not answered, %d wrong", right, unknown, wrong)
	if wrong > 0 || right == 0 {
		t.Errorf("%d wrong, %d right", wrong, right)
	}
}

// has says whether a pod of this node is known.
func (f *follower) has(pod string) bool {
	f.Client.mu.Lock()
	defer f.Client.mu.Unlock()
	return f.pods[name{Namespace: "demo", Name: pod}] != nil
}

// With a control plane as well, a pod that both tell of is one.
func TestBesideControlPlane(t *testing.T) {
	s := newServer(t)
	s.set(podsPath, aPod("here", "10.0.0.1"))
	s.set(slicesPath, aSlice("shop-a", "shop", ofPod("here", "n1", "10.0.0.1"), ofPod("there", "n2", "10.0.2.1")))
	b := topology.NewBuilder("", 70*second)
	tell := func(pod, node, addr string, m topology.Moment) { // as topology/xds does
		b.Set("Kubernetes//Pod/demo/"+pod, topology.Entry{
			Workload:  topology.Workload{Name: pod, Namespace: "demo", Service: "canonical", Node: node, Account: "default", Network: "net-1"},
			Addresses: []netip.Addr{netip.MustParseAddr(addr)},
		}, m)
	}
	tell("here", "n1", "10.0.0.1", topology.Moment{})
	tell("there", "n2", "10.0.2.1", topology.Moment{})
	f := followWith(t, s.clients(t), b)
	f.await("ready", func() bool { return f.Status().Ready })
	f.is("10.0.0.1", "here")
	f.is("10.0.2.1", "there")
	if here, there := f.entry("here"), f.entry("there"); here.Workload.Service != "shop" || here.Workload.Network != "net-1" ||
		there.Workload.Service != "canonical" || there.Workload.Zone != "z2" || len(b.Store(0).Entries()) != 2 {
		t.Errorf("%+v %+v", here, there)
	}
	s.remove(podsPath, "demo/here")
	s.set(podsPath, aPod("next", "10.0.0.1"))
	f.is("10.0.0.1", "next") // though istiod has not heard
}
