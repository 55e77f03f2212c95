package netpath

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// poll looks for namespaces that came or went, and asks the others about rules; regular is false between two ticks, when
// mounts changed.
func (w *Watcher) poll(now time.Time, regular bool) error {
	added, removed, err := w.tracker.discover(now)
	if err != nil {
		return err
	}
	for _, e := range removed {
		err = errors.Join(err, w.unsubscribe(e))
	}
	if err != nil {
		return err
	}
	for _, e := range added {
		w.adopt(e)
	}
	if regular {
		w.askRules(now)
		w.revisit(now)
	}
	w.read(now)
	if len(added)+len(removed) > 0 {
		w.tracker.resolve()
		w.tracker.doubt(now)
	}
	w.publish(now, removed)
	return nil
}

// adopt subscribes to a new namespace, then reads it, so that no change falls between the two.
func (w *Watcher) adopt(e *entry) {
	sub, err := subscribe(e.ns)
	if err == nil {
		e.sub = sub
		w.bySocket[sub.links] = e
		if err = w.poller.add(sub.links, unix.EPOLLIN); err != nil {
			err = errors.Join(err, w.unsubscribe(e))
		}
	}
	w.tracker.readLinks(e)
	w.tracker.readRules(e)
	if problem := w.tracker.problem(err); problem != "" {
		next := *e.ns
		next.Problem = problem
		e.ns = &next
	}
}

// unsubscribe closes the namespace's sockets, which takes them out of epoll.
func (w *Watcher) unsubscribe(e *entry) error {
	if e.sub == nil {
		return nil
	}
	delete(w.bySocket, e.sub.links)
	err := e.sub.close()
	e.sub = nil
	return err
}

// askRules marks namespaces whose rules are not those that were read. It asks a third of them at each poll.
func (w *Watcher) askRules(now time.Time) {
	w.asked++
	for inum, e := range w.tracker.entries {
		if e.unread {
			e.rules.mark(now)
		}
		if e.sub != nil && (inum+w.asked)%rotation == 0 {
			if changed, err := e.sub.rulesChanged(); err == nil && changed {
				e.rules.mark(now)
			}
		}
		if e.recheck {
			e.recheck = false
			w.tracker.checkLegacy(e, now)
		}
	}
}

// revisit marks one namespace a poll for reading, in turn: what changes without an event (a sysctl, a legacy rule) is seen
// in the end.
func (w *Watcher) revisit(now time.Time) {
	inums := slices.Sorted(maps.Keys(w.tracker.entries))
	if len(inums) == 0 {
		return
	}
	i, found := slices.BinarySearch(inums, w.cursor)
	if found {
		i++
	}
	w.cursor = inums[i%len(inums)]
	e := w.tracker.entries[w.cursor]
	if e.sub == nil { // we could not subscribe when it came, for lack of descriptors perhaps
		w.adopt(e)
		return
	}
	e.links.mark(now)
	w.tracker.checkLegacy(e, now)
}

// read reads what is ripe.
func (w *Watcher) read(now time.Time) {
	var touched []*entry
	for _, e := range w.tracker.entries {
		links, rules := e.links.ripe(now), e.rules.ripe(now)
		if links {
			w.tracker.readLinks(e)
		}
		if rules {
			w.tracker.readRules(e)
		}
		if links || rules {
			touched = append(touched, e)
		}
	}
	if len(touched) == 0 {
		return
	}
	w.tracker.resolve()
	doubtful := false
	for _, e := range touched {
		switch {
		case e.told == nil:
		case reflect.DeepEqual(e.ns, e.told):
			e.ns = e.told // nothing new, and publish sees that at once
		default:
			doubtful = true
		}
	}
	if doubtful {
		w.tracker.doubt(now)
	}
}

// publish makes the new state known. Who is in a namespace is in the state but makes no change.
func (w *Watcher) publish(now time.Time, removed []*entry) {
	t := w.tracker
	fresh := t.expire(now) || len(removed) > 0
	for _, e := range t.entries {
		fresh = fresh || e.told != e.ns
	}
	if fresh || w.State() == nil {
		w.state.Store(t.state())
	}
	counts := t.counts
	w.counts.Store(&counts)
	if !fresh {
		return
	}
	if change := w.difference(removed); len(change.Added)+len(change.Removed)+len(change.Changed) > 0 {
		w.handle(change)
	}
}

func (w *Watcher) difference(removed []*entry) Change {
	change := Change{State: w.State()}
	for _, e := range w.tracker.entries {
		switch {
		case e.told == nil:
			change.Added = append(change.Added, e.ns.Inum)
		case e.told != e.ns && !sameDatapath(e.told, e.ns):
			change.Changed = append(change.Changed, e.ns.Inum)
		}
		e.told = e.ns
	}
	for _, e := range removed {
		change.Removed = append(change.Removed, e.ns.Inum)
	}
	slices.Sort(change.Added)
	slices.Sort(change.Changed)
	return change
}
