package kube

import (
	"net/netip"
	"slices"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/meshwatch/meshwatch/topology"
)

// domain is what the names of Kubernetes' services end with.
const domain = "cluster.local"

func host(n name) string { return n.Name + "." + n.Namespace + ".svc." + domain }

// serviceID is what istiod calls a service: both sources have one name for it.
func serviceID(namespace, host string) string { return namespace + "/" + host }

func (c *Client) keepService(s *core.Service) any {
	n := name{Namespace: s.Namespace, Name: s.Name}
	out := &topology.Service{Name: s.Name, Namespace: s.Namespace, Host: host(n)}
	for _, ip := range append(slices.Clone(s.Spec.ClusterIPs), s.Spec.ExternalIPs...) {
		if addr, err := netip.ParseAddr(ip); err == nil {
			out.Addresses = append(out.Addresses, topology.VIP{Addr: addr})
		} else if ip != core.ClusterIPNone {
			c.bad()
		}
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(in.IP); err == nil { // others have a host name
			out.Addresses = append(out.Addresses, topology.VIP{Addr: addr})
		}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		port := topology.Port{Service: uint16(p.Port), Target: uint16(p.TargetPort.IntVal)} //nolint:gosec // Kubernetes has seen to it
		if p.TargetPort == (core.ServicePort{}).TargetPort {
			port.Target = port.Service
		}
		out.Ports = append(out.Ports, port) // a named target is 0: it is another number in each pod
	}
	return out
}

func (c *Client) serviceChanged(n name, _, now any, _ topology.Moment) {
	if s, ok := now.(*topology.Service); ok {
		c.Builder.SetService(serviceID(n.Namespace, s.Host), *s)
		return
	}
	c.Builder.RemoveService(serviceID(n.Namespace, host(n)))
}

// slice is what is kept of an EndpointSlice.
type slice struct {
	pods   map[name]endpoint
	others map[netip.Addr]endpoint // that are no pods
}

// endpoint is what one slice says of a workload.
type endpoint struct {
	service    string // name
	node, zone string
	addrs      []netip.Addr
	ports      []uint16 // its slice's
	unhealthy  bool
}

func (c *Client) keepSlice(s *discovery.EndpointSlice) any {
	out := &slice{pods: map[name]endpoint{}, others: map[netip.Addr]endpoint{}}
	if s.AddressType == discovery.AddressTypeFQDN {
		return out
	}
	var ports []uint16
	for _, p := range s.Ports {
		if p.Port != nil && (p.Protocol == nil || *p.Protocol == core.ProtocolTCP) {
			ports = append(ports, uint16(*p.Port)) //nolint:gosec // Kubernetes has seen to it
		}
	}
	for i := range s.Endpoints {
		from := &s.Endpoints[i]
		e := endpoint{service: s.Labels[discovery.LabelServiceName], ports: ports, unhealthy: from.Conditions.Ready != nil && !*from.Conditions.Ready}
		if from.NodeName != nil {
			e.node = *from.NodeName
		}
		if from.Zone != nil {
			e.zone = *from.Zone
		}
		for _, text := range from.Addresses {
			if addr, err := netip.ParseAddr(text); err == nil {
				e.addrs = append(e.addrs, addr.Unmap())
			} else {
				c.bad()
			}
		}
		if ref := from.TargetRef; ref != nil && ref.Kind == topology.KindPod {
			of := name{Namespace: ref.Namespace, Name: ref.Name}
			e.addrs = append(slices.Clip(out.pods[of].addrs), e.addrs...)
			out.pods[of] = e
			continue
		}
		for _, addr := range e.addrs {
			one := e
			one.addrs = []netip.Addr{addr}
			out.others[addr] = one
		}
	}
	return out
}

func (c *Client) sliceChanged(n name, before, now any, m topology.Moment) {
	was, _ := before.(*slice)
	if was == nil {
		was = &slice{}
	}
	is, _ := now.(*slice)
	if is == nil {
		is = &slice{}
	}
	for of := range was.pods {
		if _, stays := is.pods[of]; !stays {
			delete(c.parts[of], n)
			c.settle(of, m)
		}
	}
	for of, e := range is.pods {
		if c.parts[of] == nil {
			c.parts[of] = map[name]endpoint{}
		}
		c.parts[of][n] = e
		c.settle(of, m)
	}
	for addr := range was.others {
		if _, stays := is.others[addr]; !stays {
			c.Builder.RemoveRanked(c.id(discoveryGroup, "EndpointSlice", n, addr.String()), topology.Hearsay, m)
		}
	}
	for addr, e := range is.others {
		w := topology.Workload{Name: e.service, Namespace: n.Namespace, Kind: "EndpointSlice", Service: e.service, Node: e.node, Cluster: c.clusterID}
		entry := topology.Entry{Workload: w}
		c.add(&entry, n.Namespace, e)
		c.Builder.SetRanked(c.id(discoveryGroup, "EndpointSlice", n, addr.String()), topology.Hearsay, entry, m)
	}
}

// settle works out what is known of a pod: what it says itself, if it is on this node, and what slices say. Of a pod of this node
// that is not there, slices have not heard yet.
func (c *Client) settle(of name, m topology.Moment) {
	id, parts := c.id("", topology.KindPod, of), c.parts[of]
	if len(parts) == 0 {
		delete(c.parts, of)
	}
	if p := c.pods[of]; p != nil {
		e := p.entry
		e.Addresses, e.Ports = slices.Clone(e.Addresses), slices.Clone(e.Ports)
		e.Workload.Region, e.Workload.Zone = c.place(c.Node)
		for _, part := range parts {
			part.addrs, part.unhealthy = nil, false
			c.add(&e, of.Namespace, part)
		}
		tidy(&e)
		c.Builder.SetRanked(id, topology.Seen, e, m)
		return
	}
	c.Builder.RemoveRanked(id, topology.Seen, m)
	e := topology.Entry{Workload: topology.Workload{Name: of.Name, Namespace: of.Namespace, Kind: topology.KindPod, Cluster: c.clusterID}}
	for _, part := range parts {
		if part.node == c.Node {
			continue
		}
		e.Workload.Node = part.node
		if w := &e.Workload; w.Service == "" || part.service < w.Service {
			w.Service = part.service // its own name is in its labels, which slices have not
		}
		c.add(&e, of.Namespace, part)
	}
	if len(e.Addresses) == 0 {
		c.Builder.RemoveRanked(id, topology.Hearsay, m)
		return
	}
	tidy(&e)
	c.Builder.SetRanked(id, topology.Hearsay, e, m)
}

// add puts what a slice says to an entry.
func (c *Client) add(e *topology.Entry, namespace string, part endpoint) {
	e.Addresses = append(e.Addresses, part.addrs...)
	e.Ports = append(e.Ports, part.ports...)
	if part.service != "" {
		e.Services = append(e.Services, serviceID(namespace, host(name{Namespace: namespace, Name: part.service})))
	}
	e.Unhealthy = e.Unhealthy || part.unhealthy
	for _, addr := range part.addrs {
		e.Shared = e.Shared || c.shared[addr] > 0
	}
	if w := &e.Workload; w.Zone == "" {
		w.Region, w.Zone = c.place(w.Node)
		if part.zone != "" {
			w.Zone = part.zone
		}
	}
}

// tidy makes the same of the same, whatever the order in which it came.
func tidy(e *topology.Entry) {
	slices.SortFunc(e.Addresses, netip.Addr.Compare)
	slices.Sort(e.Ports)
	slices.Sort(e.Services)
	e.Addresses, e.Ports, e.Services = slices.Compact(e.Addresses), slices.Compact(e.Ports), slices.Compact(e.Services)
}
