// Package observe turns what the joiner found into what people read: names for processes, places and workloads, hops with
// their times, journeys, and a distribution of every hop over all requests.
package observe

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology"
)

// Names knows who and where. The state and the store may be replaced at any time from any goroutine; everything else
// belongs to the one that observes.
type Names struct {
	proxies  []string
	state    atomic.Pointer[netpath.State]
	store    atomic.Pointer[topology.Store]
	procs    map[uint32]process
	sockets  map[uint32]journey.Workload // by network namespace
	seen     *netpath.State              // what sockets was made from
	seenFrom *topology.Store
	swept    uint64
}

// process is what /proc says of one; kept for procTTL, as ids are used again.
type process struct {
	comm  string
	netns uint32
	at    uint64
}

const procTTL = 30e9 // ns

// NewNames makes Names in which nothing is known yet. proxies are the process names that are proxies.
func NewNames(proxies []string) *Names {
	n := &Names{proxies: proxies, procs: map[uint32]process{}, sockets: map[uint32]journey.Workload{}}
	n.state.Store(&netpath.State{})
	return n
}

// SetState replaces the datapath.
func (n *Names) SetState(s *netpath.State) { n.state.Store(s) }

// SetStore replaces the topology.
func (n *Names) SetStore(s *topology.Store) { n.store.Store(s) }

// State is the datapath as last set.
func (n *Names) State() *netpath.State { return n.state.Load() }

// process looks a process up, in /proc when it was not seen lately. now is in ns.
func (n *Names) process(pid, netns uint32, now uint64) process {
	if pid == 0 {
		return process{}
	}
	if p, ok := n.procs[pid]; ok && now-p.at < procTTL && p.netns == netns {
		return p
	}
	p := process{comm: comm("/proc/" + strconv.Itoa(int(pid)) + "/comm"), netns: netns, at: now}
	n.procs[pid] = p
	if now-n.swept > 2*procTTL {
		n.swept = now
		for id, old := range n.procs {
			if now-old.at > 2*procTTL {
				delete(n.procs, id)
			}
		}
	}
	return p
}

func comm(path string) string {
	b, err := os.ReadFile(path) //nolint:gosec // a path in /proc
	if err != nil {
		return "" // it has ended
	}
	return string(bytes.TrimSuffix(b, []byte("\n")))
}

// IsProxy says whether a process seen before is a proxy by its name.
func (n *Names) IsProxy(pid uint32) bool {
	p, ok := n.procs[pid]
	if !ok {
		p = process{comm: comm("/proc/" + strconv.Itoa(int(pid)) + "/comm")}
	}
	return slices.Contains(n.proxies, p.comm)
}

// role tells a sidecar from a gateway by the namespace's rules: traffic is redirected to a sidecar only.
func (n *Names) role(p process, w journey.Workload) journey.Role {
	if p.comm == "" {
		return journey.RoleUnknown
	}
	if !slices.Contains(n.proxies, p.comm) {
		return journey.RoleApp
	}
	if ns := n.state.Load().Namespace(p.netns); ns != nil && ns.Redirects() {
		return journey.RoleSidecar
	}
	return journey.RoleGateway
}

// workload is who lives in a network namespace, by any of its addresses; in the host's, who has the address of the socket.
func (n *Names) workload(netns uint32, addr netip.Addr) journey.Workload {
	state, store := n.state.Load(), n.store.Load()
	if n.seen != state || n.seenFrom != store {
		clear(n.sockets)
		n.seen, n.seenFrom = state, store
	}
	ns := state.Namespace(netns)
	if ns == nil || ns.Host {
		w, _ := store.ByAddr(addr)
		return workloadOf(w)
	}
	if w, ok := n.sockets[netns]; ok {
		return w
	}
	var found journey.Workload
	for i := range ns.Links {
		for _, prefix := range ns.Links[i].Addrs {
			if w, ok := store.ByAddr(prefix.Addr()); ok && found.Name == "" {
				found = workloadOf(w)
			}
		}
	}
	n.sockets[netns] = found
	return found
}

func workloadOf(w topology.Workload) journey.Workload {
	return journey.Workload{Name: w.Name, Namespace: w.Namespace, Service: w.Service, Node: w.Node}
}

// netName is the namespace as an operator knows it.
func (n *Names) netName(netns uint32) string {
	if ns := n.state.Load().Namespace(netns); ns != nil {
		return ns.Name
	}
	return ""
}

// place decodes where a stamp was taken.
func (n *Names) place(p uint32) netpath.Place {
	hook := netpath.Hook(p >> 28) //nolint:gosec // 4 bits
	netns14, ifindex14 := uint16(p>>14&0x3fff), uint16(p&0x3fff)
	netns, ifindex, ok := n.state.Load().Resolve(netns14, ifindex14)
	if !ok {
		return netpath.Place{Hook: hook}
	}
	return netpath.Place{Hook: hook, Netns: netns, Ifindex: ifindex}
}
