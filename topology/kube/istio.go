package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"

	"github.com/meshwatch/meshwatch/topology"
)

// seconds is 0 for none: what Istio sets, nobody says "no timeout" with.
func seconds(d *durationpb.Duration) time.Duration { return d.AsDuration() }

func portOf(n uint32) uint16 { return uint16(min(n, 65535)) } //nolint:gosec // min

func keepVirtualService(v *networking.VirtualService) any {
	r := topology.Resource{Hosts: slices.Clone(v.Spec.Hosts), Gateways: slices.Clone(v.Spec.Gateways)}
	for _, h := range v.Spec.Http {
		r.Routes = append(r.Routes, httpRoute(h))
	}
	for _, t := range v.Spec.Tls {
		route := topology.Route{Detail: "tls"}
		for _, m := range t.Match {
			route.Match = append(route.Match, "sni "+strings.Join(m.SniHosts, ", "))
		}
		route.Destinations = destinations(t.Route)
		r.Routes = append(r.Routes, route)
	}
	for _, t := range v.Spec.Tcp {
		r.Routes = append(r.Routes, topology.Route{Detail: "tcp", Destinations: destinations(t.Route)})
	}
	return r
}

func httpRoute(h *api.HTTPRoute) topology.Route {
	out := topology.Route{Name: h.Name, Timeout: seconds(h.Timeout)}
	for _, m := range h.Match {
		out.Match = append(out.Match, match(m))
	}
	for _, d := range h.Route {
		out.Destinations = append(out.Destinations, destination(d.Destination, d.Weight))
	}
	if r := h.Retries; r != nil {
		out.Attempts, out.TryTimeout, out.RetryOn = int(r.Attempts), seconds(r.PerTryTimeout), r.RetryOn
	}
	if d := h.Fault.GetDelay(); d != nil {
		out.Delay, out.DelayShare = seconds(d.GetFixedDelay()), d.GetPercentage().GetValue()/100
	}
	if a := h.Fault.GetAbort(); a != nil {
		out.AbortShare = a.GetPercentage().GetValue() / 100
		if out.Abort = a.GetGrpcStatus(); out.Abort == "" {
			out.Abort = strconv.Itoa(int(a.GetHttpStatus()))
		}
	}
	switch {
	case h.Redirect != nil:
		out.Detail = "redirect"
	case h.DirectResponse != nil:
		out.Detail = fmt.Sprintf("direct response %d", h.DirectResponse.Status)
	case h.Delegate != nil:
		out.Detail = "delegate " + h.Delegate.Namespace + "/" + h.Delegate.Name
	}
	return out
}

// match is one of a route's conditions, all of which must hold, as a person writes it.
func match(m *api.HTTPMatchRequest) string {
	var parts []string
	say := func(what string, s *api.StringMatch) {
		if s == nil {
			return
		}
		switch s.MatchType.(type) {
		case *api.StringMatch_Prefix:
			parts = append(parts, what+" "+s.GetPrefix()+"*")
		case *api.StringMatch_Regex:
			parts = append(parts, what+" ~ "+s.GetRegex())
		default:
			parts = append(parts, what+" "+s.GetExact())
		}
	}
	say("path", m.Uri)
	say("method", m.Method)
	say("authority", m.Authority)
	names := make([]string, 0, len(m.Headers))
	for name := range m.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		say("header "+name, m.Headers[name])
	}
	if m.Port != 0 {
		parts = append(parts, fmt.Sprintf("port %d", m.Port))
	}
	return strings.Join(parts, ", ")
}

func destination(d *api.Destination, weight int32) topology.Destination {
	return topology.Destination{Host: d.GetHost(), Subset: d.GetSubset(), Port: portOf(d.GetPort().GetNumber()), Weight: int(weight)}
}

func destinations(list []*api.RouteDestination) (out []topology.Destination) {
	for _, d := range list {
		out = append(out, destination(d.Destination, d.Weight))
	}
	return out
}

func keepDestinationRule(d *networking.DestinationRule) any {
	r := topology.Resource{Hosts: []string{d.Spec.Host}, Selector: d.Spec.WorkloadSelector.GetMatchLabels()}
	if p := d.Spec.TrafficPolicy; p != nil {
		if p.Tls != nil {
			r.TLS = p.Tls.Mode.String()
		}
		var detail []string
		if t := p.ConnectionPool.GetTcp().GetConnectTimeout(); t != nil {
			detail = append(detail, "connect timeout "+seconds(t).String())
		}
		if p.OutlierDetection != nil {
			detail = append(detail, "outlier detection")
		}
		r.Detail = strings.Join(detail, ", ")
	}
	for _, s := range d.Spec.Subsets {
		r.Subsets = append(r.Subsets, topology.Subset{Name: s.Name, Labels: s.Labels})
	}
	return r
}

func keepGateway(g *networking.Gateway) any {
	r := topology.Resource{Selector: g.Spec.Selector}
	for _, s := range g.Spec.Servers {
		r.Hosts = append(r.Hosts, s.Hosts...)
		r.Ports = append(r.Ports, portOf(s.Port.GetNumber()))
	}
	return r
}

func keepSidecar(s *networking.Sidecar) any {
	r := topology.Resource{Selector: s.Spec.WorkloadSelector.GetLabels()}
	for _, e := range s.Spec.Egress {
		r.Hosts = append(r.Hosts, e.Hosts...)
	}
	if p := s.Spec.OutboundTrafficPolicy; p != nil {
		r.Detail = "outbound " + p.Mode.String()
	}
	return r
}

func keepPeerAuthentication(p *security.PeerAuthentication) any {
	r := topology.Resource{Selector: p.Spec.Selector.GetMatchLabels(), TLS: p.Spec.Mtls.GetMode().String()}
	for port, m := range p.Spec.PortLevelMtls {
		if r.PortTLS == nil {
			r.PortTLS = map[uint16]string{}
		}
		r.PortTLS[portOf(port)] = m.GetMode().String()
	}
	return r
}

func keepTelemetry(t *telemetry.Telemetry) any {
	r := topology.Resource{Selector: t.Spec.Selector.GetMatchLabels()}
	var detail []string
	for _, tracing := range t.Spec.Tracing {
		if p := tracing.RandomSamplingPercentage; p != nil {
			detail = append(detail, fmt.Sprintf("samples %v %%", p.Value))
		}
		if tracing.DisableSpanReporting.GetValue() {
			detail = append(detail, "no spans")
		}
	}
	if len(t.Spec.AccessLogging) > 0 {
		detail = append(detail, "access log")
	}
	if len(t.Spec.Metrics) > 0 {
		detail = append(detail, "metrics")
	}
	r.Detail = strings.Join(detail, ", ")
	return r
}

// entries are what is kept of a ServiceEntry or WorkloadEntry: the resource, and whom it makes.
type entries struct {
	resource  topology.Resource
	workloads map[string]topology.Entry // by name
	services  map[string]topology.Service
}

func (c *Client) keepWorkloadEntry(w *networking.WorkloadEntry) any {
	n := name{Namespace: w.Namespace, Name: w.Name}
	out := &entries{resource: topology.Resource{Addresses: []string{w.Spec.Address}, Selector: w.Spec.Labels}}
	if e, ok := c.workloadEntry(&w.Spec, n, "WorkloadEntry"); ok {
		identify(&e.Workload, w.Spec.Labels, w.Annotations, "")
		e.Labels = known(w.Spec.Labels)
		e.Workload.UID = string(w.UID)
		out.workloads = map[string]topology.Entry{c.id(networkingGroup, "WorkloadEntry", n): e}
	}
	return out
}

// workloadEntry is false where the address is a host name or a socket.
func (c *Client) workloadEntry(w *api.WorkloadEntry, n name, kind string) (e topology.Entry, ok bool) {
	addr, err := netip.ParseAddr(w.Address)
	if err != nil {
		return e, false
	}
	locality := append(strings.Split(w.Locality, "/"), "", "")
	e = topology.Entry{Addresses: []netip.Addr{addr}, Workload: topology.Workload{
		Name: n.Name, Namespace: n.Namespace, Kind: kind, Account: w.ServiceAccount, Cluster: c.clusterID, Network: w.Network,
		Region: locality[0], Zone: locality[1],
	}}
	identify(&e.Workload, w.Labels, nil, "")
	for _, port := range w.Ports {
		e.Ports = append(e.Ports, portOf(port))
	}
	slices.Sort(e.Ports)
	return e, true
}

func (c *Client) keepServiceEntry(s *networking.ServiceEntry) any {
	n := name{Namespace: s.Namespace, Name: s.Name}
	out := &entries{
		resource: topology.Resource{
			Hosts: slices.Clone(s.Spec.Hosts), Addresses: slices.Clone(s.Spec.Addresses), Selector: s.Spec.WorkloadSelector.GetLabels(),
			Detail: "resolution " + s.Spec.Resolution.String() + ", " + s.Spec.Location.String(),
		},
		workloads: map[string]topology.Entry{}, services: map[string]topology.Service{},
	}
	var ports []topology.Port
	var targets []uint16
	for _, p := range s.Spec.Ports {
		port := topology.Port{Service: portOf(p.Number), Target: portOf(cmp.Or(p.TargetPort, p.Number))}
		ports, targets = append(ports, port), append(targets, port.Target)
		out.resource.Ports = append(out.resource.Ports, port.Service)
	}
	var vips []topology.VIP
	for _, text := range s.Spec.Addresses {
		if prefix, err := netip.ParsePrefix(text); err == nil && prefix.IsSingleIP() {
			text = prefix.Addr().String()
		}
		if addr, err := netip.ParseAddr(text); err == nil { // others are networks
			vips = append(vips, topology.VIP{Addr: addr})
		}
	}
	var hosts []string
	for _, host := range s.Spec.Hosts {
		hosts = append(hosts, serviceID(n.Namespace, host))
		out.services[serviceID(n.Namespace, host)] = topology.Service{Name: s.Name, Namespace: s.Namespace, Host: host, Addresses: vips, Ports: ports}
	}
	for _, w := range s.Spec.Endpoints {
		if e, ok := c.workloadEntry(w, n, "ServiceEntry"); ok {
			if len(e.Ports) == 0 {
				e.Ports = slices.Clone(targets)
			}
			e.Services = slices.Clone(hosts)
			out.workloads[c.id(networkingGroup, "ServiceEntry", n, w.Address)] = e
		}
	}
	return out
}

func (c *Client) serviceEntryChanged(n name, before, now any, m topology.Moment) {
	c.entriesChanged("ServiceEntry", n, before, now, m)
}

func (c *Client) workloadEntryChanged(n name, before, now any, m topology.Moment) {
	c.entriesChanged("WorkloadEntry", n, before, now, m)
}

func (c *Client) entriesChanged(as string, n name, before, now any, m topology.Moment) {
	was, _ := before.(*entries)
	if was == nil {
		was = &entries{}
	}
	is, _ := now.(*entries)
	if is == nil {
		is = &entries{}
		c.resourceChanged(as)(n, nil, nil, m)
	} else {
		c.resourceChanged(as)(n, nil, is.resource, m)
	}
	for id := range was.workloads {
		if _, stays := is.workloads[id]; !stays {
			c.Builder.RemoveRanked(id, topology.Seen, m)
		}
	}
	for id, e := range is.workloads {
		e.Addresses = slices.Clone(e.Addresses)
		c.Builder.SetRanked(id, topology.Seen, e, m)
	}
	for id := range was.services {
		if _, stays := is.services[id]; !stays {
			c.Builder.RemoveService(id)
		}
	}
	for id, s := range is.services {
		c.Builder.SetService(id, s)
	}
}
