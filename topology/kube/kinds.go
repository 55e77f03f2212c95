package kube

import (
	"context"
	_ "embed"
	"fmt"
	"sync/atomic"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	istio "istio.io/client-go/pkg/clientset/versioned"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/meshwatch/meshwatch/topology"
)

// Role is a ClusterRole with exactly what a Client needs: to list and watch what kinds names. A test compares the two.
//
//go:embed clusterrole.yaml
var Role []byte

// Clients are the ways to an API server. Connect makes them.
type Clients struct {
	Kubernetes kubernetes.Interface
	Istio      istio.Interface
	Dynamic    dynamic.Interface

	failure *atomic.Pointer[error] // of the latest request
}

// kind is a resource that is followed.
type kind struct {
	group, resource string
	object          runtime.Object // of its type
	from            any            // the client
	list            func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch           func(context.Context, metav1.ListOptions) (watch.Interface, error)
	fields          string // selector, empty: all
	// keep is what is kept of an object, nil: nothing.
	keep func(runtime.Object) any
	// changed takes what is kept of an object, nil: it came, or is gone. It is called with the Client's lock.
	changed func(n name, before, now any, m topology.Moment)
}

func (k *kind) selects(o *metav1.ListOptions) { o.FieldSelector = k.fields }

// id is how kubectl names the resource: pods, gateways.networking.istio.io.
func (k *kind) id() string {
	if k.group == "" {
		return k.resource
	}
	return k.resource + "." + k.group
}

// missing says which rule the service account lacks.
func (k *kind) missing() string {
	return fmt.Sprintf(`the service account may not read %s: its ClusterRole needs apiGroups: [%q], resources: [%s], verbs: [list, watch]`, k.id(), k.group, k.resource)
}

// lister is what every typed client has for a resource.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// of is the kind of a typed client's resource.
func of[O, L runtime.Object](group, resource string, object O, from any, l lister[L], keep func(O) any, changed func(n name, before, now any, m topology.Moment)) kind {
	return kind{
		group: group, resource: resource, object: object, from: from, watch: l.Watch, changed: changed,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return l.List(ctx, o) },
		keep: func(o runtime.Object) any {
			if o, ok := o.(O); ok {
				return keep(o)
			}
			return nil
		},
	}
}

// The groups of what is not Kubernetes' own.
const (
	networkingGroup = "networking.istio.io"
	securityGroup   = "security.istio.io"
	telemetryGroup  = "telemetry.istio.io"
	gatewayGroup    = "gateway.networking.k8s.io"
)

// kinds are all resources that are followed.
func (c *Client) kinds(clients Clients) []kind {
	const all = ""
	k, i := clients.Kubernetes, clients.Istio
	v1, net := k.CoreV1(), i.NetworkingV1()
	pods := of("", "pods", &core.Pod{}, k, v1.Pods(all), c.keepPod, c.podChanged)
	pods.fields = "spec.nodeName=" + c.Node
	return []kind{
		of("", "nodes", &core.Node{}, k, v1.Nodes(), c.keepNode, c.nodeChanged),
		pods,
		of("", "services", &core.Service{}, k, v1.Services(all), c.keepService, c.serviceChanged),
		of("discovery.k8s.io", "endpointslices", &discovery.EndpointSlice{}, k, k.DiscoveryV1().EndpointSlices(all), c.keepSlice, c.sliceChanged),
		of(networkingGroup, "serviceentries", &networking.ServiceEntry{}, i, net.ServiceEntries(all), c.keepServiceEntry, c.serviceEntryChanged),
		of(networkingGroup, "workloadentries", &networking.WorkloadEntry{}, i, net.WorkloadEntries(all), c.keepWorkloadEntry, c.workloadEntryChanged),
		of(networkingGroup, "virtualservices", &networking.VirtualService{}, i, net.VirtualServices(all), keepVirtualService, c.resourceChanged("VirtualService")),
		of(networkingGroup, "destinationrules", &networking.DestinationRule{}, i, net.DestinationRules(all), keepDestinationRule, c.resourceChanged("DestinationRule")),
		of(networkingGroup, "gateways", &networking.Gateway{}, i, net.Gateways(all), keepGateway, c.resourceChanged("Gateway")),
		of(networkingGroup, "sidecars", &networking.Sidecar{}, i, net.Sidecars(all), keepSidecar, c.resourceChanged("Sidecar")),
		of(securityGroup, "peerauthentications", &security.PeerAuthentication{}, i, i.SecurityV1().PeerAuthentications(all), keepPeerAuthentication, c.resourceChanged("PeerAuthentication")),
		of(telemetryGroup, "telemetries", &telemetry.Telemetry{}, i, i.TelemetryV1().Telemetries(all), keepTelemetry, c.resourceChanged("Telemetry")),
		c.dynamic(clients.Dynamic, "httproutes", "HTTPRoute", "HTTPRoute", keepHTTPRoute),
		c.dynamic(clients.Dynamic, "gateways", "Gateway", topology.KubernetesGateway, keepKubernetesGateway),
	}
}

// dynamic is a resource of the Gateway API, whose own client would be a module for two kinds.
func (c *Client) dynamic(client dynamic.Interface, resource, kindName, as string, keep func(*unstructured.Unstructured) any) kind {
	version := schema.GroupVersion{Group: gatewayGroup, Version: "v1"}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(version.WithKind(kindName))
	l := client.Resource(version.WithResource(resource))
	return of(gatewayGroup, resource, object, client, l, keep, c.resourceChanged(as))
}

// resourceChanged puts resources of a kind into the Builder.
func (c *Client) resourceChanged(as string) func(name, any, any, topology.Moment) {
	return func(n name, _, now any, _ topology.Moment) {
		ref := topology.Ref{Kind: as, Namespace: n.Namespace, Name: n.Name}
		r, ok := now.(topology.Resource)
		if !ok {
			c.Builder.RemoveResource(ref)
			return
		}
		r.Ref = ref
		c.Builder.SetResource(r)
	}
}
