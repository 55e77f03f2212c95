package observe

import (
	"slices"

	"github.com/meshwatch/meshwatch/netpath"
)

// A stretch of a path that edges cannot look into has left its baseline when the median of pendingFlights flights is leftTimes the
// usual one, and leftBy above it: a question that full depth answers.
const (
	leftTimes   = 4
	leftBy      = 50e3    // ns: below that nobody asks
	learned     = 8       // batches, before anything is said
	adapts      = 1. / 16 // share of the usual median that a batch makes,
	adaptsAfter = 1. / 64 // and one that has left it: what stays becomes usual
)

// baseline is the usual time of a step. The zero value knows nothing.
type baseline struct {
	median  float64 // ns
	batches int
}

// leaves takes the times of a batch, which it sorts, and says whether they have left the baseline.
func (b *baseline) leaves(times []uint64) bool {
	slices.Sort(times)
	median := float64(times[len(times)/2])
	b.batches++
	if b.batches <= learned {
		b.median += (median - b.median) / float64(b.batches)
		return false
	}
	left := median > leftTimes*b.median && median > b.median+leftBy
	share := adapts
	if left {
		share = adaptsAfter
	}
	b.median += share * (median - b.median)
	return left
}

// watched says whether a step is compared with its baseline: one that holds more than a single thing.
func watched(from, to netpath.Place) bool {
	return from.Hook == netpath.HookOutput && to.Hook == netpath.HookEgress || from.Hook == netpath.HookEgress && to.Hook == netpath.HookDelivered
}

// compare looks whether a path's pending times have left what is usual. The caller has the lock.
func (o *Observer) compare(p *path) {
	n := len(p.pending) / max(p.n, 1)
	if n < pendingFlights {
		return
	}
	for i := 1; i < p.n; i++ {
		s := &p.steps[i]
		if s.within == nil {
			continue
		}
		o.times = o.times[:0]
		for k := i - 1; k < len(p.pending); k += p.n {
			o.times = append(o.times, p.pending[k])
		}
		if s.stat.usual.leaves(o.times) {
			for _, inum := range s.within {
				o.left[inum] = struct{}{}
			}
		}
	}
}

// Left are the network namespaces of which a hop has left its baseline since the last call, by inode number.
func (o *Observer) Left() (out []uint32) {
	o.counting.Lock()
	defer o.counting.Unlock()
	for n := range o.left {
		out = append(out, n)
	}
	clear(o.left)
	slices.Sort(out)
	return out
}

// within are the namespaces that a packet passes from one place to another: both, and the host's if they are not one.
func within(state *netpath.State, from, to netpath.Place) []uint32 {
	if from.Netns == to.Netns {
		return []uint32{from.Netns}
	}
	out := []uint32{from.Netns, to.Netns}
	for _, n := range state.Sorted() {
		if n.Host && n.Inum != from.Netns && n.Inum != to.Netns {
			out = append(out, n.Inum)
		}
	}
	return out
}
