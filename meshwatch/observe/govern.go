package observe

import (
	"net/netip"
	"slices"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/topology/proxy"
)

// Governor knows the configuration of this node's proxies.
type Governor interface {
	// Govern says what governed a request that a workload's proxy received. at is CLOCK_MONOTONIC in ns.
	Govern(w *journey.Workload, r *proxy.Request, at uint64) proxy.Answer
}

// Govern has a Governor asked about each request that a proxy received. It is called before the first Render. What cannot be said is
// counted in lost.
func (o *Observer) Govern(by Governor, lost *loss.Set) {
	o.governor, o.unclear = by, lost.Counter("route", "request-unclear")
	for _, why := range proxy.Unsaid() {
		o.unsaid[why] = lost.Counter(LostRoute, string(why))
	}
}

// LostRoute is the stage at which it is lost what governed a request, by proxy.Unsaid.
const LostRoute = "route"

// envoy is the process whose configuration can be asked for.
const envoy = "envoy"

// hbone is the port of Istio's tunnels.
const hbone = 15008

// maxSaid bounds the answers that are kept in words: one for each pair of route and cluster.
const maxSaid = 10_000

// govern says of each exchange that a proxy received what governed it there.
func (o *Observer) govern(t *join.Tree, j *journey.Journey) {
	if o.governor == nil {
		return
	}
	for i, e := range j.Exchanges {
		server := &e.Leg.Server
		if server.Process != envoy || server.Role != journey.RoleSidecar && server.Role != journey.RoleGateway || server.Workload.Name == "" {
			continue
		}
		h := t.Head(t.Exchanges[i].Req)
		r, certain, ok := requestOf(j, i)
		if !ok || h.TargetCut {
			o.unclear.Add(1)
			continue
		}
		r.Path = string(h.Target)
		r.Header = o.header(h, e.Stream == 0 && h.HeadLen > 0)
		a := o.governor.Govern(&server.Workload, &r, e.Request.Start)
		if !certain && (a.Cluster == nil || a.Cluster.Port == 0) {
			o.unclear.Add(1)
			continue // the port was only supposed, and it is none of a service
		}
		if c := o.unsaid[a.Why]; c != nil {
			c.Add(1)
		}
		e.Governance = o.say(a)
	}
}

// requestOf is what the proxy knew of an exchange, but for its head. certain: where the client connected to was seen, not worked out.
func requestOf(j *journey.Journey, i int) (r proxy.Request, certain, ok bool) {
	e := j.Exchanges[i]
	client, server := &e.Leg.Client, &e.Leg.Server
	r = proxy.Request{Local: client.Peer, TLS: e.TLS, Protocol: e.Protocol, Authority: e.Host, Method: e.Method}
	for k := len(j.Exchanges) - 1; k > i; k-- { // the last one counts, where it was repeated
		if next := j.Exchanges[k]; next.Parent == i {
			r.Upstream = next.Leg.Client.Peer
			break
		}
	}
	if r.Upstream.Port() == hbone {
		r.Upstream = netip.AddrPort{} // the endpoint's own port is inside of the tunnel
	}
	switch {
	case server.Role == journey.RoleGateway:
		r.Direction, r.Local = proxy.Gateway, server.Local
		return r, true, true
	case client.Known && client.Netns == server.Netns: // the app beside it
		r.Direction = proxy.Outbound
		return r, true, r.Local.IsValid()
	}
	r.Direction = proxy.Inbound
	at := server.Local.Addr()
	if client.Known && client.Peer.Addr() == at {
		return r, true, true
	}
	// A virtual address, or a client that was not seen: a sidecar asks the app beside it where it was asked itself.
	r.Local = r.Upstream
	return r, false, r.Local.IsValid() && r.Local.Addr() == at && !at.IsLoopback()
}

// header looks among the captured ones. complete: what is not there was not sent.
func (o *Observer) header(h *head.Head, complete bool) func(string) (string, proxy.Presence) {
	if len(o.captures) == 0 {
		return nil
	}
	return func(name string) (string, proxy.Presence) {
		i := slices.Index(o.captures, name)
		switch {
		case i < 0 || i >= len(h.Captured):
			return "", proxy.Unknown
		case h.Captured[i] != nil:
			return string(h.Captured[i]), proxy.Present
		case complete:
			return "", proxy.Absent
		}
		return "", proxy.Unknown
	}
}

// say puts an answer into a journey's words: the same for all journeys with this answer.
func (o *Observer) say(a proxy.Answer) *journey.Governance {
	if g := o.said[a]; g != nil {
		return g
	}
	if len(o.said) >= maxSaid {
		clear(o.said)
	}
	g := &journey.Governance{Unknown: string(a.Why)}
	if r := a.Route; r != nil {
		g.Route, g.VirtualHost, g.Defined, g.Policy = r.Name, r.VirtualHost, journey.Resource(r.Resource), policyOf(r.Policy)
	}
	if c := a.Cluster; c != nil {
		g.Cluster, g.Subset, g.Service, g.Destination = c.Name, c.Subset, c.Host, journey.Resource(c.Resource)
	}
	o.said[a] = g
	return g
}

func policyOf(p *proxy.Policy) *journey.Policy {
	if p == nil {
		return nil
	}
	out := &journey.Policy{Timeout: p.Timeout, Local: p.Local}
	if r := p.Retry; r != nil {
		out.RetryOn, out.Retries, out.PerTry = r.On, r.Most, r.PerTry
	}
	for _, m := range p.Mirrors {
		out.Mirrors = append(out.Mirrors, m.Cluster)
	}
	if f := p.Fault; f != nil {
		out.Delay, out.DelayShare, out.Abort, out.AbortShare = f.Delay, f.DelayShare, f.Abort, f.AbortShare
	}
	return out
}
