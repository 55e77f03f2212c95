package proxy

import (
	"net/netip"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// maxChains is how many filter chains are weighed when it is not known which one took a connection: those of TLS servers whose
// name was not seen.
const maxChains = 8

// listeners are a proxy's, by how they are found.
type listeners struct {
	count   int
	bound   map[uint16]*Listener         // with a socket of their own; those of one port on several addresses: opaque
	handed  map[netip.AddrPort]*Listener // that others hand on to
	hands   *Listener                    // a sidecar's outbound one
	inbound *Listener                    // a sidecar's, for all ports
}

func index(all map[string]*Listener) listeners {
	out := listeners{count: len(all), bound: map[uint16]*Listener{}, handed: map[netip.AddrPort]*Listener{}}
	for _, l := range all {
		if l.bound && l.hands {
			out.hands = l
		}
		if l.bound && l.original && l.direction == core.TrafficDirection_INBOUND {
			out.inbound = l
		}
		for _, a := range l.addrs {
			if !l.bound {
				out.handed[a] = l
			} else if other := out.bound[a.Port()]; other != nil && other != l {
				out.bound[a.Port()] = &Listener{opaque: true}
			} else {
				out.bound[a.Port()] = l
			}
		}
	}
	return out
}

// find is the listener that took a request; nil: none.
func (ls *listeners) find(r *Request) *Listener {
	to := unmap(r.Local)
	switch r.Direction {
	case Gateway:
		return ls.bound[to.Port()]
	case Inbound:
		if l := ls.bound[to.Port()]; l != nil && l.direction == core.TrafficDirection_INBOUND {
			return l
		}
		return ls.inbound
	}
	if ls.hands == nil || ls.hands.opaque {
		return ls.hands
	}
	for _, a := range [...]netip.AddrPort{to, netip.AddrPortFrom(netip.IPv4Unspecified(), to.Port()), netip.AddrPortFrom(netip.IPv6Unspecified(), to.Port())} {
		if l := ls.handed[a]; l != nil {
			return l
		}
	}
	return ls.hands
}

// chains are those that may have taken a request. sure is false if others may, too.
func (ls *listeners) chains(r *Request, room []*chain) (out []*chain, sure bool) {
	l := ls.find(r)
	if l == nil {
		return nil, true
	}
	if l.opaque {
		return append(room, nil), false
	}
	among := l.byPort[r.Local.Port()]
	if among == nil || r.Local.Port() == 0 {
		among = l.byPort[0]
	}
	return l.narrow(among, r, room)
}

// mismatch is the rank of a chain that does not take a connection.
const mismatch = -1

// narrow goes through Envoy's criteria in its order: of those chains that agree with the connection only the most specific ones
// go on to the next. Where it is not known whether they agree, all do.
func (l *Listener) narrow(among []*chain, r *Request, room []*chain) (out []*chain, sure bool) {
	addr, seen := r.Local.Addr().Unmap(), l.inspects.seen(r)
	near, name := mismatch, mismatch
	for _, c := range among {
		near = max(near, c.near(addr))
	}
	for _, c := range among {
		if c.near(addr) == near {
			name = max(name, c.named(r, seen))
		}
	}
	if near == mismatch || name == mismatch {
		among = nil
	}
	for _, c := range among {
		if c.near(addr) != near || c.named(r, seen) != name {
			continue
		}
		if len(room) == maxChains {
			return append(room[:0], c), false
		}
		room = append(room, c)
	}
	transport := seen != maybe
	protocol := seen == no && (l.inspects.http == no || l.inspects.http == yes && r.Protocol != "")
	if transport {
		room = most(room, func(c *chain) int { return c.rankTransport(seen) })
	}
	if protocol {
		room = most(room, func(c *chain) int { return c.rankProtocol(r.Protocol, l.inspects.http) })
	}
	names := seen == no || seen == yes && r.SNI != ""
	certain := slices.ContainsFunc(room, func(c *chain) bool {
		return !c.sources && (transport || c.transport == "") && (protocol || len(c.protocols) == 0) && (names || len(c.names) == 0)
	})
	if !certain && l.fallback != nil {
		room = append(room, l.fallback)
	}
	return room, true
}

// seen says whether a listener sees that a connection is TLS.
func (i inspectors) seen(r *Request) verdict {
	if !r.TLS {
		return no
	}
	return i.tls
}

// most keeps the chains of the highest rank.
func most(chains []*chain, rank func(*chain) int) []*chain {
	best := mismatch
	for _, c := range chains {
		best = max(best, rank(c))
	}
	out := chains[:0]
	for _, c := range chains {
		if best != mismatch && rank(c) == best {
			out = append(out, c)
		}
	}
	return out
}

// near ranks by destination: the longest prefix.
func (c *chain) near(addr netip.Addr) int {
	if len(c.prefixes) == 0 {
		return 0
	}
	best := mismatch
	for _, p := range c.prefixes {
		if p.Contains(addr) {
			best = max(best, p.Bits()+1)
		}
	}
	return best
}

// named ranks by the TLS server's name: the very name, the longest end of it, none. All are the same where it is not known.
func (c *chain) named(r *Request, seen verdict) int {
	switch {
	case seen == maybe || seen == yes && r.SNI == "" || len(c.names) == 0:
		return 0
	case seen == no:
		return mismatch
	}
	const exact = 1 << 16
	best := mismatch
	for _, name := range c.names {
		if name == r.SNI {
			return exact
		}
		if end, ok := strings.CutPrefix(name, "*"); ok && strings.HasSuffix(r.SNI, end) {
			best = max(best, len(name))
		}
	}
	return best
}

func (c *chain) rankTransport(seen verdict) int {
	is := "raw_buffer"
	if seen == yes {
		is = "tls"
	}
	switch c.transport {
	case is:
		return 1
	case "":
		return 0
	}
	return mismatch
}

// rankProtocol ranks by what the HTTP inspector found in clear text.
func (c *chain) rankProtocol(protocol string, inspected verdict) int {
	if len(c.protocols) == 0 {
		return 0
	}
	if protocol == "http/2" {
		protocol = "h2c"
	}
	if inspected == yes && slices.Contains(c.protocols, protocol) {
		return 1
	}
	return mismatch
}
