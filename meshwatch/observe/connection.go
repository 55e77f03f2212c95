package observe

import (
	"net/netip"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/edges"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/netpath"
)

// ephemeral is where Linux begins to take ports from for clients.
const ephemeral = 32768

// pilotAgent starts a sidecar and looks after it: what it asks and answers is the sidecar's own.
const pilotAgent = "pilot-agent"

// Connection is what the first flight seen on a connection says of it; of a SYN, which may be all there is, only if it goes where nobody
// is. False: it is none of the mesh's, as it stays inside of a network namespace, or a SYN that may be answered.
func (o *Observer) Connection(f *bpf.Flight, b join.Bytes) (edges.Connection, bool) {
	flags := uint32(f.Flags)
	syn := flags&bpf.FlagSYN != 0
	if syn && !o.names.Store().Gone(addrOf(&f.SendPaddr, flags&bpf.FlagIPv6 != 0, 0).Addr(), f.StartNs) {
		return edges.Connection{}, false
	}
	client, server := o.end(f, true), o.end(f, false)
	if server.Known && client.Netns == server.Netns {
		return edges.Connection{}, false
	}
	from, to := client.Local, client.Peer
	low, lowPeer := from.Port() < ephemeral, to.Port() < ephemeral
	switch {
	case from.Addr() == to.Addr(), to.Addr().IsLoopback():
		return edges.Connection{}, false // the node's own, whose other end was not seen
	case b == join.BytesAnswer, low && !lowPeer: // the server spoke first, or its client was not heard
		client, server = server, client
		from, to = to, from
	case low == lowPeer && b == join.BytesUnknown && !syn:
		return edges.Connection{}, false // nobody knows which is the server
	}
	if !server.Known && o.redirected(client.Netns) && !o.leaves(f) {
		return edges.Connection{}, false // to its sidecar, which has not read it
	}
	c := edges.Connection{At: f.StartNs, Client: o.edgeEnd(&client, from.Addr(), f.StartNs), Server: o.edgeEnd(&server, to.Addr(), f.StartNs)}
	switch b {
	case join.BytesPlain, join.BytesAnswer:
		c.Security = edges.Plain
	case join.BytesTLS:
		c.Security = edges.TLS
	}
	if server.Known && c.Server.Role != journey.RoleSidecar {
		c.Port = server.Local.Port() // behind whatever virtual address
	} else {
		c.Port = o.target(to)
	}
	c.Gone = c.Server.Workload == "" && o.names.Store().Gone(c.Server.Addr, f.StartNs)
	return c, c.Gone || !syn
}

// edgeEnd is an end of an edge. addr is by what the other end knows it, if its socket was not seen.
func (o *Observer) edgeEnd(e *journey.End, addr netip.Addr, at uint64) edges.End {
	w := e.Workload
	if !e.Known {
		w = o.names.far(netip.AddrPortFrom(addr, 0), at)
	} else if e.Local.Addr().IsValid() {
		addr = e.Local.Addr()
	}
	out := edges.End{Namespace: w.Namespace, Workload: w.Name, Service: w.Service, Addr: addr.Unmap(), Process: e.Process, Role: e.Role}
	ns := o.names.State().Namespace(e.Netns)
	if !e.Known {
		ns = o.home(out.Addr)
	}
	if ns == nil {
		return out
	}
	out.Sidecar, out.Host = ns.Redirects(), ns.Host
	if out.Sidecar && e.Process == pilotAgent {
		out.Role = journey.RoleSidecar
	}
	return out
}

// home is the namespace of this node that has an address; nil: none, or the host's, whose addresses others may have too.
func (o *Observer) home(addr netip.Addr) *netpath.Namespace {
	if state := o.names.State(); o.homesOf != state {
		o.homesOf, o.homes = state, map[netip.Addr]*netpath.Namespace{}
		for _, ns := range state.Namespaces {
			for i := range ns.Links {
				for _, prefix := range ns.Links[i].Addrs {
					if a := prefix.Addr().Unmap(); !ns.Host && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
						o.homes[a] = ns
					}
				}
			}
		}
	}
	return o.homes[addr]
}

// redirected says whether a namespace's traffic goes to a sidecar.
func (o *Observer) redirected(netns uint32) bool {
	ns := o.names.State().Namespace(netns)
	return ns != nil && ns.Redirects()
}

// leaves says whether a flight was seen outside of its sender's namespace.
func (o *Observer) leaves(f *bpf.Flight) bool {
	for i := range min(int(f.Nstamps), bpf.MaxStamps) { //nolint:gosec // min
		if at := o.names.place(f.Stamps[i].Place); at.Netns != 0 && at.Netns != f.SendNetns {
			return true
		}
	}
	return false
}

// target is the port behind a service's virtual address.
func (o *Observer) target(to netip.AddrPort) uint16 {
	for _, s := range o.names.Store().ServicesAt(to.Addr()) {
		for _, p := range s.Ports {
			if p.Service == to.Port() && p.Target != 0 {
				return p.Target
			}
		}
	}
	return to.Port()
}
