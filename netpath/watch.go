package netpath

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultInterval is how often processes are looked at, which finds namespaces that have no mount. An attach is due
	// within 2 s; a look costs about 2 µs a process.
	DefaultInterval = 500 * time.Millisecond
	// settle is how long a namespace must be quiet before it is read: setting up a pod's link makes about ten events.
	settle = 20 * time.Millisecond
	// patience bounds the waiting for quiet.
	patience = 200 * time.Millisecond
)

// Change says what is different from the State before. Numbers are of namespaces, ascending.
type Change struct {
	State   *State
	Added   []uint32 // attach there
	Removed []uint32 // detach: whatever is still attached there pins the namespace. They are in State.Gone
	Changed []uint32 // other links, addresses, rules or name
}

// Watcher follows what comes and goes. Its methods are safe for concurrent use.
type Watcher struct {
	tracker  *tracker
	poller   *poller
	bySocket map[int]*entry
	interval time.Duration
	handle   func(Change)
	cursor   uint32 // namespace that was read last for no reason, see revisit
	asked    uint32 // how often askRules was called

	state  atomic.Pointer[State]
	counts atomic.Pointer[Counts]

	cancel context.CancelFunc
	loop   sync.WaitGroup
	err    error // of the loop; valid after it ended
	once   sync.Once
}

// Watch reads the datapath, then calls handle for every change, starting with one that adds everything, which is before Watch
// returns. Calls come one at a time, and while one lasts nothing is lost: changes wait, bursts become one. interval is how
// often processes are looked at, 0 for DefaultInterval. When ctx ends the watching does; Close must be called in any case.
func Watch(ctx context.Context, interval time.Duration, handle func(Change)) (*Watcher, error) {
	if interval <= 0 {
		interval = DefaultInterval
	}
	vs := views()
	p, err := newPoller(vs) // before mounts are read, so that no change falls between the two
	if err != nil {
		return nil, err
	}
	t, err := newTracker(vs)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	w := &Watcher{tracker: t, poller: p, bySocket: map[int]*entry{}, interval: interval, handle: handle}
	ctx, w.cancel = context.WithCancel(ctx)
	if err := w.poll(time.Now(), true); err != nil {
		w.cancel()
		return nil, errors.Join(err, w.release())
	}
	w.loop.Go(func() {
		w.err = w.run(ctx)
	})
	return w, nil
}

// State is the present.
func (w *Watcher) State() *State { return w.state.Load() }

// Counts are what the watching has met so far.
func (w *Watcher) Counts() Counts { return *w.counts.Load() }

// Close ends the watching, waits for a handler that is running, and closes every descriptor. It must not be called by the
// handler. The error is what ended the watching early, if anything did.
func (w *Watcher) Close() error {
	w.once.Do(func() {
		w.cancel()
		w.loop.Wait()
		w.err = errors.Join(w.err, w.release())
	})
	return w.err
}

func (w *Watcher) release() error {
	errs := []error{w.poller.close(), w.tracker.procs.close()}
	for _, e := range w.tracker.entries {
		errs = append(errs, w.unsubscribe(e))
	}
	return errors.Join(errs...)
}

func (w *Watcher) run(ctx context.Context) error {
	woken := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = w.poller.wake() // cannot fail: the counter is at 0
	})
	defer func() {
		if !unhook() {
			<-woken // it may still be using the descriptor
		}
	}()
	nextPoll := time.Now().Add(w.interval)
	var mountsChanged due
	for ctx.Err() == nil {
		events, err := w.poller.wait(time.Until(w.wakeAt(nextPoll, mountsChanged)))
		if err != nil {
			return err
		}
		now := time.Now()
		for _, ev := range events {
			if e := w.bySocket[int(ev.Fd)]; e != nil {
				e.sub.drain()
				e.links.mark(now)
			} else if w.poller.isMounts(int(ev.Fd)) {
				mountsChanged.mark(now)
			}
		}
		remount := mountsChanged.ripe(now)
		if remount {
			mountsChanged = due{}
			if err := w.tracker.readMounts(); err != nil {
				return err
			}
		}
		if regular := !now.Before(nextPoll); regular || remount {
			if err := w.poll(now, regular); err != nil {
				return err
			}
			if regular { // however often mounts change, all else has its turn
				nextPoll = time.Now().Add(w.interval)
			}
			continue
		}
		w.read(now)
		w.publish(now, nil)
	}
	return nil
}

// ripe says whether to read now: the changes are over, or have lasted too long, and the last reading paid off.
func (d *due) ripe(now time.Time) bool { return d.dirty && !now.Before(d.at()) }

func (d *due) at() time.Time {
	at := d.last.Add(settle)
	if limit := d.first.Add(patience); limit.Before(at) {
		at = limit
	}
	if d.rested.After(at) {
		at = d.rested
	}
	return at
}

// wakeAt is when there is something to do though nothing more happens.
func (w *Watcher) wakeAt(nextPoll time.Time, mounts due) time.Time {
	at := nextPoll
	sooner := func(d due) {
		if d.dirty && d.at().Before(at) {
			at = d.at()
		}
	}
	sooner(mounts)
	for _, e := range w.tracker.entries {
		sooner(e.links)
		sooner(e.rules)
	}
	return at
}
