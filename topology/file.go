package topology

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Load reads a topology file. What it says was always so.
func Load(path string) (*Store, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, fmt.Errorf("read topology: %w", err)
	}
	s, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("parse topology %s: %w", path, err)
	}
	return s, nil
}

// Parse reads a topology file's content. What it says was always so. The error joins everything that is wrong, a sentence each.
func Parse(b []byte) (*Store, error) {
	c, err := parse(b)
	if err != nil {
		return nil, err
	}
	builder := NewBuilder("", 0)
	c.tell(builder, Moment{})
	return builder.Store(0), nil
}

// content is what a file says. Entries are under names that stay theirs when the file changes: namespace/name, and which of that name it is.
type content struct {
	entries   map[string]Entry
	services  map[string]Service // by namespace/host
	resources map[Ref]Resource
}

// tell tells a builder all of it.
func (c *content) tell(b *Builder, m Moment) {
	for name, e := range c.entries {
		b.Set(name, e, m)
	}
	for name, s := range c.services {
		b.SetService(name, s)
	}
	for _, r := range c.resources {
		b.SetResource(r)
	}
}

func parse(b []byte) (*content, error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty: write workloads: [] if there are none")
	case err != nil:
		return nil, err
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file has a second document: only one is allowed")
	}
	p := fileParser{owner: map[netip.Addr]string{}, services: map[string]Service{}, resources: map[Ref]Resource{}}
	p.file(doc.Content[0])
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	entries, seen := make(map[string]Entry, len(p.entries)), map[string]int{}
	for _, e := range p.entries {
		name := e.Workload.Namespace + "/" + e.Workload.Name
		entries[name+"#"+strconv.Itoa(seen[name])] = e
		seen[name]++
	}
	return &content{entries, p.services, p.resources}, nil
}

// fileParser walks the YAML nodes itself, so that every error can name its key and line.
type fileParser struct {
	entries   []Entry
	owner     map[netip.Addr]string // the key that has an address
	services  map[string]Service
	resources map[Ref]Resource
	errs      []error
}

func (p *fileParser) fail(n *yaml.Node, key, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("line %d: %s %s", n.Line, key, fmt.Sprintf(format, args...)))
}

func (p *fileParser) file(n *yaml.Node) {
	keys := p.mapping(n, "the file", "workloads", "services", "resources")
	list, ok := keys["workloads"]
	if !ok {
		if keys != nil {
			p.fail(n, "workloads", "is missing: write workloads: [] if there are none")
		}
		return
	}
	for i, item := range p.sequence(list, "workloads") {
		p.workload(item, fmt.Sprintf("workloads[%d]", i))
	}
	for name, one := range map[string]func(*yaml.Node, string){"services": p.service, "resources": p.resource} {
		if list := keys[name]; list != nil {
			for i, item := range p.sequence(list, name) {
				one(item, fmt.Sprintf("%s[%d]", name, i))
			}
		}
	}
}

var workloadKeys = []string{
	"name", "namespace", "service", "node", "addresses", "role", "service_namespace", "version", "service_account", "cluster", "region", "zone", "ports", "services", "labels", "excludes",
	"unhealthy",
}

func (p *fileParser) workload(n *yaml.Node, at string) {
	keys := p.mapping(n, at, workloadKeys...)
	if keys == nil {
		return
	}
	text := func(key string) string { return p.text(keys[key], at+"."+key) }
	w := Workload{
		Name: text("name"), Namespace: text("namespace"), Service: text("service"), Node: text("node"), Role: text("role"), ServiceNamespace: text("service_namespace"), Version: text("version"),
		Account: text("service_account"), Cluster: text("cluster"), Region: text("region"), Zone: text("zone"),
	}
	if w.Name == "" {
		p.fail(n, at+".name", "is missing: every workload needs a name")
	}
	if w.Service == "" {
		w.Service = w.Name
	}
	if !slices.Contains([]string{RoleUnknown, RoleApp, RoleGateway, RoleClient}, w.Role) {
		p.fail(keys["role"], at+".role", "is %q: allowed are app, gateway and client", w.Role)
	}
	list := keys["addresses"]
	if list == nil || list.Kind == yaml.SequenceNode && len(list.Content) == 0 {
		p.fail(n, at+".addresses", "is missing: every workload needs at least one IP address")
		return
	}
	e := Entry{
		Workload: w, Ports: p.ports(keys, "ports", at), Services: p.texts(keys, "services", at), Labels: p.labels(keys["labels"], at+".labels"), Excludes: p.labels(keys["excludes"], at+".excludes"),
		Unhealthy: p.flag(keys["unhealthy"], at+".unhealthy"),
	}
	for i, item := range p.sequence(list, at+".addresses") {
		if addr := p.address(item, fmt.Sprintf("%s.addresses[%d]", at, i)); addr.IsValid() {
			e.Addresses = append(e.Addresses, addr)
		}
	}
	p.entries = append(p.entries, e)
}

// address is invalid where n is wrong.
func (p *fileParser) address(n *yaml.Node, at string) netip.Addr {
	text := p.text(n, at)
	addr, err := netip.ParseAddr(text)
	addr = addr.Unmap()
	switch {
	case err != nil, addr.Zone() != "":
		p.fail(n, at, "is %q: allowed is an IPv4 or IPv6 address without port, prefix or zone", text)
	case !single(addr):
		p.fail(n, at, "is %s: allowed is an address that one workload alone has, not loopback, multicast or unspecified", text)
	case p.owner[addr] != "":
		p.fail(n, at, "is %s, which %s has already: an address belongs to one workload", text, p.owner[addr])
	default:
		p.owner[addr] = at
		return addr
	}
	return netip.Addr{}
}

// mapping is n's values by key, nil where n is none.
func (p *fileParser) mapping(n *yaml.Node, at string, allowed ...string) map[string]*yaml.Node {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		p.fail(n, at, "is not a mapping: allowed keys are %s", strings.Join(allowed, ", "))
		return nil
	}
	keys := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], target(n.Content[i+1])
		switch {
		case !slices.Contains(allowed, key.Value) || key.Kind != yaml.ScalarNode:
			p.fail(key, at, "has an unknown key %q: allowed are %s", key.Value, strings.Join(allowed, ", "))
		case keys[key.Value] != nil:
			p.fail(key, at, "has the key %s twice", key.Value)
		default:
			keys[key.Value] = value
		}
	}
	return keys
}

func (p *fileParser) sequence(n *yaml.Node, at string) []*yaml.Node {
	n = target(n)
	if n.Kind != yaml.SequenceNode {
		p.fail(n, at, "is not a list: write [] for an empty one")
		return nil
	}
	return n.Content
}

// text is n's value, "" for an absent or empty one.
func (p *fileParser) text(n *yaml.Node, at string) string {
	if n == nil {
		return ""
	}
	n = target(n)
	if n.Kind != yaml.ScalarNode {
		p.fail(n, at, "is not a text")
		return ""
	}
	if n.Tag == "!!null" {
		return ""
	}
	if strings.ContainsFunc(n.Value, func(r rune) bool { return !unicode.IsPrint(r) }) {
		p.fail(n, at, "is %q: allowed are printable characters", n.Value)
	}
	return n.Value
}

// target is what an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
