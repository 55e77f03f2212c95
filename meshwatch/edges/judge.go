package edges

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/topology"
)

// Kind says what is odd about an edge.
type Kind string

// The kinds, as docs/topology.md has them.
const (
	Bypass    Kind = "bypass"    // an app talks past a sidecar, its own or the other's
	Excluded  Kind = "excluded"  // the same, and an annotation of the pod says so
	Plaintext Kind = "plaintext" // where a PeerAuthentication wants mutual TLS
	Stale     Kind = "stale"     // to an address that the topology does not have any more
)

// Finding is something odd about an edge.
type Finding struct {
	Kind Kind   `json:"kind"`
	Why  string `json:"why"` // a sentence
}

// Judged is an edge beside what is configured.
type Judged struct {
	Edge
	Services []string  `json:"services,omitempty"` // that the server is behind, by host
	Routed   string    `json:"routed,omitempty"`   // whether the client's proxy has a route to one of them: yes, no; empty: not known
	Findings []Finding `json:"findings,omitempty"`
}

// Mesh is what edges are compared with.
type Mesh struct {
	Store *topology.Store
	// Hosts are those that the proxy of a pod, by namespace/name, has routes to; nil: it is not known what it was told.
	Hosts func(pod string) map[string]bool
	Root  string // namespace of what is configured for the whole mesh; empty: istio-system
}

const defaultRoot = "istio-system"

// Judge compares edges with a mesh.
func Judge(list []Edge, m Mesh) []Judged {
	entries := map[string]*topology.Entry{}
	for _, e := range m.Store.Entries() {
		entries[e.Workload.Namespace+"/"+e.Workload.Name] = e
	}
	modes := modesOf(m.Store, m.Root)
	out := make([]Judged, 0, len(list))
	for i := range list {
		j := Judged{Edge: list[i]}
		client, server := entries[j.Client.name()], entries[j.Server.name()]
		j.configured(server, m)
		j.bypass(client, server)
		j.plaintext(modes)
		if j.Gone {
			j.finding(Stale, "the topology had the address %s, and has it no more", j.Server.Addr)
		}
		out = append(out, j)
	}
	return out
}

func (j *Judged) finding(kind Kind, format string, args ...any) {
	j.Findings = append(j.Findings, Finding{kind, fmt.Sprintf(format, args...)})
}

// configured says which services were asked for, and whether the client's proxy has a route there.
func (j *Judged) configured(server *topology.Entry, m Mesh) {
	if server != nil {
		for _, s := range server.Services {
			_, host, _ := strings.Cut(s, "/")
			j.Services = append(j.Services, host)
		}
	}
	if m.Hosts == nil || j.Client.Role != journey.RoleSidecar && j.Client.Role != journey.RoleGateway || len(j.Services) == 0 || ofIstio(j.Port) {
		return
	}
	if hosts := m.Hosts(j.Client.name()); hosts != nil {
		j.Routed = "no"
		if slices.ContainsFunc(j.Services, func(host string) bool { return hosts[host] }) {
			j.Routed = "yes"
		}
	}
}

// bypass finds what passes a sidecar by. Sidecars leave their own ports alone, and what the node itself asks is mostly the kubelet's.
func (j *Judged) bypass(client, server *topology.Entry) {
	if ofIstio(j.Port) {
		return
	}
	if j.Server.Sidecar && j.Server.Role == journey.RoleApp && j.Server.Process != "" && !j.Client.Host {
		if by := excluded(server, "Inbound", j.Port); by != "" {
			j.finding(Excluded, "the server's app was asked past its sidecar, as its annotation says: %s", by)
		} else {
			j.finding(Bypass, "the server's app was asked past its sidecar: no policy or telemetry of the mesh applies%s", unknown(server))
		}
	}
	if j.Client.Sidecar && j.Client.Role == journey.RoleApp {
		if by := excluded(client, "Outbound", j.Port); by != "" {
			j.finding(Excluded, "the client's app asks past its sidecar, as its annotation says: %s", by)
		} else {
			j.finding(Bypass, "the client's app asks past its sidecar: no route, retry or mutual TLS of the mesh applies%s", unknown(client))
		}
	}
}

// unknown says that annotations of a pod could not be looked at.
func unknown(e *topology.Entry) string {
	if e == nil {
		return "; the topology does not have the pod, or not any more: its annotations may say why"
	}
	return ""
}

// excluded is the annotation that takes a port from a sidecar, "" if none does.
func excluded(e *topology.Entry, direction string, port uint16) string {
	if e == nil {
		return ""
	}
	name := "exclude" + direction + "Ports"
	if list, ok := e.Excludes[name]; ok && slices.Contains(fields(list), strconv.Itoa(int(port))) {
		return name + " " + list
	}
	name = "include" + direction + "Ports"
	if list, ok := e.Excludes[name]; ok && list != "*" && !slices.Contains(fields(list), strconv.Itoa(int(port))) {
		return name + " " + list
	}
	if direction == "Outbound" {
		for _, name := range [...]string{"excludeOutboundIPRanges", "includeOutboundIPRanges"} { // whether the address is in one is for people to see
			if list := e.Excludes[name]; list != "" && list != "*" {
				return name + " " + list
			}
		}
	}
	return ""
}

func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// ofIstio says whether a port is one of the sidecar's own: admin, health, metrics, tunnels.
func ofIstio(port uint16) bool { return port >= 15000 && port <= 15099 }

// strict is Istio's word for mutual TLS alone.
const strict = "STRICT"

// plaintext finds what is not encrypted although it must be. Between two processes on one node it is the same.
func (j *Judged) plaintext(modes modes) {
	if j.Security != Plain || j.Server.Workload == "" || !j.Server.Sidecar || ofIstio(j.Port) || j.Client.Host {
		return
	}
	if mode, by := modes.of(j.Server.Namespace, j.Port); mode == strict {
		j.finding(Plaintext, "the connection is in clear text, where PeerAuthentication %s wants mutual TLS", by)
	}
}

// modes are what PeerAuthentications say, by namespace.
type modes struct {
	root string
	by   map[string]*topology.Resource
	some map[string]bool // namespaces with one for some workloads only: by labels, which are not known here
}

func modesOf(s *topology.Store, root string) modes {
	if root == "" {
		root = defaultRoot
	}
	m := modes{root, map[string]*topology.Resource{}, map[string]bool{}}
	for _, r := range s.Resources() {
		switch {
		case r.Kind != "PeerAuthentication":
		case len(r.Selector) > 0:
			m.some[r.Namespace] = true
		default:
			m.by[r.Namespace] = r
		}
	}
	return m
}

// of is the mode of a port of a namespace's workloads, and the resource that says so; "": it is not known, or nothing says.
func (m modes) of(namespace string, port uint16) (mode, by string) {
	if m.some[namespace] {
		return "", ""
	}
	for _, ns := range [...]string{namespace, m.root} {
		r := m.by[ns]
		if r == nil {
			continue
		}
		mode, by = r.TLS, r.Namespace+"/"+r.Name
		if special := r.PortTLS[port]; ns == namespace && special != "" {
			mode = special
		}
		if mode != "" && mode != "UNSET" {
			return mode, by
		}
	}
	return "", ""
}
