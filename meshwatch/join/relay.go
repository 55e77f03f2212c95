package join

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"slices"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// link relates a group, and looks for the causes of what its heads say nothing of. True: it found one.
func (j *Joiner) link(g *group) (found bool) {
	j.relate(g)
	g.asking = false
	for i := 0; i < len(g.xs); i++ { // they may become more
		if x := g.xs[i]; x.parent == nil {
			found = j.seek(x) || found
			g.asking = g.asking || x.parent == nil && x.asClient.on != nil
		}
	}
	return found
}

// relate finds for every exchange of a group the one that caused it: the exchange that the same process had received and
// not answered when it sent this one. What was claimed stays, and all does if nothing came since the last time.
func (j *Joiner) relate(g *group) {
	if !g.stale {
		return
	}
	g.stale = false
	slices.SortFunc(g.xs, func(a, b *Exchange) int { return int(int64(a.Req.StartNs - b.Req.StartNs)) }) //nolint:gosec // a difference
	for _, x := range g.xs {
		x.asked = false
		if !x.claimed {
			x.parent, x.Relay, x.candidates = nil, journey.Relay{}, 0
		}
	}
	for _, x := range g.xs {
		if x.claimed {
			x.parent.asked = true
			continue
		}
		pid := x.ClientPid()
		if pid == 0 {
			continue
		}
		j.found = j.found[:0]
		for _, y := range g.xs {
			if headsSay(x, y, pid) {
				j.found = append(j.found, y)
			}
		}
		x.candidates = int32(len(j.found)) //nolint:gosec // at most maxGroup
		if len(j.found) > 0 {
			if y, confidence := j.decide(x, pid); y != nil {
				x.parent, y.asked = y, true
				x.Relay = journey.Relay{Method: methodOf(x, y), Confidence: confidence, Candidates: int(x.candidates), Pid: int(pid)}
				continue
			}
		}
		if z := x.maker; z != nil && (len(j.found) == 0 || slices.Contains(j.found, z)) {
			x.parent, z.asked = z, true
			x.Relay = journey.Relay{Method: journey.MethodGoroutine, Confidence: x.madeSure, Candidates: max(int(x.candidates), 1), Pid: int(pid)}
		}
	}
}

// waits says whether an exchange of a group lacks a parent or a child that may still come.
func (j *Joiner) waits(g *group) bool {
	for _, x := range g.xs {
		if pid := x.ClientPid(); pid != 0 && x.parent == nil && x.candidates == 0 && !x.isHopeless() && j.serves(pid) {
			return true
		}
		// a proxy that asked nobody: what it asked is still on its way to us, or it answered by itself
		if !x.asked && x.Resp != nil && j.isProxy(x.ServerPid()) {
			return true
		}
	}
	return false
}

// serves says whether a process asks because it was asked: it was seen to be, or it is a proxy, whose first request may
// still be on its way to us.
func (j *Joiner) serves(pid uint32) bool {
	if _, seen := j.servers[pid]; seen {
		return true
	}
	return j.isProxy(pid)
}

// holds says whether the exchange's server had read the request and not answered at this time.
func (x *Exchange) holds(ns uint64) bool {
	read := x.Req.RecvNs
	return read != 0 && read <= ns && (x.Resp == nil || ns <= x.Resp.StartNs)
}

// leavesPod says whether x cannot be caused by y: what iptables redirects to a sidecar on its way into a pod (to the address it was for,
// another port) goes to that pod. Between the two is the app, of whose exchanges nothing may have been seen.
func leavesPod(x, y *Exchange) bool {
	in, out := y.Req.Flight, x.Req.Flight
	if in.RecvSk == 0 || in.RecvPort == in.SendPeer || in.RecvAddr != in.SendPaddr || uint32(in.Flags^out.Flags)&bpf.FlagIPv6 != 0 {
		return false
	}
	to := netip.AddrFrom16(out.SendPaddr)
	if uint32(out.Flags)&bpf.FlagIPv6 == 0 {
		to = netip.AddrFrom4([4]byte(out.SendPaddr[:4]))
	}
	return out.SendPaddr != in.RecvAddr && !to.IsLoopback()
}

// headsSay says whether y may have caused x, which this process asked, and heads say so.
func headsSay(x, y *Exchange, pid uint32) bool {
	return y != x && y.ServerPid() == pid && y.holds(x.Req.StartNs) && sameRequest(x, y) && !leavesPod(x, y)
}

// sameRequest says whether the heads themselves say that two exchanges belong to one request.
func sameRequest(x, y *Exchange) bool {
	if x.hasID && y.hasID && x.id == y.id {
		return true
	}
	return x.TraceID != [16]byte{} && x.TraceID == y.TraceID
}

func methodOf(x, y *Exchange) journey.Method {
	switch {
	case !x.hasID || !y.hasID || x.id != y.id:
		return journey.MethodTrace
	case x.byResp || y.byResp:
		return journey.MethodResponseID
	}
	return journey.MethodRequestID
}

// decide picks the cause of x among j.found, all of which carry its id and were open in its process. With more than one
// it takes what a proxy keeps unchanged: the same id first, then method, target and host, then the address that the
// client meant, then that a proxy answers one request by one request at a time. Nil: undecided.
func (j *Joiner) decide(x *Exchange, pid uint32) (*Exchange, float64) {
	c := j.found
	if len(c) == 1 {
		return j.only(x, c[0], pid)
	}
	if n := narrow(c, func(y *Exchange) bool { return x.hasID && y.hasID && x.id == y.id }); n > 0 {
		c = c[:n]
	}
	if len(c) == 1 {
		return c[0], 1
	}
	if !j.isProxy(pid) {
		return nil, 0 // an app may do anything
	}
	if n := narrow(c, func(y *Exchange) bool {
		return y.target == x.target && y.host == x.host
	}); n > 0 {
		c = c[:n]
	}
	if len(c) == 1 {
		return c[0], 1
	}
	if n := narrow(c, func(y *Exchange) bool {
		return y.Req.Flight.SendPeer == x.Req.Flight.SendPeer && y.Req.Flight.SendPaddr == x.Req.Flight.SendPaddr
	}); n > 0 {
		c = c[:n]
	}
	if len(c) == 1 {
		return c[0], 1
	}
	at := x.Req.StartNs
	n := narrow(c, func(y *Exchange) bool { return !y.busyAt(at) })
	if n == 1 {
		return c[0], onePerProxy
	}
	return nil, 0
}

// only decides where one candidate is left. Its true cause may be one whose flights were lost: then a proxy would do two things
// at once for the one that is left. That it does only with the same request, mirrored or hedged.
func (j *Joiner) only(x, y *Exchange, pid uint32) (*Exchange, float64) {
	if !y.busyAt(x.Req.StartNs) || !j.isProxy(pid) {
		return y, 1
	}
	if x.target == y.target && j.sameHost(x, y) {
		return y, onePerProxy
	}
	return nil, 0
}

// sameHost says whether x goes to the host of y, but for what Envoy adds to that of a mirrored request.
func (j *Joiner) sameHost(x, y *Exchange) bool {
	host, _ := bytes.CutSuffix(j.head(x.Req).Host, []byte("-shadow"))
	return maphash.Bytes(j.seed, host) == y.host
}

// busyAt says whether another exchange was under way for this one.
func (x *Exchange) busyAt(ns uint64) bool {
	if x.group == nil {
		return false
	}
	for _, z := range x.group.xs {
		if z.parent == x && z.Req.StartNs <= ns && (z.Resp == nil || ns <= z.Resp.RecvNs) {
			return true
		}
	}
	return false
}

// onePerProxy is the confidence of a join that rests on a proxy's sending one request at a time for one it received:
// mirrors and hedged retries break that.
const onePerProxy = 0.99

// narrow moves the exchanges that pass to the front and says how many they are.
func narrow(c []*Exchange, pass func(*Exchange) bool) int {
	n := 0
	for i, y := range c {
		if pass(y) {
			c[n], c[i] = c[i], c[n]
			n++
		}
	}
	return n
}

// whyRoot counts why an exchange has no parent although its process serves requests, and says it.
func (j *Joiner) whyRoot(g *group, x *Exchange) string {
	pid := x.ClientPid()
	switch {
	case pid == 0:
		j.lost.noThread.Add(1)
		return "process-not-seen"
	case x.candidates > 1, x.sought > 1, j.mayBeOf(x) > 1:
		j.lost.ambiguous.Add(1)
		return "ambiguous"
	}
	if !j.serves(pid) {
		return ""
	}
	if !x.hasID && len(g.traces) == 0 {
		j.lost.noID.Add(1)
		return "no-id"
	}
	j.lost.noParent.Add(1)
	return "no-parent"
}
