package netpath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// GoneFor is how long a namespace that went is kept in State.Gone: longer than a record waits to be read.
	GoneFor = 10 * time.Second
	// restFactor bounds the share of one CPU that re-reading one namespace can take to about 2 %: what took d of CPU time to read is
	// left alone for 50 d. Reading a pod's links takes about 100 µs, so this only slows nodes with tens of thousands of rules.
	// Not by the clock: where others use the CPUs, a reading waits for them.
	restFactor = 50
)

// Counts are what the reading met. Gauges are of the last look, the others grow.
type Counts struct {
	Polls      uint64 `json:"polls"`      // looks at all processes
	LinkScans  uint64 `json:"link_scans"` // readings of one namespace's links
	RuleScans  uint64 `json:"rule_scans"` // readings of one namespace's rules
	Vanished   uint64 `json:"vanished"`   // namespaces that went while they were being read
	Failed     uint64 `json:"failed"`     // readings that failed otherwise; Namespace.Problem says why
	Denied     uint64 `json:"denied"`     // gauge: processes whose namespace we may not read
	Unresolved uint64 `json:"unresolved"` // gauge: veth ends whose other end is in a namespace that we do not know
	Conflicts  uint64 `json:"conflicts"`  // gauge: places that share their low bits, see State.Conflicts
}

// entry is a live namespace: its latest value, and what is to be read again.
type entry struct {
	ns        *Namespace
	told      *Namespace       // as the consumer last saw it
	nsids     map[int32]uint32 // see resolvePeers
	signature string           // of legacy iptables
	links     due
	rules     due
	unread    bool // they could not be read: they are asked for again, though their number has not changed since
	recheck   bool // ask for the legacy signature
	sub       *subscription
}

// due says that something is to be read, and from when on that may be.
type due struct {
	dirty  bool
	first  time.Time // of the changes not yet read
	last   time.Time
	rested time.Time
}

func (d *due) mark(now time.Time) {
	if !d.dirty {
		d.dirty, d.first = true, now
	}
	d.last = now
}

func (d *due) done(end time.Time, cost time.Duration) {
	d.dirty, d.rested = false, end.Add(restFactor*cost)
}

// cpuTime is what the calling thread has used, 0 where the kernel does not say.
func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// tracker holds what is known of all namespaces. One goroutine owns it.
type tracker struct {
	procs   *procTable
	views   []view
	mounts  map[uint32][]string
	entries map[uint32]*entry
	gone    map[uint32]goneNamespace
	counts  Counts
}

type goneNamespace struct {
	ns *Namespace
	at time.Time
}

// Scan reads the datapath once. It holds no descriptor afterwards.
func Scan() (*State, Counts, error) {
	t, err := newTracker(views())
	if err != nil {
		return nil, Counts{}, err
	}
	_, _, err = t.discover(time.Now())
	for _, e := range t.entries {
		t.readLinks(e)
		t.readRules(e)
	}
	t.resolve()
	return t.state(), t.counts, errors.Join(err, t.procs.close())
}

func newTracker(vs []view) (*tracker, error) {
	procs, err := openProcTable()
	if err != nil {
		return nil, err
	}
	t := &tracker{procs: procs, views: vs, entries: map[uint32]*entry{}, gone: map[uint32]goneNamespace{}}
	if err := t.readMounts(); err != nil {
		return nil, errors.Join(err, procs.close())
	}
	return t, nil
}

// readMounts costs a reading of mountinfo (about 100 bytes a mount), so it is done when the kernel says that mounts changed.
func (t *tracker) readMounts() error {
	mounts := map[uint32][]string{}
	for i, v := range t.views {
		data, err := os.ReadFile(v.mountinfo)
		if err != nil {
			if i > 0 { // pid 1's, a bonus
				continue
			}
			return fmt.Errorf("read mounts: %w", err)
		}
		for _, m := range parseMountinfo(data) {
			mounts[m.inum] = append(mounts[m.inum], v.prefix+m.path)
		}
	}
	for inum, paths := range mounts {
		slices.Sort(paths)
		mounts[inum] = slices.Compact(paths)
	}
	t.mounts = mounts
	return nil
}

// discover looks at all processes: which namespaces are new (not yet read), which went, and who is in them now.
func (t *tracker) discover(now time.Time) (added, removed []*entry, err error) {
	found, err := t.procs.read()
	if err != nil {
		return nil, nil, err
	}
	t.counts.Polls++
	t.counts.Denied = uint64(found.denied) //nolint:gosec // a count
	present := maps.Clone(found.byNetns)   // found may be handed out again
	for inum := range t.mounts {
		if present[inum] == nil {
			present[inum] = &members{}
		}
	}
	for inum, m := range present {
		if e := t.entries[inum]; e != nil {
			t.update(e, m)
		} else {
			e = &entry{nsids: map[int32]uint32{}, ns: t.introduce(inum, m)}
			t.entries[inum] = e
			delete(t.gone, inum)
			added = append(added, e)
		}
	}
	for inum, e := range t.entries {
		if present[inum] == nil {
			t.forget(inum, now)
			removed = append(removed, e)
		}
	}
	byInum := func(es []*entry) { sort.Slice(es, func(i, j int) bool { return es[i].ns.Inum < es[j].ns.Inum }) }
	byInum(added)
	byInum(removed)
	return added, removed, nil
}

func (t *tracker) introduce(inum uint32, m *members) *Namespace {
	n := &Namespace{Inum: inum, Host: inum == t.procs.host, Mounts: t.mounts[inum], Pids: m.pids, Processes: m.count}
	process := ""
	if len(m.pids) > 0 {
		process = processName(m.pids[0])
	}
	n.Name = nameOf(n.Mounts, n.Host, process)
	return n
}

// update takes note of who is in a namespace. A name by process stays while that is the best there is.
func (t *tracker) update(e *entry, m *members) {
	mounts := t.mounts[e.ns.Inum]
	if e.ns.Processes == m.count && slices.Equal(e.ns.Pids, m.pids) && slices.Equal(e.ns.Mounts, mounts) {
		return
	}
	next := *e.ns
	next.Pids, next.Processes = m.pids, m.count
	if !slices.Equal(next.Mounts, mounts) {
		next.Mounts = mounts
		if len(mounts) > 0 || next.Name == "" {
			next.Name = nameOf(mounts, next.Host, next.Name)
		}
	}
	if next.Name == "" && len(m.pids) > 0 {
		next.Name = processName(m.pids[0])
	}
	e.ns = &next
	e.recheck = true // who came may have made rules
}

func (t *tracker) forget(inum uint32, now time.Time) {
	t.gone[inum] = goneNamespace{t.entries[inum].ns, now}
	delete(t.entries, inum)
	for _, e := range t.entries {
		for id, other := range e.nsids {
			if other == inum {
				delete(e.nsids, id)
			}
		}
	}
}

func (t *tracker) readLinks(e *entry) {
	var d datapath
	var cost time.Duration
	err := e.ns.Do(func() (err error) {
		before := cpuTime()
		d, err = readDatapath()
		cost = cpuTime() - before
		return err
	})
	e.links.done(time.Now(), cost)
	t.counts.LinkScans++
	next := *e.ns
	next.Problem = t.problem(err)
	if err == nil {
		next.Links, next.Forwards, next.Forwards6, next.BridgeNF = d.links, d.forwards, d.forwards6, d.bridgeNF
	}
	e.ns = &next
}

func (t *tracker) readRules(e *entry) {
	var f Filter
	var cost time.Duration
	err := e.ns.Do(func() error {
		before := cpuTime()
		nft, err := readNFT()
		if errors.Is(err, errNoNFTables) {
			err = nil
		}
		legacy, err2 := readLegacy()
		f = summarise(nft, legacy)
		e.signature = legacySignature()
		cost = cpuTime() - before
		return errors.Join(err, err2)
	})
	e.rules.done(time.Now(), cost)
	t.counts.RuleScans++
	if e.unread = err != nil; errors.Is(err, ErrGone) { // or those by whom it is entered are, and others are in it
		t.counts.Vanished++
		return
	}
	f.Problem = t.problem(err)
	next := *e.ns
	next.Filter = f
	e.ns = &next
}

// problem counts a failed reading and says what a person should know of it: nothing, when the namespace just went.
func (t *tracker) problem(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrGone):
		t.counts.Vanished++
		return ""
	}
	t.counts.Failed++
	return err.Error()
}

// checkLegacy marks rules when legacy iptables changed, which the kernel announces to nobody.
func (t *tracker) checkLegacy(e *entry, now time.Time) {
	var sig string
	err := e.ns.Do(func() error {
		sig = legacySignature()
		return nil
	})
	if err == nil && sig != e.signature {
		e.rules.mark(now)
	}
}
