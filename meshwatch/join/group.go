package join

import (
	"slices"

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
	dead   bool // another one has its exchanges
}

// identify puts an exchange in the group of its request id, else of its trace, as soon as one is known.
func (j *Joiner) identify(x *Exchange) {
	if !x.hasID {
		x.id, x.hasID, x.byResp = j.idOf(x)
	}
	trace := x.TraceID
	if x.group != nil {
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
	g.last = j.now
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
	x.done = true
	j.unansweredBy(x)
	j.heed(x)
	g := x.group
	if g == nil {
		g = j.newGroup()
		j.join(g, x)
	} else {
		g.open--
	}
	g.last = j.now
	j.enqueue(g)
}

func (j *Joiner) enqueue(g *group) {
	if g.open > 0 || g.queued {
		return
	}
	g.queued, g.due = true, g.last+uint64(j.cfg.Linger)
	j.quiet = append(j.quiet, g)
}

// flush gives out the groups that have been quiet for long enough.
func (j *Joiner) flush(all bool) {
	n := 0
	for ; n < len(j.quiet); n++ {
		g := j.quiet[n]
		if g.due > j.now && !all {
			break
		}
		g.queued = false
		if g.dead {
			j.freeGroup(g)
			continue
		}
		if g.open > 0 {
			continue // finish brings it back
		}
		if due := g.last + uint64(j.cfg.Linger); due > j.now && !all {
			j.enqueue(g)
			continue
		}
		if j.awaitsWord(g) && !all {
			g.queued, g.due = true, j.now+uint64(max(j.cfg.Linger, j.cfg.Hear/hearings))
			j.quiet = append(j.quiet, g)
			continue
		}
		waits := j.relateAll(g)
		if g.open > 0 {
			continue // it took in others, which are not over
		}
		if quiet := j.now - g.last; !all && (waits && quiet < uint64(j.cfg.Parents) || quiet < patience*uint64(j.cfg.Parents) && j.awaited(g)) {
			g.queued, g.due = true, j.now+uint64(j.cfg.Linger)
			j.quiet = append(j.quiet, g)
			continue
		}
		j.give(g)
	}
	if n > 0 {
		j.quiet = append(j.quiet[:0], j.quiet[n:]...)
	}
}

// relateAll relates a group's exchanges to each other and to those of other groups, which it takes in. True as for relate.
func (j *Joiner) relateAll(g *group) (waits bool) {
	j.flushing = g
	defer func() { j.flushing = nil }()
	for range maxDepth {
		sortByStart(g.xs)
		waits = j.relate(g)
		for _, x := range g.xs {
			if x.parent != nil && !x.learned {
				x.learned = true
				j.learn(x)
			}
		}
		if !j.relateAcross(g) {
			break
		}
	}
	return waits
}

func sortByStart(xs []*Exchange) {
	slices.SortFunc(xs, func(a, b *Exchange) int { return int(int64(a.Req.StartNs - b.Req.StartNs)) }) //nolint:gosec // a difference
}

// maxDepth is how many groups, each in its own way, are taken in one after the other.
const maxDepth = 16

// learn takes a join that rests on an id as an example of how the process works.
func (j *Joiner) learn(x *Exchange) {
	y := x.parent
	if x.claimed || !x.listed || !y.listed || x.askedBy == 0 || x.askedBy != y.servedBy || x.Relay.Confidence < 1 {
		return
	}
	if p := j.processes[x.askedBy]; p != nil {
		j.describeLines(x)
		j.describeLines(y)
		p.ways.learn(p.turns, x, y)
	}
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
		t.ID, t.Unjoined, t.Candidates, t.Exchanges, t.joiner = root.id, j.whyRoot(g, root), int(root.candidates), t.Exchanges[:0], j
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
		j.freeExchange(x)
	}
	j.freeGroup(g)
}

func (j *Joiner) freeGroup(g *group) {
	clear(g.xs)
	*g = group{ids: g.ids[:0], traces: g.traces[:0], xs: g.xs[:0]}
	j.freeGroups = append(j.freeGroups, g)
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
