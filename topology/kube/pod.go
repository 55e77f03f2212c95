package kube

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshwatch/meshwatch/topology"
)

// pod is what is kept of one. It does not change.
type pod struct{ entry topology.Entry }

// node is what is kept of one.
type node struct {
	region, zone string
	addrs        []netip.Addr
}

func (c *Client) keepNode(n *core.Node) any {
	out := &node{region: n.Labels[core.LabelTopologyRegion], zone: n.Labels[core.LabelTopologyZone]}
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil { // others are names
			out.addrs = append(out.addrs, addr.Unmap())
		}
	}
	return out
}

// nodeChanged works out anew what is on the node.
func (c *Client) nodeChanged(n name, before, now any, m topology.Moment) {
	if old, ok := before.(*node); ok {
		for _, addr := range old.addrs {
			if c.shared[addr]--; c.shared[addr] == 0 {
				delete(c.shared, addr)
			}
		}
		delete(c.nodes, n.Name)
	}
	if new, ok := now.(*node); ok {
		for _, addr := range new.addrs {
			c.shared[addr]++
		}
		c.nodes[n.Name] = new
	}
	if n.Name == c.Node {
		for of := range c.pods {
			c.settle(of, m)
		}
		return
	}
	for of, parts := range c.parts {
		for _, e := range parts {
			if e.node == n.Name {
				c.settle(of, m)
				break
			}
		}
	}
}

// place is where a node is.
func (c *Client) place(node string) (region, zone string) {
	if n := c.nodes[node]; n != nil {
		return n.region, n.zone
	}
	return "", ""
}

// keepPod is nil for a pod that has ended: its address is another's soon.
func (c *Client) keepPod(p *core.Pod) any {
	if p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed {
		return nil
	}
	e := topology.Entry{
		Workload: topology.Workload{
			Name: p.Name, Namespace: p.Namespace, Kind: topology.KindPod, UID: string(p.UID), Node: p.Spec.NodeName, Cluster: c.clusterID,
			Account: p.Spec.ServiceAccountName, Network: p.Labels["topology.istio.io/network"],
		},
		Shared: p.Spec.HostNetwork, Labels: known(p.Labels),
	}
	identify(&e.Workload, p.Labels, p.Annotations, owner(&p.ObjectMeta))
	if isGateway(p) {
		e.Workload.Role = topology.RoleGateway
	}
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			e.Addresses = append(e.Addresses, addr.Unmap())
		} else {
			c.bad()
		}
	}
	for i := range p.Spec.Containers {
		for _, port := range p.Spec.Containers[i].Ports {
			if port.Protocol == core.ProtocolTCP || port.Protocol == "" {
				e.Ports = append(e.Ports, uint16(port.ContainerPort)) //nolint:gosec // Kubernetes has seen to it
			}
		}
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == core.PodReady {
			e.Unhealthy = cond.Status != core.ConditionTrue
		}
	}
	for key, value := range p.Annotations {
		if what, ok := strings.CutPrefix(key, "traffic.sidecar.istio.io/"); ok {
			if e.Excludes == nil {
				e.Excludes = map[string]string{}
			}
			e.Excludes[what] = value
		}
	}
	return &pod{e}
}

// known makes labels of none that are known to be none.
func known(labels map[string]string) map[string]string {
	if labels == nil {
		return map[string]string{}
	}
	return labels
}

// isGateway says whether a pod is one of Istio's gateways, by how it was injected or who made it.
func isGateway(p *core.Pod) bool {
	return slices.Contains(strings.Split(p.Annotations["inject.istio.io/templates"], ","), "gateway") || p.Labels["gateway.networking.k8s.io/gateway-name"] != ""
}

// The labels and annotations that say what a workload is called; docs/spans.md has the order.
const (
	annotations       = "resource.opentelemetry.io/"
	canonicalName     = "service.istio.io/canonical-name"
	canonicalRevision = "service.istio.io/canonical-revision"
)

// identify names a workload: by its own annotations for OpenTelemetry, else as Istio does, so that the name is the one that istiod
// and the sidecars' own telemetry have.
func identify(w *topology.Workload, labels, annotated map[string]string, owner string) {
	w.Service = cmp.Or(annotated[annotations+"service.name"], labels[canonicalName], labels["app.kubernetes.io/name"], labels["app"], owner, w.Name)
	w.Revision = cmp.Or(labels[canonicalRevision], labels["app.kubernetes.io/version"], labels["version"], "latest")
	w.ServiceNamespace, w.Version = annotated[annotations+"service.namespace"], annotated[annotations+"service.version"]
}

// cronJob is the name of a CronJob's Job, as Istio cuts it.
var cronJob = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// owner is the Deployment, StatefulSet, CronJob or what else a pod is of, empty: nobody's.
func owner(p *metav1.ObjectMeta) string {
	ref := metav1.GetControllerOf(p)
	switch {
	case ref == nil:
		return ""
	case ref.Kind == "ReplicaSet":
		if hash := p.Labels["pod-template-hash"]; hash != "" {
			return strings.TrimSuffix(ref.Name, "-"+hash)
		}
	case ref.Kind == "Job":
		if m := cronJob.FindStringSubmatch(ref.Name); m != nil {
			return m[1]
		}
	}
	return ref.Name
}

func (c *Client) podChanged(n name, _, now any, m topology.Moment) {
	delete(c.pods, n)
	if p, ok := now.(*pod); ok {
		c.pods[n] = p
	}
	c.settle(n, m)
}
