package join

import (
	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// maxGroup bounds what is weighed together: an id or trace that is used more often is not one request's.
const maxGroup = 512

// group is the exchanges that carry the same request id or trace.
type group struct {
	ids    []head.ID
	traces [][16]byte
	xs     []*Exchange
	open   int // exchanges that are not over
	last   uint64
	due    uint64
	queued bool

	linking bool // it is due: flush has it
	stale   bool // something came since it was related
	asking  bool // one of its exchanges has no parent, and may get one
}

// identify puts an exchange in the group of its request id, else of its trace, as soon as one is known.
func (j *Joiner) identify(x *Exchange) {
	if !x.hasID {
		x.id, x.hasID, x.byResp = j.idOf(x)
	}
	trace := x.TraceID
	if x.group != nil {
		x.group.stale = true
		if x.hasID && j.groups[x.id] == nil {
			j.groups[x.id] = x.group
			x.group.ids = append(x.group.ids, x.id)
		}
		return
	}
	traced := trace != [16]byte{}
	if !x.hasID && !traced {
		return
	}
	var g *group
	if x.hasID {
		g = j.groups[x.id]
	}
	if g == nil && traced {
		g = j.traces[trace]
	}
	if g != nil && len(g.xs) >= maxGroup {
		j.lost.groupFull.Add(1)
		j.unkey(g)
		g = nil
	}
	if g == nil {
		g = j.newGroup()
	}
	if x.hasID && j.groups[x.id] == nil {
		j.groups[x.id] = g
		g.ids = append(g.ids, x.id)
	}
	if traced && j.traces[trace] == nil {
		j.traces[trace] = g
		g.traces = append(g.traces, trace)
	}
	j.join(g, x)
}

func (j *Joiner) join(g *group, x *Exchange) {
	g.xs = append(g.xs, x)
	g.last, g.stale = j.now, true
	x.group = g
	if !x.done {
		g.open++
	}
}

// idOf is the request id of an exchange: of its request, or else the one that came back.
func (j *Joiner) idOf(x *Exchange) (id head.ID, ok, byResponse bool) {
	switch {
	case x.Req.id == idAmbiguous:
		j.lost.ambiguousID.Add(1)
	case x.Req.id == idGiven:
		id, ok = head.ParseID(j.head(x.Req).RequestID)
		return id, ok, false
	case x.Resp != nil && x.Resp.id == idGiven:
		id, ok = head.ParseID(j.head(x.Resp).RequestID)
		return id, ok, true
	}
	return id, false, false
}

// finish notes that an exchange is over: answered or failed.
func (j *Joiner) finish(x *Exchange) {
	j.shelve(x)
	j.consider(x)
	j.heed(x)
	j.isOver(x)
	j.served(x)
	j.answers(x)
	if r := x.Resp; r != nil {
		j.note(eventAnswered, x, r.SendPid, r.Flight.Thread(), r.StartNs)
		if heard := r.heardNs(); heard < r.RecvEndNs {
			j.note(eventHears, x, r.RecvPid, r.Flight.RecvTid, heard)
		}
		j.note(eventFree, x, r.RecvPid, r.Flight.RecvTid, max(r.RecvNs, r.RecvEndNs))
	} else {
		j.missed(x.Req.StartNs, j.now, x.Req.SendPid, x.Req.RecvPid)
	}
	if x.group == nil {
		j.join(j.newGroup(), x)
	}
	x.done = true
	g := x.group
	g.open--
	g.stale = true
	g.last = max(g.last, j.now)
	if x.Resp != nil {
		g.last = max(g.last, x.Resp.LastSeen()) // the clock stands still while flights are read
	}
	j.enqueue(g)
}

func (j *Joiner) enqueue(g *group) {
	if g.open > 0 || g.queued {
		return
	}
	j.lookAt(g, g.last+uint64(j.cfg.Linger))
}

// lookAt has flush look at a group when it is due.
func (j *Joiner) lookAt(g *group, due uint64) {
	g.queued, g.due = true, due
	j.quiet = append(j.quiet, g)
}

// flush gives out the groups that have been quiet for long enough. All of them are related before any is given: what caused one may
// be in another.
func (j *Joiner) flush(all bool) {
	n := 0
	for ; n < len(j.quiet) && (all || j.quiet[n].due <= j.now); n++ {
		g := j.quiet[n]
		g.queued = false
		switch {
		case len(g.xs) == 0: // gathered into another one
			j.freeGroup(g)
		case g.open > 0: // finish brings it back
		case g.last+uint64(j.cfg.Linger) > j.now && !all:
			j.enqueue(g)
		default:
			g.linking, g.asking = true, true
			if j.awaitsWord(g) && len(g.xs) > 0 && !all {
				g.linking = false
				j.lookAt(g, j.now+uint64(max(j.cfg.Linger, j.cfg.Hear/hearings)))
				continue
			}
			j.due = append(j.due, g)
		}
	}
	if n > 0 {
		j.quiet = append(j.quiet[:0], j.quiet[n:]...)
	}
	j.holds()
	for round, found := 0, true; found && round < mostRounds; round++ {
		found = false
		for _, g := range j.due { // what is found leaves less for others to be
			found = g.asking && j.link(g) || found
		}
	}
	for _, g := range j.due {
		g.linking = false
		j.settled(g, all)
	}
	clear(j.due)
	j.due = j.due[:0]
}

// mostRounds bounds how often that is done: each round but the last finds something.
const mostRounds = 16

// settled gives out a group that was linked, unless more of it may come.
func (j *Joiner) settled(g *group, all bool) {
	switch {
	case len(g.xs) == 0:
		j.freeGroup(g)
		return
	case g.open > 0:
		return
	case g.last+uint64(j.cfg.Linger) > j.now && !all:
		j.enqueue(g)
		return
	}
	j.relate(g)
	if quiet := j.now - g.last; !all && (quiet < uint64(j.cfg.Parents) && j.waits(g) || quiet < patience*uint64(j.cfg.Parents) && j.awaited(g)) {
		j.lookAt(g, j.now+uint64(j.cfg.Linger))
		return
	}
	j.give(g)
}

// give emits a group's trees and takes everything back.
func (j *Joiner) give(g *group) {
	for _, root := range g.xs {
		if root.parent != nil {
			continue
		}
		if j.cutOff(root) {
			j.lost.cut.Add(1)
			continue
		}
		t := &j.tree
		t.ID, t.Unjoined, t.Candidates, t.Exchanges, t.joiner = root.id, j.whyRoot(g, root), 0, t.Exchanges[:0], j
		if t.Unjoined != "" {
			t.Candidates = int(max(root.candidates, root.sought, j.mayBeOf(root)))
		}
		j.grow(g, root)
		if !root.hasID {
			for _, x := range t.Exchanges {
				if x.hasID {
					t.ID = x.id
					break
				}
			}
		}
		j.Stats.Trees++
		j.emit(t)
	}
	j.unkey(g)
	for _, x := range g.xs {
		j.learn(x)
	}
	for _, x := range g.xs {
		j.freeExchange(x)
	}
	clear(g.xs)
	j.freeGroup(g)
}

// grow appends root and all below it to the tree. Exchanges are sorted by start, and nothing starts before its cause.
func (j *Joiner) grow(g *group, root *Exchange) {
	t := &j.tree
	root.at, root.Parent = 0, -1
	root.settleConnect()
	t.Exchanges = append(t.Exchanges, root)
	for _, x := range g.xs {
		if x.parent == nil || x.root() != root {
			continue
		}
		x.at, x.Parent = len(t.Exchanges), x.parent.at
		x.Relay.From, x.Relay.To = x.Parent, x.at
		x.settleConnect()
		t.Exchanges = append(t.Exchanges, x)
		j.Stats.Relays++
	}
}

func (x *Exchange) root() *Exchange {
	for x.parent != nil {
		x = x.parent
	}
	return x
}

func (j *Joiner) unkey(g *group) {
	for _, id := range g.ids {
		if j.groups[id] == g {
			delete(j.groups, id)
		}
	}
	for _, t := range g.traces {
		if j.traces[t] == g {
			delete(j.traces, t)
		}
	}
	g.ids, g.traces = g.ids[:0], g.traces[:0]
}

func (j *Joiner) newGroup() *group {
	if n := len(j.freeGroups); n > 0 {
		g := j.freeGroups[n-1]
		j.freeGroups = j.freeGroups[:n-1]
		return g
	}
	return &group{}
}
