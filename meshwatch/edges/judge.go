package edges

import (
	"fmt"
	"net/netip"
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
	Unsure    Kind = "unsure"    // in clear text, and it is not known which PeerAuthentication counts
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
}

// Judge compares edges with a mesh.
func Judge(list []Edge, m Mesh) []Judged {
	entries := map[string][]*topology.Entry{}
	for _, e := range m.Store.Entries() {
		name := e.Workload.Namespace + "/" + e.Workload.Name
		entries[name] = append(entries[name], e)
	}
	peers := m.Store.PeerRules()
	out := make([]Judged, 0, len(list))
	for i := range list {
		j := Judged{Edge: list[i]}
		client, server := entryOf(&j.Client, entries), entryOf(&j.Server, entries)
		j.configured(server, m)
		j.bypass(client, server)
		j.plaintext(server, peers)
		if j.Gone {
			j.finding(Stale, "the topology had the address %s, and has it no more", j.Server.Addr)
		}
		out = append(out, j)
	}
	return out
}

// entryOf is what is known of an end, nil: nothing. Of several objects with one name, as a pod and a WorkloadEntry may be, it is the one with the
// end's address.
func entryOf(e *End, entries map[string][]*topology.Entry) *topology.Entry {
	named := entries[e.name()]
	if len(named) == 1 {
		return named[0]
	}
	for _, one := range named {
		if slices.Contains(one.Addresses, e.Addr) {
			return one
		}
	}
	return nil
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
		if by := excluded(server, "Inbound", j.Server.Addr, j.Port); by != "" {
			j.finding(Excluded, "the server's app was asked past its sidecar, as its annotation says: %s", by)
		} else {
			j.finding(Bypass, "the server's app was asked past its sidecar: no policy or telemetry of the mesh applies%s", unknown(server))
		}
	}
	if j.Client.Sidecar && j.Client.Role == journey.RoleApp {
		if by := excluded(client, "Outbound", j.Server.Addr, j.Port); by != "" {
			j.finding(Excluded, "the client's app asks past its sidecar, as its annotation says: %s", by)
		} else {
			j.finding(Bypass, "the client's app asks past its sidecar: no route, retry or mutual TLS of the mesh applies%s", unknown(client))
		}
	}
}

// whyUnsure says what keeps it from being known which of several PeerAuthentications counts.
func whyUnsure(server *topology.Entry) string {
	if server.Labels == nil {
		return "the server's labels are not known"
	}
	return "others say otherwise, and Istio takes the oldest"
}

// unknown says that annotations of a pod could not be looked at.
func unknown(e *topology.Entry) string {
	if e == nil {
		return "; the topology does not have the pod, or not any more: its annotations may say why"
	}
	return ""
}

// excluded is the annotation that takes a server's address and port from a sidecar, "" if none does.
func excluded(e *topology.Entry, direction string, addr netip.Addr, port uint16) string {
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
		for _, name := range []string{"excludeOutboundIPRanges", "includeOutboundIPRanges"} {
			out := strings.HasPrefix(name, "exclude")
			if list := e.Excludes[name]; list != "" && list != "*" && within(list, addr) == out {
				return name + " " + list
			}
		}
	}
	return ""
}

// within says whether an address is in one of some ranges.
func within(list string, addr netip.Addr) bool {
	return slices.ContainsFunc(fields(list), func(text string) bool {
		r, err := netip.ParsePrefix(text)
		return err == nil && r.Contains(addr.Unmap())
	})
}

func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// ofIstio says whether a port is one of the sidecar's own: admin, health, metrics, tunnels.
func ofIstio(port uint16) bool { return port >= 15000 && port <= 15099 }

// plaintext finds what is not encrypted although it must be. Between two processes on one node it is the same.
func (j *Judged) plaintext(server *topology.Entry, peers topology.PeerRules) {
	if j.Security != Plain || j.Server.Workload == "" || !j.Server.Sidecar || ofIstio(j.Port) || j.Client.Host {
		return
	}
	if server == nil { // it has gone since, or is one of several: its labels are not known
		server = &topology.Entry{Workload: topology.Workload{Namespace: j.Server.Namespace}}
	}
	switch mode, by := peers.Mode(server, j.Port); {
	case mode == topology.ModeStrict:
		j.finding(Plaintext, "the connection is in clear text, where PeerAuthentication %s/%s wants mutual TLS", by.Namespace, by.Name)
	case mode == "" && by != topology.Ref{}:
		j.finding(Unsure, "the connection is in clear text, and PeerAuthentication %s/%s wants mutual TLS if it is the one that counts: %s", by.Namespace, by.Name, whyUnsure(server))
	}
}
