package main

import (
	"net/netip"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/cluster"
)

// meshTruth is what the proxies of a cluster logged of the load's requests.
type meshTruth struct {
	requests map[string]*meshRequest // by truth id
	parts    int                     // requests of which not all lines are there
}

// meshRequest is the truth about one request, and what journeys said of it.
type meshRequest struct {
	legs [legCount]meshLeg

	journeys int
	found    uint8              // legs in any journey
	right    [aspectCount]uint8 // legs of which this was said rightly
	wrong    [aspectCount]bool  // something was said that is not so
	joined   uint8              // legs in the journey that has most
}

// meshLeg is one connection of a request as the proxies logged it.
type meshLeg struct {
	client, server *cluster.Pod // client nil: the load, which is no pod
	peer           netip.AddrPort
	governed       *cluster.Access // of the proxy that received it; nil: an app did, which has no rules
}

// legNames of a cluster's, by the numbers of the lab's.
var legNames = [legCount]string{
	"client→gateway", "gateway→frontend sidecar", "frontend sidecar→frontend", "frontend→its sidecar", "frontend sidecar→backend sidecar", "backend sidecar→backend",
}

// readMeshTruth puts together the lines of each request. logged has those of the load's, by truth id.
func readMeshTruth(logged map[cluster.Received]cluster.Logged) *meshTruth {
	byID := map[string][]*cluster.Logged{}
	for key, line := range logged {
		byID[key.ID] = append(byID[key.ID], &line)
	}
	t := &meshTruth{requests: map[string]*meshRequest{}}
	for id, lines := range byID {
		if r := meshRequestOf(lines); r != nil {
			t.requests[id] = r
		} else {
			t.parts++
		}
	}
	return t
}

// lines of a request: the gateway's, the frontend's sidecar's in and out, the backend's.
const linesOfRequest = 4

// meshRequestOf orders the lines of a request; nil: these are not the lines of one that was answered at the first attempt.
func meshRequestOf(lines []*cluster.Logged) *meshRequest {
	var gateway, in, out, back *cluster.Logged
	for _, l := range lines {
		switch {
		case l.Code != okay || l.Attempts != 1:
			return nil
		case l.Pod.Namespace == cluster.GatewayNamespace:
			gateway = l
		case l.Pod.Labels["app"] == "backend":
			back = l
		case l.Inbound():
			in = l
		default:
			out = l
		}
	}
	if len(lines) != linesOfRequest || gateway == nil || in == nil || out == nil || back == nil ||
		gateway.UpstreamLocal != in.DownstreamDirect || out.UpstreamLocal != back.DownstreamDirect {
		return nil
	}
	at := func(from *cluster.Pod, l *cluster.Logged) meshLeg {
		return meshLeg{from, l.Pod, l.DownstreamDirect.AddrPort, &l.Access}
	}
	app := func(l *cluster.Logged) meshLeg {
		return meshLeg{l.Pod, l.Pod, l.UpstreamLocal.AddrPort, nil}
	}
	return &meshRequest{legs: [legCount]meshLeg{
		legEdge: at(nil, gateway), legFrontendIn: at(gateway.Pod, in), legFrontend: app(in),
		legFrontendOut: at(in.Pod, out), legBackendIn: at(in.Pod, back), legBackend: app(back),
	}}
}

// leg is which of a request's an exchange was on, -1: none. 127.0.0.6, from where sidecars call their apps, is in every pod.
func (r *meshRequest) leg(e *journey.Exchange) int {
	peer := e.Leg.Server.Peer
	if !e.Leg.Server.Known {
		peer = e.Leg.Client.Local
	}
	for k := range r.legs {
		l := &r.legs[k]
		if l.peer == peer && (l.governed != nil || e.Leg.Client.Peer.Addr() == l.server.IP || e.Leg.Server.Local.Addr() == l.server.IP) {
			return k
		}
	}
	return -1
}
