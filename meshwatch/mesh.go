package meshwatch

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/proxy"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// Mesh is what the topology has now.
func (a *Agent) Mesh() control.Mesh { return meshOf(a.names.Store()) }

func meshOf(s *topology.Store) control.Mesh {
	m := control.Mesh{Workloads: []control.Workload{}, Services: []control.Service{}, Resources: s.Resources()}
	behind := map[string]int{}
	for _, e := range s.Entries() {
		m.Workloads = append(m.Workloads, workloadOf(e))
		for _, service := range e.Services {
			behind[service]++
		}
	}
	for _, service := range s.Services() {
		m.Services = append(m.Services, serviceOf(service, behind[service.Namespace+"/"+service.Host]))
	}
	return m
}

func workloadOf(e *topology.Entry) control.Workload {
	w := &e.Workload
	version := w.Version
	if version == "" {
		version = w.Revision
	}
	return control.Workload{
		Namespace: w.Namespace, Name: w.Name, Kind: w.Kind, Service: w.Service, Version: version, Role: w.Role, Account: w.Account, Node: w.Node,
		Region: w.Region, Zone: w.Zone, Cluster: w.Cluster, Network: w.Network, Addresses: e.Addresses, Services: e.Services, Ports: e.Ports,
		Shared: e.Shared, Unhealthy: e.Unhealthy, Excludes: e.Excludes,
	}
}

func serviceOf(s *topology.Service, behind int) control.Service {
	out := control.Service{Namespace: s.Namespace, Name: s.Name, Host: s.Host, Workloads: behind}
	for _, vip := range s.Addresses {
		out.Addresses = append(out.Addresses, vip.Addr)
	}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, control.Port{Service: p.Service, Target: p.Target})
	}
	return out
}

// Who is behind an address now.
func (a *Agent) Who(addr netip.AddrPort) control.Who {
	return whoIs(a.names.Store(), addr, monotonic())
}

func whoIs(s *topology.Store, addr netip.AddrPort, now uint64) control.Who {
	who := control.Who{Address: addr.Addr().String(), Known: s.Has(addr.Addr())}
	if addr.Port() != 0 {
		who.Address = addr.String()
	}
	if e := s.Entry(addr, now); e != nil {
		w := workloadOf(e)
		who.Workload = &w
	}
	for _, service := range s.ServicesAt(addr.Addr()) {
		who.Services = append(who.Services, serviceOf(service, s.Behind(service)))
	}
	slices.SortFunc(who.Services, func(x, y control.Service) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Host, y.Host))
	})
	return who
}

// Routes are those that a pod's proxy was told of.
func (a *Agent) Routes(namespace, pod string) ([]control.Rule, error) {
	if a.governor == nil {
		return nil, fmt.Errorf("routes are not asked for: set topology.xds.address and topology.xds.proxies in the configuration")
	}
	c := a.xds.Config(xds.Pod{Namespace: namespace, Name: pod})
	if c == nil {
		return nil, fmt.Errorf("nothing is known of a proxy of pod %s in namespace %q: proxies of this node are followed from the first request seen at them; `meshwatch topology status` says how many are", pod, namespace)
	}
	rules := []control.Rule{}
	for _, r := range a.governor.rules(c) {
		rules = append(rules, ruleOf(&r))
	}
	return rules, nil
}

func ruleOf(r *proxy.Rule) control.Rule {
	out := control.Rule{Table: r.Table, Domains: r.Domains, Name: r.Route.Name, Path: r.Path, More: r.More, Clusters: r.Clusters, Empty: r.Empty}
	if res := r.Route.Resource; res.Name != "" {
		out.Resource = res.Kind + " " + res.Namespace + "/" + res.Name
	}
	p := r.Route.Policy
	if p == nil {
		return out
	}
	out.Timeout = p.Timeout
	if p.Retry != nil {
		out.Retries, out.RetryOn = p.Retry.Most, p.Retry.On
	}
	if f := p.Fault; f != nil {
		var parts []string
		if f.DelayShare > 0 {
			parts = append(parts, fmt.Sprintf("delay %v for %g %%", f.Delay, 100*f.DelayShare))
		}
		if f.AbortShare > 0 {
			parts = append(parts, fmt.Sprintf("%d for %g %%", f.Abort, 100*f.AbortShare))
		}
		out.Fault = strings.Join(parts, ", ")
	}
	return out
}
