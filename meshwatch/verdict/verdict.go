// Package verdict says whose time a journey was. It is pure: values in, values out.
//
// Every instant of the root's duration is given to at most one owner: a hop to the hop's class, processing inside a process
// to the role of that process. While a process waits for exchanges it made, or for connections it opened for them, the time is
// theirs; of several at once, of the one that finishes last. Instants that nothing covers are in no share.
package verdict

import (
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// class is a journey.Class as an index.
type class uint8

const (
	app class = iota
	sidecar
	gateway
	nodeTime
	network
	unknown
	classes
)

func (c class) name() journey.Class {
	return [...]journey.Class{journey.ClassApp, journey.ClassSidecar, journey.ClassGateway, journey.ClassNode,
		journey.ClassNetwork, journey.ClassUnknown}[c]
}

func classOf(c journey.Class) class {
	switch c {
	case journey.ClassApp:
		return app
	case journey.ClassSidecar:
		return sidecar
	case journey.ClassGateway:
		return gateway
	case journey.ClassNode:
		return nodeTime
	case journey.ClassNetwork:
		return network
	}
	return unknown
}

// serverClass is whose the processing time is. Where the server's socket was not seen the time between holds the wire and
// a remote process: nobody's.
func serverClass(e *journey.Exchange) class {
	if !e.Leg.Server.Known || e.Request.Recv == 0 {
		return unknown
	}
	switch e.Leg.Server.Role {
	case journey.RoleApp:
		return app
	case journey.RoleSidecar:
		return sidecar
	case journey.RoleGateway:
		return gateway
	}
	return unknown
}

const (
	stackExchanges = 16  // more than these, and the tree goes to the heap
	stackPieces    = 192 // 6 legs × 2 flights × 15 hops and 6 stretches fit
)

// Judge says whose time the journey was: the class with at least half of the duration, else mixed. It does not change j.
// Cost: about 2 µs and two allocations for 6 legs with 10 hops per flight (BenchmarkJudge).
func Judge(j *journey.Journey) journey.Verdict {
	if len(j.Exchanges) == 0 {
		return journey.Verdict{Class: journey.ClassUnknown}
	}
	var nodes [stackExchanges]node
	var pieces [stackPieces]piece
	w := walk{j: j}
	if n := len(j.Exchanges); n <= len(nodes) {
		w.tree = nodes[:n]
	} else {
		w.tree = make([]node, n)
	}
	if n := count(j); n <= len(pieces) {
		w.pieces = pieces[:n]
	} else {
		w.pieces = make([]piece, n)
	}
	w.run()
	var own [classes]uint64
	for k := range w.pieces {
		own[w.pieces[k].class] += w.pieces[k].own
	}
	v, winner := weigh(&own, uint64(max(j.Duration(), 0))) //nolint:gosec // not negative
	if winner < classes {
		v.Where = where(j, w.pieces, winner)
	}
	return v
}

// weigh makes the shares, largest first, and the verdict of them. The returned class is the one with most; classes: none.
func weigh(own *[classes]uint64, duration uint64) (journey.Verdict, class) {
	var order [classes]class
	n := 0
	for c := range classes {
		if own[c] == 0 {
			continue
		}
		k := n
		for ; k > 0 && own[order[k-1]] < own[c]; k-- {
			order[k] = order[k-1]
		}
		order[k] = c
		n++
	}
	if n == 0 {
		return journey.Verdict{Class: journey.ClassUnknown}, classes
	}
	v := journey.Verdict{Class: journey.ClassMixed, Shares: make([]journey.Share, n)}
	for k, c := range order[:n] {
		v.Shares[k] = journey.Share{Class: c.name(), Own: time.Duration(own[c])} //nolint:gosec // at most the duration
	}
	most := own[order[0]]
	v.Share = float64(most) / float64(duration)
	if most >= duration-most {
		v.Class = order[0].name()
	}
	return v, order[0]
}
