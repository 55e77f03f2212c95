// Package attach keeps the recorder's programs on the places that they are wanted at: netfilter's in namespaces that are recorded
// in full depth, and tc's on every link where tracepoints do not do. What goes is let go, so that no namespace is pinned.
package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"sync"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/netpath"
)

// Manager attaches one Recorder. Its methods may be called from any goroutine; they take turns.
type Manager struct {
	recorder *bpf.Recorder
	exclude  []string
	tlsOff   []string
	goOff    []string
	log      *slog.Logger
	failed   *loss.Counter
	vanished *loss.Counter

	mu    sync.Mutex
	state *netpath.State // as last applied
	all   bool           // every namespace is recorded in full depth
	deep  []uint32       // or these
	held  map[uint32]*namespace
}

// namespace is what is attached in one network namespace.
type namespace struct {
	name      string
	netfilter *bpf.Links            // nil: not in full depth
	shallow   bool                  // netfilter could not be attached: said once
	links     map[uint32]*bpf.Links // where tc's hooks stand in for tracepoints
	troubled  map[uint32]bool       // links that could not be attached: said once
	gone      *netpath.Namespace    // as it was when no way led there: tried again when it was read anew
}

// Counts is how much is watched.
type Counts struct {
	Namespaces int `json:"namespaces"`
	Deep       int `json:"deep"`  // of them in full depth
	Links      int `json:"links"` // that tc's hooks are on: none where tracepoints do their work
}

// New makes a Manager. exclude are globs of namespace names that are left alone, tlsOff of those whose plaintext is, goOff of those whose
// goroutines are. Until Deepen no namespace is in full depth.
func New(r *bpf.Recorder, exclude, tlsOff, goOff []string, set *loss.Set, log *slog.Logger) *Manager {
	return &Manager{
		recorder: r, exclude: exclude, tlsOff: tlsOff, goOff: goOff, log: log, held: map[uint32]*namespace{}, state: netpath.NewState(nil, nil),
		failed: set.Counter("attach", "failed"), vanished: set.Counter("attach", "vanished"),
	}
}

// Apply makes what is attached agree with the state. A namespace or link that vanishes meanwhile is no error.
func (m *Manager) Apply(s *netpath.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	m.apply()
}

// Deepen says which namespaces are recorded in full depth from now on: all, or those with these inode numbers. Each that
// changes is entered, for ten netfilter links.
func (m *Manager) Deepen(all bool, some ...uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == all && slices.Equal(m.deep, some) {
		return
	}
	m.all, m.deep = all, some
	m.apply()
}

func (m *Manager) apply() {
	points := netpath.AttachPoints(m.state)
	wanted := make(map[uint32]bool, len(points))
	m.excludeAll()
	for i := range points {
		p := &points[i]
		if matches(m.exclude, p.Name) {
			continue
		}
		wanted[p.Netns] = true
		if err := m.namespace(p); err != nil {
			m.report(p.Name, err)
		}
	}
	deep := false
	for inum, n := range m.held {
		if !wanted[inum] {
			if err := m.release(inum, n); err != nil {
				m.log.Warn("cannot let go of a network namespace", "error", err)
			}
			continue
		}
		deep = deep || n.netfilter != nil
	}
	if !deep {
		m.deepen(false)
	}
}

// deepen tells the recorder whether some namespace is in full depth.
func (m *Manager) deepen(on bool) {
	if err := m.recorder.Deep(on); err != nil {
		m.failed.Add(1)
		m.log.Warn("full depth lacks what happens between namespaces", "error", err)
	}
}

// excludeAll tells the recorder which namespaces are left alone. One that shares its number, as far as a stamp has it, with one
// that is watched is not left alone, but it is not attached to either. With plaintext it is the other way round: it is left alone in both.
func (m *Manager) excludeAll() {
	if len(m.exclude) > 0 {
		watched := map[uint16]bool{}
		for _, n := range m.state.Sorted() {
			if !matches(m.exclude, n.Name) {
				watched[netpath.Low(n.Inum)] = true
			}
		}
		m.recorder.Ring().Exclude(m.numbers(func(n *netpath.Namespace) bool {
			return matches(m.exclude, n.Name) && !watched[netpath.Low(n.Inum)]
		}))
	}
	if len(m.tlsOff) > 0 && m.recorder.TLS != nil {
		m.recorder.TLS.Exclude(m.numbers(func(n *netpath.Namespace) bool { return matches(m.tlsOff, n.Name) }))
	}
	if len(m.goOff) > 0 && m.recorder.GoHTTP != nil {
		m.recorder.GoHTTP.Exclude(m.numbers(func(n *netpath.Namespace) bool { return matches(m.goOff, n.Name) }))
	}
}

// numbers are the inode numbers of the namespaces that are chosen.
func (m *Manager) numbers(chosen func(*netpath.Namespace) bool) (out []uint32) {
	for _, n := range m.state.Sorted() {
		if chosen(n) {
			out = append(out, n.Inum)
		}
	}
	return out
}

func matches(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		ok, _ := path.Match(glob, name) //nolint:errcheck // the configuration was validated
		return ok
	})
}

func (m *Manager) report(name string, err error) {
	if errors.Is(err, netpath.ErrGone) {
		m.vanished.Add(1)
		return
	}
	m.failed.Add(1)
	m.log.Warn("cannot watch all of a network namespace", "namespace", name, "error", err)
}

// namespace attaches what is missing in one namespace and lets go of what is not wanted any more. It enters the namespace only
// if there is something to attach.
func (m *Manager) namespace(p *netpath.AttachPoint) error {
	n := m.held[p.Netns]
	if n == nil {
		n = &namespace{name: p.Name, links: map[uint32]*bpf.Links{}, troubled: map[uint32]bool{}}
		m.held[p.Netns] = n
	}
	var missing []uint32
	if m.recorder.TC != nil {
		missing = n.missing(p.Links)
	}
	deep := (m.all || slices.Contains(m.deep, p.Netns)) && m.recorder.Netfilter != nil
	if !deep {
		n.shallow = false
		if err := n.undeepen(); err != nil {
			return err
		}
	}
	ns := m.state.Namespace(p.Netns)
	netfilter := deep && n.netfilter == nil && !n.shallow
	if n.gone == ns || len(missing) == 0 && !netfilter {
		return nil
	}
	if netfilter {
		m.deepen(true) // first: what begins in full depth is to be seen everywhere
	}
	err := ns.Do(func() error { return n.attach(m.recorder, netfilter, missing) })
	if errors.Is(err, netpath.ErrGone) {
		n.gone = ns
	}
	return err
}

// missing forgets links that are gone, and says which are new.
func (n *namespace) missing(links []netpath.Link) (missing []uint32) {
	present := map[uint32]bool{}
	for i := range links {
		index := links[i].Index
		present[index] = true
		if n.links[index] == nil && !n.troubled[index] {
			missing = append(missing, index)
		}
	}
	for index, l := range n.links {
		if !present[index] {
			_ = l.Close() // the device took its programs along
			delete(n.links, index)
		}
	}
	maps.DeleteFunc(n.troubled, func(index uint32, _ bool) bool { return !present[index] })
	return missing
}

// attach runs in the namespace. What can be attached is, whatever else fails.
func (n *namespace) attach(r *bpf.Recorder, netfilter bool, missing []uint32) error {
	var errs []error
	for _, index := range missing {
		l, err := r.TC.Attach(int(index))
		if err != nil {
			if errors.Is(err, bpf.ErrNoDevice) {
				continue
			}
			n.troubled[index] = true
			errs = append(errs, err)
			continue
		}
		n.links[index] = l
	}
	if netfilter {
		l, err := r.Netfilter.Attach()
		if err != nil {
			n.shallow = true
			errs = append(errs, err)
		} else {
			n.netfilter = l
		}
	}
	return errors.Join(errs...)
}

// undeepen takes netfilter's programs off.
func (n *namespace) undeepen() error {
	if n.netfilter == nil {
		return nil
	}
	err := n.netfilter.Close()
	n.netfilter = nil
	if err != nil {
		return fmt.Errorf("detach netfilter programs from %s: %w", n.name, err)
	}
	return nil
}

func (m *Manager) release(inum uint32, n *namespace) (err error) {
	err = n.undeepen()
	for _, l := range n.links {
		_ = l.Close() // of a device that may be gone
	}
	delete(m.held, inum)
	return err
}

// Counts is how much is watched now.
func (m *Manager) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := Counts{Namespaces: len(m.held)}
	for _, n := range m.held {
		c.Links += len(n.links)
		if n.netfilter != nil {
			c.Deep++
		}
	}
	return c
}

// Close detaches everything.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for inum, n := range m.held {
		errs = append(errs, m.release(inum, n))
	}
	m.deepen(false)
	return errors.Join(errs...)
}
