package kube

import (
	"context"
	"fmt"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/meshwatch/meshwatch/topology"
)

// kind is a resource that is followed.
type kind struct {
	group, resource string
	object          runtime.Object // of its type
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

// resource is a kind of typed objects.
func resource[O runtime.Object](client *client, of string, object O, list func() runtime.Object, keep func(O) any, changed func(n name, before, now any, m topology.Moment)) kind {
	return kind{
		group: client.group, resource: of, object: object, changed: changed,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			into := list()
			return into, client.Get().Resource(of).VersionedParams(&o, client.params).Do(ctx).Into(into)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return client.Get().Resource(of).VersionedParams(&o, client.params).Watch(ctx)
		},
		keep: func(o runtime.Object) any {
			if o, ok := o.(O); ok {
				return keep(o)
			}
			return nil
		},
	}
}

// list makes an empty L.
func list[L any, P interface {
	*L
	runtime.Object
}]() runtime.Object {
	return P(new(L))
}

// The groups of what is not Kubernetes' own.
const (
	discoveryGroup  = "discovery.k8s.io"
	networkingGroup = "networking.istio.io"
	securityGroup   = "security.istio.io"
	telemetryGroup  = "telemetry.istio.io"
	gatewayGroup    = "gateway.networking.k8s.io"
)

// kinds are all resources that are followed. charts/rbac.yaml lets the agent list and watch them; a test compares the two.
func (c *Client) kinds(k Clients) []kind {
	pods := resource(k.core, "pods", &core.Pod{}, list[core.PodList], c.keepPod, c.podChanged)
	pods.fields = "spec.nodeName=" + c.Node
	return []kind{
		resource(k.core, "nodes", &core.Node{}, list[core.NodeList], c.keepNode, c.nodeChanged),
		pods,
		resource(k.core, "services", &core.Service{}, list[core.ServiceList], c.keepService, c.serviceChanged),
		resource(k.discovery, "endpointslices", &discovery.EndpointSlice{}, list[discovery.EndpointSliceList], c.keepSlice, c.sliceChanged),
		resource(k.networking, "serviceentries", &networking.ServiceEntry{}, list[networking.ServiceEntryList], c.keepServiceEntry, c.serviceEntryChanged),
		resource(k.networking, "workloadentries", &networking.WorkloadEntry{}, list[networking.WorkloadEntryList], c.keepWorkloadEntry, c.workloadEntryChanged),
		resource(k.networking, "virtualservices", &networking.VirtualService{}, list[networking.VirtualServiceList], keepVirtualService, c.resourceChanged("VirtualService")),
		resource(k.networking, "destinationrules", &networking.DestinationRule{}, list[networking.DestinationRuleList], keepDestinationRule, c.resourceChanged("DestinationRule")),
		resource(k.networking, "gateways", &networking.Gateway{}, list[networking.GatewayList], keepGateway, c.resourceChanged("Gateway")),
		resource(k.networking, "sidecars", &networking.Sidecar{}, list[networking.SidecarList], keepSidecar, c.resourceChanged("Sidecar")),
		resource(k.security, "peerauthentications", &security.PeerAuthentication{}, list[security.PeerAuthenticationList], keepPeerAuthentication, c.resourceChanged("PeerAuthentication")),
		resource(k.telemetry, "telemetries", &telemetry.Telemetry{}, list[telemetry.TelemetryList], keepTelemetry, c.resourceChanged("Telemetry")),
		c.dynamic(k.dynamic, "httproutes", topology.HTTPRoute, topology.HTTPRoute, keepGatewayRoute),
		c.dynamic(k.dynamic, "grpcroutes", topology.GRPCRoute, topology.GRPCRoute, keepGatewayRoute),
		c.dynamic(k.dynamic, "gateways", "Gateway", topology.KubernetesGateway, keepKubernetesGateway),
	}
}

// dynamic is a resource of the Gateway API, whose own client would be a module for three kinds.
func (c *Client) dynamic(client dynamic.Interface, of, kindName, as string, keep func(*unstructured.Unstructured) any) kind {
	version := schema.GroupVersion{Group: gatewayGroup, Version: "v1"}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(version.WithKind(kindName))
	r := client.Resource(version.WithResource(of))
	return kind{
		group: gatewayGroup, resource: of, object: object, watch: r.Watch, changed: c.resourceChanged(as),
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return r.List(ctx, o) },
		keep: func(o runtime.Object) any {
			if u, ok := o.(*unstructured.Unstructured); ok {
				return keep(u)
			}
			return nil
		},
	}
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
