// Package edges keeps who talks to whom, as packets show it, and compares that with what the mesh is configured to do. It is pure: it is
// told of connections, and of a state of the topology.
package edges

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Most edges are kept, some 400 bytes each; connections of further ones are counted as lost.
const Most = 10_000

// Security says what the bytes of a connection are.
type Security string

// What they can be.
const (
	Unknown Security = "" // its beginning was not seen
	Plain   Security = "plaintext"
	TLS     Security = "tls"
)

// End is one end of a connection.
type End struct {
	Namespace string       `json:"namespace,omitempty"`
	Workload  string       `json:"workload,omitempty"` // empty: nobody that the topology knows
	Service   string       `json:"service,omitempty"`
	Addr      netip.Addr   `json:"address"`           // of the workload; of a client that is none, its own
	Process   string       `json:"process,omitempty"` // empty: not seen, as on another node
	Role      journey.Role `json:"role,omitempty"`    // the process's
	Sidecar   bool         `json:"sidecar,omitempty"` // there is one in its network namespace
	Host      bool         `json:"host,omitempty"`    // it is in the node's own network namespace
}

// Connection is what packets show of one. At is CLOCK_MONOTONIC in ns.
type Connection struct {
	Client, Server End
	Port           uint16 // of the server: where the app is asked for, whatever redirects to its sidecar
	Security       Security
	Gone           bool // the server's address was somebody's, and is nobody's now
	At             uint64
}

// Edge is all connections that are alike.
type Edge struct {
	Client      End      `json:"client"`
	Server      End      `json:"server"`
	Port        uint16   `json:"port"`
	Security    Security `json:"security,omitempty"`
	Gone        bool     `json:"gone,omitempty"`
	Connections uint64   `json:"connections"`
	First       uint64   `json:"-"` // of them, CLOCK_MONOTONIC ns
	Last        uint64   `json:"-"`
}

// key makes connections alike. Processes are not among it: a pod has many short ones.
type key struct {
	client, server         string
	clientRole, serverRole journey.Role
	port                   uint16
	security               Security
	gone                   bool
}

func keyOf(c *Connection) key {
	return key{c.Client.name(), c.Server.name(), c.Client.Role, c.Server.Role, c.Port, c.Security, c.Gone}
}

func (e *End) name() string {
	if e.Workload == "" {
		return e.Addr.String()
	}
	return e.Namespace + "/" + e.Workload
}

// Table keeps edges. Its methods may be called from any goroutine.
type Table struct {
	lost func() // once for each connection that has no room

	mu    sync.Mutex
	edges map[key]*Edge
	keep  uint64
}

// New makes a Table that forgets edges that were not seen for keep ns when it needs room. lost counts connections without any.
func New(keep uint64, lost func()) *Table {
	return &Table{lost: lost, edges: map[key]*Edge{}, keep: keep}
}

// Add takes a connection. Between processes of one pod there is no edge.
func (t *Table) Add(c *Connection) {
	if c.Client.Workload != "" && c.Client.name() == c.Server.name() && !c.Client.Host {
		return
	}
	k := keyOf(c)
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.edges[k]
	if e == nil {
		if len(t.edges) >= Most && !t.forget(c.At) {
			t.lost()
			return
		}
		e = &Edge{Client: c.Client, Server: c.Server, Port: c.Port, Security: c.Security, Gone: c.Gone, First: c.At}
		t.edges[k] = e
	}
	e.Connections++
	e.Last = max(e.Last, c.At)
	e.First = min(e.First, c.At)
	e.Client.Sidecar, e.Server.Sidecar = e.Client.Sidecar || c.Client.Sidecar, e.Server.Sidecar || c.Server.Sidecar
}

// forget drops what was not seen for long, and says whether there is room now. The caller has the lock.
func (t *Table) forget(now uint64) bool {
	for k, e := range t.edges {
		if e.Last+t.keep < now {
			delete(t.edges, k)
		}
	}
	return len(t.edges) < Most
}

// List is a copy of all edges, by client, server and port.
func (t *Table) List() []Edge {
	t.mu.Lock()
	out := make([]Edge, 0, len(t.edges))
	for _, e := range t.edges {
		out = append(out, *e)
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.Client.name(), b.Client.name()), cmp.Compare(a.Server.name(), b.Server.name()), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Client.Role, b.Client.Role), cmp.Compare(a.Server.Role, b.Server.Role), cmp.Compare(a.Security, b.Security), cmp.Compare(a.First, b.First))
	})
	return out
}
