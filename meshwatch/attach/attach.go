// Package attach keeps the recorder's programs on the places that the datapath has: what comes is attached, what goes is
// let go, so that no namespace is pinned.
package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"sync"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/netpath"
)

// Manager attaches one Recorder. Apply and Close may be called from any goroutine; they take turns.
type Manager struct {
	recorder *bpf.Recorder
	exclude  []string
	log      *slog.Logger
	failed   *loss.Counter
	vanished *loss.Counter

	mu   sync.Mutex
	held map[uint32]*namespace
}

// namespace is what is attached in one network namespace.
type namespace struct {
	name      string
	netfilter *bpf.Links
	links     map[uint32]*bpf.Links
	troubled  map[uint32]bool    // links that could not be attached: said once
	gone      *netpath.Namespace // as it was when no way led there: tried again when it was read anew
}

// Counts is how much is attached.
type Counts struct {
	Namespaces int `json:"namespaces"`
	Links      int `json:"links"`
}

// New makes a Manager. exclude are globs of namespace names that are left alone.
func New(r *bpf.Recorder, exclude []string, set *loss.Set, log *slog.Logger) *Manager {
	return &Manager{
		recorder: r, exclude: exclude, log: log, held: map[uint32]*namespace{},
		failed: set.Counter("attach", "failed"), vanished: set.Counter("attach", "vanished"),
	}
}

// Apply makes what is attached agree with the state. A namespace or link that vanishes meanwhile is no error.
func (m *Manager) Apply(s *netpath.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	points := netpath.AttachPoints(s)
	wanted := make(map[uint32]bool, len(points))
	for i := range points {
		p := &points[i]
		if m.excluded(p.Name) {
			continue
		}
		wanted[p.Netns] = true
		if err := m.namespace(s, p); err != nil {
			m.report(p.Name, err)
		}
	}
	for inum, n := range m.held {
		if !wanted[inum] {
			if err := m.release(inum, n); err != nil {
				m.log.Warn("cannot let go of a network namespace", "error", err)
			}
		}
	}
}

func (m *Manager) excluded(name string) bool {
	for _, glob := range m.exclude {
		if ok, _ := path.Match(glob, name); ok {
			return true
		}
	}
	return false
}

func (m *Manager) report(name string, err error) {
	if errors.Is(err, netpath.ErrGone) {
		m.vanished.Add(1)
		return
	}
	m.failed.Add(1)
	m.log.Warn("cannot watch all of a network namespace", "namespace", name, "error", err)
}

// namespace attaches what is missing in one namespace and forgets links that are gone. It enters the namespace only if
// there is something to attach.
func (m *Manager) namespace(s *netpath.State, p *netpath.AttachPoint) error {
	n := m.held[p.Netns]
	if n == nil {
		n = &namespace{name: p.Name, links: map[uint32]*bpf.Links{}, troubled: map[uint32]bool{}}
	}
	present := map[uint32]bool{}
	var missing []uint32
	for i := range p.Links {
		index := p.Links[i].Index
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
	netfilter := n.netfilter == nil && p.Netfilter && m.recorder.Netfilter != nil
	m.held[p.Netns] = n
	ns := s.Namespace(p.Netns)
	if n.gone == ns || len(missing) == 0 && !netfilter {
		return nil
	}
	err := ns.Do(func() error { return n.attach(m.recorder, netfilter, missing) })
	if errors.Is(err, netpath.ErrGone) {
		n.gone = ns
	}
	return err
}

// attach runs in the namespace. What can be attached is, whatever else fails.
func (n *namespace) attach(r *bpf.Recorder, netfilter bool, missing []uint32) error {
	var errs []error
	// tc first: a flight starts at a netfilter hook, and one that starts is to be seen everywhere
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
			errs = append(errs, err)
		} else {
			n.netfilter = l
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) release(inum uint32, n *namespace) (err error) {
	if n.netfilter != nil {
		if err = n.netfilter.Close(); err != nil {
			err = fmt.Errorf("detach netfilter programs from %s: %w", n.name, err)
		}
	}
	for _, l := range n.links {
		_ = l.Close() // of a device that may be gone
	}
	delete(m.held, inum)
	return err
}

// Counts is how much is attached now.
func (m *Manager) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := Counts{Namespaces: len(m.held)}
	for _, n := range m.held {
		c.Links += len(n.links)
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
	return errors.Join(errs...)
}
