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
	proxies []string
	state   atomic.Pointer[netpath.State]
	store   atomic.Pointer[topology.Store]
	procs   map[uint32]process
	tenants map[uint32]netip.Addr // by network namespace: the address by which the topology knows its workload
	seen    known                 // what tenants was made from
	swept   uint64
}

// known is a datapath and a topology: names hold as long as both do.
type known struct {
	state *netpath.State
	store *topology.Store
}

// process is what /proc says of one; kept for procTTL, as ids are used again.
type process struct {
	comm  string
	netns uint32
	at    uint64
	proxy bool // by its name
}

const procTTL = int64(30e9) // ns

// NewNames makes Names in which nothing is known yet. proxies are the process names that are proxies.
func NewNames(proxies []string) *Names {
	n := &Names{proxies: proxies, procs: map[uint32]process{}, tenants: map[uint32]netip.Addr{}}
	n.state.Store(&netpath.State{})
	return n
}

// SetState replaces the datapath.
func (n *Names) SetState(s *netpath.State) { n.state.Store(s) }

// Store is the topology as last set, nil: none was.
func (n *Names) Store() *topology.Store { return n.store.Load() }

// SetStore replaces the topology.
func (n *Names) SetStore(s *topology.Store) { n.store.Store(s) }

func (n *Names) known() known { return known{n.state.Load(), n.store.Load()} }

// State is the datapath as last set.
func (n *Names) State() *netpath.State { return n.state.Load() }

// process looks a process up, in /proc when it was not seen lately. now is in ns.
func (n *Names) process(pid, netns uint32, now uint64) process {
	if pid == 0 {
		return process{}
	}
	if p, ok := n.procs[pid]; ok && since(p.at, now) < procTTL && p.netns == netns {
		return p
	}
	p := n.called(comm("/proc/"+strconv.Itoa(int(pid))+"/comm"), netns, now)
	n.procs[pid] = p
	if since(n.swept, now) > 2*procTTL {
		n.swept = now
		for id, old := range n.procs {
			if since(old.at, now) > 2*procTTL {
				delete(n.procs, id)
			}
		}
	}
	return p
}

// called is a process of a name.
func (n *Names) called(name string, netns uint32, at uint64) process {
	return process{name, netns, at, slices.Contains(n.proxies, name)}
}

// since is negative where flights come out of order.
func since(then, now uint64) int64 { return int64(now - then) } //nolint:gosec // a difference

func comm(path string) string {
	b, err := os.ReadFile(path) //nolint:gosec // a path in /proc
	if err != nil {
		return "" // it has ended
	}
	return string(bytes.TrimSuffix(b, []byte("\n")))
}

// IsProxy says whether a process is a proxy by its name. The joiner asks several times for each request, so a name is kept as
// process keeps it, whoever looked it up. now is in ns, of the flights' clock.
func (n *Names) IsProxy(pid uint32, now uint64) bool {
	p, ok := n.procs[pid]
	if !ok || since(p.at, now) >= procTTL {
		p = n.process(pid, p.netns, now)
	}
	return p.proxy
}

// role tells a sidecar from a gateway by the namespace's rules: traffic is redirected to a sidecar only. Of what is no
// sidecar the topology's word counts more than the process's name.
func (n *Names) role(p process, w topology.Workload) journey.Role {
	if p.proxy {
		if ns := n.state.Load().Namespace(p.netns); ns != nil && ns.Redirects() {
			return journey.RoleSidecar
		}
	}
	switch {
	case w.Role == topology.RoleGateway:
		return journey.RoleGateway
	case w.Role != topology.RoleUnknown:
		return journey.RoleApp
	case p.comm == "":
		return journey.RoleUnknown
	case p.proxy:
		return journey.RoleGateway
	}
	return journey.RoleApp
}

// workload is who lived in a network namespace at a time, by any of its addresses; in the host's, who had the address of the socket.
func (n *Names) workload(netns uint32, local netip.AddrPort, at uint64) topology.Workload {
	now := n.known()
	if n.seen != now {
		clear(n.tenants)
		n.seen = now
	}
	if ns := now.state.Namespace(netns); ns != nil && !ns.Host {
		addr, ok := n.tenants[netns]
		if !ok {
			addr = tenant(ns, now.store)
			n.tenants[netns] = addr
		}
		local = netip.AddrPortFrom(addr, local.Port())
	}
	if w, ok := now.store.Lookup(local, at); ok {
		return *w
	}
	return topology.Workload{}
}

// tenant is the first of a namespace's addresses that the topology knows, invalid if it knows none.
func tenant(ns *netpath.Namespace, s *topology.Store) netip.Addr {
	for i := range ns.Links {
		for _, prefix := range ns.Links[i].Addrs {
			if s.Has(prefix.Addr()) {
				return prefix.Addr()
			}
		}
	}
	return netip.Addr{}
}

func workloadOf(w topology.Workload) journey.Workload {
	out := journey.Workload{
		Name: w.Name, Namespace: w.Namespace, Service: w.Service, Node: w.Node, Version: w.Version, Kind: w.Kind, UID: w.UID, Cluster: w.Cluster,
		Region: w.Region, Zone: w.Zone,
	}
	if w.ServiceNamespace != w.Namespace {
		out.ServiceNamespace = w.ServiceNamespace
	}
	if out.Version == "" && w.Revision != noRevision {
		out.Version = w.Revision
	}
	return out
}

// noRevision is the canonical revision of a workload whose labels say none.
const noRevision = "latest"

// far is who has an address that was called, on another node: no socket of it was seen.
func (n *Names) far(peer netip.AddrPort, at uint64) journey.Workload {
	if w, ok := n.store.Load().Lookup(peer, at); ok {
		return workloadOf(*w)
	}
	return journey.Workload{}
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
