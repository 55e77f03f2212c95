package observe

import (
	"bytes"
	"net/netip"
	"strconv"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// room is the memory of one journey, each kind in one piece: few pieces cost less to make and, for as long as the journey is kept, to
// collect garbage around.
type room struct {
	exchanges []journey.Exchange
	flights   []journey.Flight // but requests, which their exchanges hold
	stamps    []journey.Stamp
	hops      []journey.Hop
}

func newRoom(t *join.Tree) *room {
	flights, stamps := 0, 0
	for _, x := range t.Exchanges {
		stamps += stampCount(x.Req.Flight)
		if x.Resp != nil {
			flights++
			stamps += stampCount(x.Resp.Flight)
		}
		if x.Connect != nil {
			flights++
			stamps += stampCount(x.Connect)
		}
	}
	return &room{
		make([]journey.Exchange, len(t.Exchanges)), make([]journey.Flight, flights),
		make([]journey.Stamp, stamps), make([]journey.Hop, stamps), // one between two stamps, and one from the last on
	}
}

// take cuts n off the front.
func take[T any](s *[]T, n int) []T {
	out := (*s)[:n:n]
	*s = (*s)[n:]
	return out
}

// same is b as a string: the one of the exchange before, which it mostly equals.
func same(before string, b []byte) string {
	if string(b) == before {
		return before
	}
	return string(b)
}

func protocol(h *head.Head, x *join.Exchange) string {
	if x.Stream.ID != 0 {
		return "http/2"
	}
	if h.Major == 1 && h.Minor == 1 {
		return "http/1.1"
	}
	return "http/" + strconv.Itoa(int(h.Major)) + "." + strconv.Itoa(int(h.Minor))
}

func (o *Observer) exchange(t *join.Tree, x *join.Exchange, r *room, before *journey.Exchange) *journey.Exchange {
	h := t.Head(x.Req)
	path, _, _ := bytes.Cut(h.Target, []byte("?"))
	e := &take(&r.exchanges, 1)[0]
	*e = journey.Exchange{
		Protocol: protocol(h, x), TLS: uint32(x.Req.Flight.Flags)&bpf.FlagPlain != 0, Stream: x.Stream.ID, Method: same(before.Method, h.Method), Target: same(before.Target, path), Host: same(before.Host, h.Host),
		RequestID: same(before.RequestID, h.RequestID), Trace: h.Trace, Parent: x.Parent, Error: x.Error,
		Request: o.renderFlight(x.Req.Flight, o.pathOf(x.Req), r),
	}
	if s := &x.Stream; s.GRPC {
		e.GRPC = &journey.GRPC{Status: int(s.Status), Sent: s.Sent, Received: s.Received, Exact: s.Exact}
	}
	if x.Connect != nil {
		e.Connect = &take(&r.flights, 1)[0]
		*e.Connect = o.renderFlight(x.Connect, o.connectPath(x), r)
	}
	for i, v := range h.Captured {
		if v == nil || i >= len(o.captures) {
			continue
		}
		if e.Headers == nil {
			e.Headers = map[string]string{}
		}
		e.Headers[o.captures[i]] = string(v)
	}
	e.Leg = journey.Leg{Client: o.end(x.Req.Flight, true), Server: o.end(x.Req.Flight, false)}
	if x.Resp != nil {
		e.Response, e.Status = &take(&r.flights, 1)[0], int(x.Resp.Status)
		*e.Response = o.renderFlight(x.Resp.Flight, o.pathOf(x.Resp), r)
		if !e.Leg.Server.Known {
			e.Leg.Server = o.end(x.Resp.Flight, true)
		}
		if e.Leg.Client.Pid == 0 && x.Resp.Flight.RecvSk != 0 {
			e.Leg.Client = o.end(x.Resp.Flight, false) // which thread wrote is not known: the one that read the answer
		}
		if e.Status >= 500 && e.Error == "" {
			e.Error = strconv.Itoa(e.Status)
		}
		if e.GRPC != nil && e.GRPC.Failed() && e.Error == "" {
			e.Error = e.GRPC.Code()
		}
	}
	if s := &e.Leg.Server; !s.Known {
		s.Workload = o.names.far(e.Leg.Client.Peer, x.Req.Flight.StartNs)
	}
	e.Leg.CrossZone = e.Leg.Client.Workload.Elsewhere(&e.Leg.Server.Workload)
	return e
}

func addrOf(b *[16]byte, v6 bool, port uint16) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(netip.AddrFrom16(*b).Unmap(), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port)
}

// end is the sending or the receiving end of a flight.
func (o *Observer) end(f *bpf.Flight, sender bool) journey.End {
	e := journey.End{Known: sender || f.RecvSk != 0}
	var pid, tid uint32
	if sender {
		v6 := uint32(f.Flags)&bpf.FlagIPv6 != 0
		e.Local, e.Peer = addrOf(&f.SendAddr, v6, f.SendPort), addrOf(&f.SendPaddr, v6, f.SendPeer)
		e.Netns, pid, tid = f.SendNetns, f.SendPid, f.Thread()
	} else if e.Known {
		v6 := uint32(f.Flags)&bpf.FlagRecvIPv6 != 0
		e.Local, e.Peer = addrOf(&f.RecvAddr, v6, f.RecvPort), addrOf(&f.RecvPaddr, v6, f.RecvPeer)
		e.Netns, pid, tid = f.RecvNetns, f.RecvPid, f.RecvTid
	} else {
		return e
	}
	e.Pid, e.Tid = int(pid), int(tid)
	e.NetName = o.names.netName(e.Netns)
	w := o.names.workload(e.Netns, e.Local, f.StartNs)
	e.Workload = workloadOf(w)
	p := o.names.process(pid, e.Netns, f.StartNs)
	e.Process, e.Thread = p.comm, p.comm
	if tid != pid && tid != 0 {
		if t := o.names.process(tid, e.Netns, f.StartNs); t.comm != "" {
			e.Thread = t.comm
		}
	}
	e.Role = o.names.role(p, w)
	return e
}

func (o *Observer) renderFlight(f *bpf.Flight, p *path, r *room) journey.Flight {
	out := journey.Flight{
		Serial: f.Id, Start: f.StartNs, SendEnd: f.SendNs, Recv: f.RecvNs, RecvEnd: f.RecvEndNs,
		Seq: f.Seq, Ack: f.Ack, Bytes: f.End - f.Seq, Retransmits: f.Retransmits, DropReason: f.DropReason,
		Deep: uint32(f.Flags)&bpf.FlagDeep != 0, Truncated: int(f.Nstamps) > bpf.MaxStamps,
		Stamps: take(&r.stamps, p.n),
		Hops:   take(&r.hops, p.n)[:0],
	}
	for i := range p.n {
		at := stampAt(f, i)
		pl := o.names.place(f.Stamps[i].Place)
		out.Stamps[i] = journey.Stamp{At: at, Hook: journey.Hook(pl.Hook), Netns: pl.Netns, Ifindex: pl.Ifindex}
		if i > 0 {
			out.Hops = append(out.Hops, p.steps[i].hop(out.Stamps[i-1].At, max(at, out.Stamps[i-1].At)))
		}
	}
	if p.wait.stat != nil && f.RecvNs != 0 {
		last := out.Stamps[p.n-1].At
		out.Hops = append(out.Hops, p.wait.hop(last, max(f.RecvNs, last)))
	}
	return out
}

func (s *step) hop(from, to uint64) journey.Hop {
	return journey.Hop{Name: s.name.Name, Kind: s.name.Kind, Class: s.class, From: from, To: to, Netns: s.netns, Net: s.net, Iface: s.iface}
}
