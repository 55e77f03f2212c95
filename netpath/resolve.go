package netpath

import (
	"maps"
	"reflect"
	"slices"
	"time"
)

// resolve fills in peer namespaces wherever they are missing.
func (t *tracker) resolve() {
	all := t.live()
	t.counts.Unresolved = 0
	for _, e := range t.entries {
		next, err := resolvePeers(all, e.ns, e.nsids)
		t.problem(err)
		e.ns, all[e.ns.Inum] = next, next
		for i := range e.ns.Links {
			if l := &e.ns.Links[i]; l.Peer != 0 && l.PeerNetns == 0 {
				t.counts.Unresolved++
			}
		}
	}
}

// sameDatapath compares what a consumer acts on: not who is in the namespace.
func sameDatapath(a, b *Namespace) bool {
	x, y := *a, *b
	x.Pids, x.Processes, x.Mounts = y.Pids, y.Processes, y.Mounts
	return reflect.DeepEqual(&x, &y)
}

// doubt marks namespaces for reading whose veths are contradicted by the other end: the kernel does not announce to one
// end that the other one moved to another namespace.
func (t *tracker) doubt(now time.Time) {
	for _, e := range t.entries {
		for i := range e.ns.Links {
			l := &e.ns.Links[i]
			if !l.paired() || l.Peer == 0 {
				continue
			}
			other := t.entries[l.PeerNetns]
			if other == nil || !reciprocal(other.ns, e.ns, l) {
				e.links.mark(now)
				break
			}
		}
	}
}

func (t *tracker) live() map[uint32]*Namespace {
	all := make(map[uint32]*Namespace, len(t.entries))
	for inum, e := range t.entries {
		all[inum] = e.ns
	}
	return all
}

// expire drops namespaces that went long ago, and says whether there were any.
func (t *tracker) expire(now time.Time) bool {
	before := len(t.gone)
	maps.DeleteFunc(t.gone, func(_ uint32, g goneNamespace) bool { return now.Sub(g.at) > GoneFor })
	return len(t.gone) != before
}

// state is the present as a value.
func (t *tracker) state() *State {
	live := slices.Collect(maps.Values(t.live()))
	gone := make([]*Namespace, 0, len(t.gone))
	for _, g := range t.gone {
		gone = append(gone, g.ns)
	}
	s := NewState(live, gone)
	t.counts.Conflicts = uint64(len(s.Conflicts()))
	return s
}
