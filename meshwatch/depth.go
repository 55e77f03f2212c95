package meshwatch

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/attach"
	"github.com/meshwatch/meshwatch/netpath"
)

// The values of Config.Depth.
const (
	DepthEdges = "edges" // sockets, and where a message leaves and comes in: for all namespaces at once
	DepthFull  = "full"  // that, and every netfilter hook and device on the way, in every namespace
	DepthAuto  = "auto"  // edges, and full where a question is open
)

// What auto does. At its turn a namespace is in full depth for turnTime; another one has its turn each turnEvery. With 100 namespaces
// each is looked into once in 17 minutes.
const (
	turnTime  = time.Second
	turnEvery = 10 * time.Second
	// maxDeep is how many namespaces are in full depth at once, without those that somebody asked for: the latest go without.
	maxDeep = 8
)

// depths decides which namespaces are in full depth. Its methods may be called from any goroutine.
type depths struct {
	mode     string
	attached deepener
	state    func() *netpath.State

	doubts chan []uint32 // from left to run

	mu    sync.Mutex
	never bool                 // none may be
	asked map[uint32]time.Time // until when
	doubt map[uint32]time.Time // the same, where a baseline is left or a namespace has its turn
	last  uint32               // that had its turn
	next  time.Time            // turn
}

// deepener is *attach.Manager.
type deepener interface {
	Deepen(all bool, some ...uint32)
	Counts() attach.Counts
}

func newDepths(mode string, attached deepener, state func() *netpath.State) *depths {
	d := &depths{mode: mode, attached: attached, state: state, doubts: make(chan []uint32, 16), asked: map[uint32]time.Time{}, doubt: map[uint32]time.Time{}}
	attached.Deepen(mode == DepthFull)
	return d
}

// run gives turns and ends them, until ctx ends.
func (d *depths) run(ctx context.Context) {
	if d.mode == DepthFull {
		return
	}
	tick := time.NewTicker(turnTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case namespaces := <-d.doubts:
			d.look(namespaces)
		case now := <-tick.C:
			d.step(now)
		}
	}
}

func (d *depths) step(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mode == DepthAuto && !now.Before(d.next) {
		d.next = now.Add(turnEvery)
		if n, ok := d.turn(); ok {
			d.last = n
			d.suspect(now.Add(turnTime/2), n) // it ends with the next step
		}
	}
	d.apply(now)
}

// turn is the namespace whose turn it is: the one after the last, by number.
func (d *depths) turn() (uint32, bool) {
	var all []uint32
	for _, p := range netpath.AttachPoints(d.state()) {
		all = append(all, p.Netns)
	}
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	i, found := slices.BinarySearch(all, d.last)
	if found {
		i++
	}
	return all[i%len(all)], true
}

func (d *depths) suspect(until time.Time, n uint32) {
	if _, in := d.doubt[n]; in || len(d.doubt) < maxDeep {
		d.doubt[n] = until
	}
}

// apply ends what is over. The caller has the lock.
func (d *depths) apply(now time.Time) {
	var deep []uint32
	for _, m := range []map[uint32]time.Time{d.asked, d.doubt} {
		for n, until := range m {
			if now.After(until) {
				delete(m, n)
			} else {
				deep = append(deep, n)
			}
		}
	}
	slices.Sort(deep)
	if d.never {
		deep = nil
	}
	d.attached.Deepen(d.mode == DepthFull && !d.never, slices.Compact(deep)...)
}

// allow says whether any namespace may be in full depth.
func (d *depths) allow(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.never = !on
	d.apply(time.Now())
}

// left says that hops in these namespaces have left what is usual: in auto they are looked into for a while. It does not wait.
func (d *depths) left(namespaces []uint32) {
	if d.mode != DepthAuto || len(namespaces) == 0 {
		return
	}
	select {
	case d.doubts <- namespaces:
	default: // there are others to look into; they will be told of again
	}
}

func (d *depths) look(namespaces []uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, n := range namespaces {
		d.suspect(now.Add(turnEvery), n)
	}
	d.apply(now)
}

// ask puts the namespaces that a word selects (a name, a number or a pattern) in full depth for a while, and says which they are.
func (d *depths) ask(word string, during time.Duration) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, n := range d.state().Select(word) {
		if until := now.Add(during); d.asked[n.Inum].Before(until) {
			d.asked[n.Inum] = until
		}
		names = append(names, n.Name)
	}
	d.apply(now)
	return names
}

// String is for `meshwatch status`.
func (d *depths) String() string {
	c := d.attached.Counts()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.never:
		return d.mode + ", but none in full depth: that was above the budget"
	case d.mode == DepthFull:
		return "full"
	case d.mode == DepthEdges && c.Deep == 0:
		return "edges"
	}
	return fmt.Sprintf("%s, %d namespaces in full depth now", d.mode, c.Deep)
}
