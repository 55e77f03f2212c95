package main

import (
	"fmt"
	"iter"
	"net/netip"
	"strconv"
	"strings"

	"github.com/meshwatch/meshwatch/test/lab"
)

// request is the truth about one request, and what the journeys said of it: of constant size, however long they are.
type request struct {
	ports  [legCount]uint16 // of each leg's client, by the access logs
	logged uint8            // legs that the logs name
	state  state

	call *call // nil: it is no gRPC call

	roots uint8 // journeys that begin at the client
	main  uint8 // legs in such a journey
	apart uint8 // legs in others
	whole uint8 // legs that were recorded with the response that is theirs, wherever they are
	lone  uint8 // legs that begin a journey
	wrong bool  // joined with what is not of this request
	flaw  cause // first fault of the journey
	why   string
}

// state says whether a request is scored, and why not.
type state uint8

const (
	scored       state = iota
	notAnswered        // not by 200, or broken off
	underWay           // the last of its connection: the load stopped before it had read the answer
	logsDisagree       // a line or a record is missing, or two name different ports or messages
	stateCount
)

var stateNames = [stateCount]string{"scored", "not answered by 200", "under way when the load stopped", "logs incomplete"}

// truth is all requests of one run, by number.
type truth struct {
	mesh     *mesh
	run      string
	requests map[uint64]*request
}

// number is what a truth id says: RUN-THREAD-COUNTER, see lab's wrk.lua. False for the ids of others.
func (t *truth) number(id string) (uint64, bool) {
	rest, ok := strings.CutPrefix(id, t.run+"-")
	if !ok {
		return 0, false
	}
	a, b, ok := strings.Cut(rest, "-")
	thread, err := strconv.ParseUint(a, 10, 16)
	if err != nil || !ok {
		return 0, false
	}
	count, err := strconv.ParseUint(b, 10, 48)
	return thread<<48 | count, err == nil
}

// readTruth makes the truth of what the proxies logged. logs gives a pod's log; gateway first. cut says that the load stopped without
// reading every answer.
func readTruth(m *mesh, run string, logs func(pod string) iter.Seq2[lab.Access, error], cut bool) (*truth, error) {
	t := &truth{mesh: m, run: run, requests: map[uint64]*request{}}
	last := map[uint16]uint64{} // by the client's port
	for _, pod := range []string{"gateway", "frontend", "backend"} {
		for a, err := range logs(pod) {
			if err != nil {
				return nil, err
			}
			n, ours := t.number(a.TruthID)
			if !ours {
				continue // the lab's own requests
			}
			if err := t.line(n, &a); err != nil {
				return nil, fmt.Errorf("read access log of %s: truth id %s: %w", pod, a.TruthID, err)
			}
			if pod == "gateway" && cut {
				port := a.DownstreamRemote.Port()
				last[port] = max(last[port], n)
			}
		}
	}
	for _, n := range last {
		t.requests[n].state = underWay
	}
	for _, r := range t.requests {
		if r.state == scored && r.logged != allLegs {
			r.state = logsDisagree
		}
	}
	return t, nil
}

// line takes one line of a log: the leg on which the proxy was asked, and the one on which it asked.
func (t *truth) line(n uint64, a *lab.Access) error {
	var in, out int
	switch {
	case a.Listener == "gateway":
		in, out = legEdge, legFrontendIn
	case a.Listener == "inbound" && a.Pod == "frontend":
		in, out = legFrontendIn, legFrontend
	case a.Listener == "outbound" && a.Pod == "frontend":
		in, out = legFrontendOut, legBackendIn
	case a.Listener == "inbound" && a.Pod == "backend":
		in, out = legBackendIn, legBackend
	default:
		return fmt.Errorf("listener %s of %s has no place in the mesh", a.Listener, a.Pod)
	}
	r := t.requests[n]
	if a.Listener == "gateway" {
		if r != nil {
			return fmt.Errorf("the gateway logged it twice")
		}
		r = &request{}
		t.requests[n] = r
		if a.Code != 200 || a.Flags != "--" {
			r.state = notAnswered
		}
	}
	if r == nil {
		return nil // the gateway was stopped before it logged
	}
	t.port(r, in, a.DownstreamRemote.AddrPort)
	t.port(r, out, a.UpstreamLocal.AddrPort)
	return nil
}

// port notes the client's port of a leg. Two proxies log the legs between them: they must agree.
func (t *truth) port(r *request, leg int, client netip.AddrPort) {
	known := r.logged&(1<<leg) != 0
	if client.Addr() != t.mesh.legs[leg].from || known && r.ports[leg] != client.Port() {
		if r.state == scored {
			r.state = logsDisagree
		}
		return
	}
	r.ports[leg] = client.Port()
	r.logged |= 1 << leg
}

// leg finds the leg of a request by its client's address, -1: the request had none from there.
func (t *truth) leg(r *request, client, to netip.AddrPort) int {
	for k := range t.mesh.legs {
		l := &t.mesh.legs[k]
		if r.logged&(1<<k) != 0 && r.ports[k] == client.Port() && l.from == client.Addr() && l.to == to {
			return k
		}
	}
	return -1
}
