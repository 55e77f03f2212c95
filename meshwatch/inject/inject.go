// Package inject chooses the workloads whose requests are given ids, and keeps the recorder told of them: where they are, and by which
// port their namespace's rules redirect what they send to their own sidecar.
package inject

import (
	"context"
	"log/slog"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology"
)

// Options of a Manager.
type Options struct {
	Workloads []string // patterns, see Config.InjectWorkloads
	Exclude   []string // patterns of names of network namespaces that are left alone
	Losses    *loss.Set
	Log       *slog.Logger
}

// Manager chooses for one Inject. Its methods may be called from any goroutine; they take turns.
type Manager struct {
	inject *bpf.Inject
	opts   Options
	failed *loss.Counter

	mu     sync.Mutex
	on     bool
	state  *netpath.State
	store  *topology.Store
	chosen []string
}

// State is how it stands, for people and metrics. Counters are since the agent's start.
type State struct {
	On          bool     `json:"on"`
	Workloads   []string `json:"workloads"`      // chosen, by their names in the topology, else by their network namespaces'
	Connections uint64   `json:"connections"`    // of theirs to their own sidecars
	Injected    uint64   `json:"injected"`       // requests that were given an id
	HadID       uint64   `json:"had_request_id"` // requests that had one
}

// New makes a Manager, which chooses nothing until Apply.
func New(i *bpf.Inject, o Options) *Manager {
	return &Manager{inject: i, opts: o, failed: o.Losses.Counter("attach", "failed"), on: true, state: netpath.NewState(nil, nil)}
}

// Start attaches the programs.
func (m *Manager) Start() error { return m.inject.Attach() }

// releaseEvery is how long a connection that is left alone goes on through the programs.
const releaseEvery = 100 * time.Millisecond

// Run lets go of connections that are left alone, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	tick := time.NewTicker(releaseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := m.inject.Release(); err != nil {
			m.failed.Add(1)
			m.opts.Log.Warn("cannot let go of a connection that is given no more ids", "error", err)
		}
	}
}

// SetState takes a new datapath.
func (m *Manager) SetState(s *netpath.State, now uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	m.apply(now)
}

// SetStore takes a new topology.
func (m *Manager) SetStore(s *topology.Store, now uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store = s
	m.apply(now)
}

func (m *Manager) apply(now uint64) {
	ports, names := choose(m.state, m.store, now, m.opts.Workloads, m.opts.Exclude)
	if err := m.inject.Select(ports); err != nil {
		m.failed.Add(1)
		m.opts.Log.Warn("cannot choose all workloads whose requests are given ids", "error", err)
	}
	if !slices.Equal(names, m.chosen) {
		m.opts.Log.Info("requests of these workloads are given ids where they have none", "workloads", names)
	}
	m.chosen = names
}

// choose says in which network namespaces requests are given ids, by which ports they go to the own sidecar, and what they are called.
// now is in ns, of the topology's clock.
func choose(s *netpath.State, store *topology.Store, now uint64, workloads, exclude []string) (ports map[uint32][]uint16, names []string) {
	ports = map[uint32][]uint16{}
	for _, n := range s.Sorted() {
		to := n.Filter.Outbound
		if n.Host || len(to) == 0 || len(to) > bpf.InjectPorts || matches(exclude, n.Name) {
			continue
		}
		name := workload(n, store, now)
		if !matches(workloads, n.Name) && (name == "" || !matches(workloads, name)) {
			continue
		}
		ports[n.Inum] = to
		if name == "" {
			name = n.Name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return ports, names
}

// workload is who lives in a namespace, as namespace/name; empty: the topology does not know.
func workload(n *netpath.Namespace, s *topology.Store, now uint64) string {
	for i := range n.Links {
		for _, prefix := range n.Links[i].Addrs {
			if w, ok := s.Lookup(netip.AddrPortFrom(prefix.Addr(), 0), now); ok {
				return w.Namespace + "/" + w.Name
			}
		}
	}
	return ""
}

// matches says whether a name fits a pattern. One of everything does with a slash, too; others fit what has as many slashes.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name) //nolint:errcheck // the configuration was validated
		return ok || pattern == "*" && !strings.HasPrefix(name, "/")
	})
}

// Switch stops it, for good on the connections that there are, or has it begin with those that will be opened.
func (m *Manager) Switch(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = on
	m.inject.Switch(on)
}

// State is how it stands now.
func (m *Manager) State() State {
	o := m.outcomes()
	m.mu.Lock()
	defer m.mu.Unlock()
	return State{On: m.on, Workloads: slices.Clone(m.chosen), Connections: o.Connections, Injected: o.Injected, HadID: o.HadID}
}

// Stage is where losses are counted that Losses tells.
const Stage = "inject"

// Losses are requests that were left without an id, and connections that were left alone.
func (m *Manager) Losses() (rows []loss.Row) {
	for reason, n := range m.outcomes().Missed {
		rows = append(rows, loss.Row{Stage: Stage, Reason: reason, Count: n})
	}
	return rows
}

func (m *Manager) outcomes() bpf.Outcomes {
	o, err := m.inject.Outcomes()
	if err != nil {
		m.opts.Log.Warn("cannot read what became of requests without ids", "error", err)
	}
	return o
}
