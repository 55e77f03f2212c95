package topology

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// service reads one of the file's services.
func (p *fileParser) service(n *yaml.Node, at string) {
	keys := p.mapping(n, at, "name", "namespace", "host", "addresses", "ports")
	if keys == nil {
		return
	}
	s := Service{Name: p.text(keys["name"], at+".name"), Namespace: p.text(keys["namespace"], at+".namespace"), Host: p.text(keys["host"], at+".host")}
	if s.Host == "" {
		p.fail(n, at+".host", "is missing: every service needs the host name that clients ask for")
	}
	if s.Name == "" {
		s.Name = s.Host
	}
	for i, item := range p.items(keys, "addresses", at) {
		if addr := p.virtual(item, at+".addresses["+strconv.Itoa(i)+"]"); addr.IsValid() {
			s.Addresses = append(s.Addresses, VIP{Addr: addr})
		}
	}
	for i, item := range p.items(keys, "ports", at) {
		at := at + ".ports[" + strconv.Itoa(i) + "]"
		of := p.mapping(item, at, "port", "target")
		port := Port{Service: p.port(of["port"], at+".port"), Target: p.port(of["target"], at+".target")}
		if port.Service == 0 {
			p.fail(item, at+".port", "is missing: allowed is a number from 1 to 65535")
		}
		s.Ports = append(s.Ports, port)
	}
	name := s.Namespace + "/" + s.Host
	if _, twice := p.services[name]; twice {
		p.fail(n, at, "is %s, which another service is already", name)
	}
	p.services[name] = s
}

// resource reads one of the file's resources.
func (p *fileParser) resource(n *yaml.Node, at string) {
	keys := p.mapping(n, at, "kind", "namespace", "name", "hosts", "gateways", "selector", "routes", "subsets", "tls", "port_tls", "ports", "addresses", "detail")
	if keys == nil {
		return
	}
	text := func(key string) string { return p.text(keys[key], at+"."+key) }
	r := Resource{
		Ref: Ref{text("kind"), text("namespace"), text("name")}, Hosts: p.texts(keys, "hosts", at), Gateways: p.texts(keys, "gateways", at), Selector: p.labels(keys["selector"], at+".selector"),
		TLS: text("tls"), Addresses: p.texts(keys, "addresses", at), Ports: p.ports(keys, "ports", at), Detail: text("detail"),
	}
	for _, key := range []string{"kind", "name"} {
		if text(key) == "" {
			p.fail(n, at+"."+key, "is missing: every resource needs a kind and a name")
		}
	}
	if _, twice := p.resources[r.Ref]; twice {
		p.fail(n, at, "is %s %s/%s, which another resource is already", r.Kind, r.Namespace, r.Name)
	}
	for port, mode := range p.labels(keys["port_tls"], at+".port_tls") {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			p.fail(keys["port_tls"], at+".port_tls", "has the port %q: allowed is a number from 1 to 65535", port)
			continue
		}
		if r.PortTLS == nil {
			r.PortTLS = map[uint16]string{}
		}
		r.PortTLS[uint16(number)] = mode
	}
	for i, item := range p.items(keys, "routes", at) {
		r.Routes = append(r.Routes, p.route(item, at+".routes["+strconv.Itoa(i)+"]"))
	}
	for i, item := range p.items(keys, "subsets", at) {
		at := at + ".subsets[" + strconv.Itoa(i) + "]"
		of := p.mapping(item, at, "name", "labels")
		r.Subsets = append(r.Subsets, Subset{Name: p.text(of["name"], at+".name"), Labels: p.labels(of["labels"], at+".labels")})
	}
	p.resources[r.Ref] = r
}

func (p *fileParser) route(n *yaml.Node, at string) (r Route) {
	keys := p.mapping(n, at, "name", "match", "destinations", "timeout", "attempts", "per_try_timeout", "retry_on", "delay", "delay_share", "abort", "abort_share", "detail")
	text := func(key string) string { return p.text(keys[key], at+"."+key) }
	duration := func(key string) time.Duration { return p.duration(keys[key], at+"."+key) }
	share := func(key string) float64 { return p.number(keys[key], at+"."+key, 1) }
	r = Route{
		Name: text("name"), Match: p.texts(keys, "match", at), Timeout: duration("timeout"), Attempts: int(p.number(keys["attempts"], at+".attempts", 100)), TryTimeout: duration("per_try_timeout"),
		RetryOn: text("retry_on"), Delay: duration("delay"), DelayShare: share("delay_share"), Abort: text("abort"), AbortShare: share("abort_share"), Detail: text("detail"),
	}
	for i, item := range p.items(keys, "destinations", at) {
		at := at + ".destinations[" + strconv.Itoa(i) + "]"
		of := p.mapping(item, at, "host", "subset", "port", "weight")
		r.Destinations = append(r.Destinations, Destination{
			Host: p.text(of["host"], at+".host"), Subset: p.text(of["subset"], at+".subset"), Port: p.port(of["port"], at+".port"), Weight: int(p.number(of["weight"], at+".weight", 1e6)),
		})
	}
	return r
}

// items are those of a list that may be absent.
func (p *fileParser) items(keys map[string]*yaml.Node, key, at string) []*yaml.Node {
	if n := keys[key]; n != nil {
		return p.sequence(n, at+"."+key)
	}
	return nil
}

func (p *fileParser) texts(keys map[string]*yaml.Node, key, at string) (out []string) {
	for i, item := range p.items(keys, key, at) {
		out = append(out, p.text(item, at+"."+key+"["+strconv.Itoa(i)+"]"))
	}
	return out
}

func (p *fileParser) ports(keys map[string]*yaml.Node, key, at string) (out []uint16) {
	for i, item := range p.items(keys, key, at) {
		if port := p.port(item, at+"."+key+"["+strconv.Itoa(i)+"]"); port != 0 {
			out = append(out, port)
		}
	}
	return out
}

// port is 0 where n is absent or wrong.
func (p *fileParser) port(n *yaml.Node, at string) uint16 {
	text := p.text(n, at)
	if text == "" {
		return 0
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		p.fail(n, at, "is %q: allowed is a number from 1 to 65535", text)
	}
	return uint16(port)
}

// number is from 0 to most, 0 where n is absent or wrong.
func (p *fileParser) number(n *yaml.Node, at string, most float64) float64 {
	text := p.text(n, at)
	if text == "" {
		return 0
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0 && v <= most) {
		p.fail(n, at, "is %q: allowed is a number from 0 to %v", text, most)
		return 0
	}
	return v
}

func (p *fileParser) duration(n *yaml.Node, at string) time.Duration {
	text := p.text(n, at)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		p.fail(n, at, "is %q: allowed is a time with its unit, such as 2s or 150ms", text)
	}
	return max(d, 0)
}

func (p *fileParser) flag(n *yaml.Node, at string) bool {
	text := p.text(n, at)
	if !slices.Contains([]string{"", "true", "false"}, text) {
		p.fail(n, at, "is %q: allowed are true and false", text)
	}
	return text == "true"
}

// labels are a mapping of texts, nil where n is absent.
func (p *fileParser) labels(n *yaml.Node, at string) map[string]string {
	if n == nil {
		return nil
	}
	if n = target(n); n.Kind != yaml.MappingNode {
		p.fail(n, at, "is not a mapping of texts")
		return nil
	}
	out := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := p.text(n.Content[i], at)
		out[key] = p.text(n.Content[i+1], at+"."+key)
	}
	return out
}

// virtual is an address that several services may have; invalid where n is wrong.
func (p *fileParser) virtual(n *yaml.Node, at string) netip.Addr {
	text := p.text(n, at)
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		p.fail(n, at, "is %q: allowed is an IPv4 or IPv6 address without port, prefix or zone", text)
		return netip.Addr{}
	}
	return addr.Unmap()
}
