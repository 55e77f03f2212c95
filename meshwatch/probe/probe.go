// Package probe keeps probes on the TLS libraries of the node's processes, and on Go's net/http: once for each binary, whoever runs it, from
// when it is first seen until its last process is gone. Where a binary's calls never become messages, its probes are taken off again.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/tlsfind"
	"github.com/meshwatch/meshwatch/meshwatch/tlsscan"
)

const (
	// scanEvery is how long a new binary can go unseen. A new process of a known one is seen at once: probes are on the file.
	scanEvery = 2 * time.Second
	// trialCalls of which not one is tied prove that a probe is not where plaintext goes out: of a right one nearly all are.
	trialCalls = 200
	// slice is how long single-stepped probes are on, or off, at a time, where they are wanted for a share of it.
	slice = 10 * time.Second
)

// Options of a Manager.
type Options struct {
	TLS    *bpf.TLS    // nil: TLS libraries are left alone
	GoHTTP *bpf.GoHTTP // nil: so is net/http
	// Stepped is the share of the time that single-stepped probes are on: from 0 to 1.
	Stepped float64
	Losses  *loss.Set
	Log     *slog.Logger
}

// Manager probes the binaries that a scanner finds. Run owns it; Want and Binaries may be called from any goroutine.
type Manager struct {
	scanner *tlsscan.Scanner
	opts    Options
	held    map[tlsscan.File]*binary

	failed, vanished *loss.Counter

	mu     sync.Mutex
	reads  map[int]struct{} // processes whose reads are wanted
	status []Binary
}

// binary is one that has a TLS library.
type binary struct {
	tlsscan.Binary
	writes, reads *bpf.Probes
	stepped       bool   // some of them, at times
	problem       string // why it has no probes; said once
	http          *bpf.GoProbes
	httpProblem   string // likewise
}

// Binary is what is known of one, for people.
type Binary struct {
	Path      string `json:"path"`
	Library   string `json:"library,omitempty"`
	How       string `json:"how,omitempty"` // it was found
	Processes int    `json:"processes"`
	Stepped   bool   `json:"single_stepped"` // some probes are: a call costs about 12 µs more, else 1
	Writes    bool   `json:"writes"`         // are probed
	Reads     bool   `json:"reads"`
	Calls     uint64 `json:"calls"` // that took plaintext, since the probes were attached
	Tied      uint64 `json:"tied"`  // to a message
	Problem   string `json:"problem,omitempty"`
	HTTP      *HTTP  `json:"net_http,omitempty"` // nil: it has no net/http of Go's, or that is left alone
}

// New makes a Manager.
func New(s *tlsscan.Scanner, o Options) *Manager {
	return &Manager{
		scanner: s, opts: o, held: map[tlsscan.File]*binary{}, reads: map[int]struct{}{},
		failed: o.Losses.Counter("attach", "failed"), vanished: o.Losses.Counter("attach", "vanished"),
	}
}

// Run probes until ctx ends, and then takes all probes off.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(scanEvery)
	defer tick.Stop()
	for {
		m.look(time.Now())
		select {
		case <-ctx.Done():
			return m.close()
		case <-tick.C:
		}
	}
}

// Want asks for probes on the reads of a process's library: messages come to it whose sender has no probes.
func (m *Manager) Want(pid int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads[pid] = struct{}{}
}

// Binaries are those that have a TLS library, or may have one.
func (m *Manager) Binaries() []Binary {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.status)
}

// look makes what is probed agree with what runs.
func (m *Manager) look(now time.Time) {
	found, err := m.scanner.Scan()
	if err != nil {
		m.failed.Add(1)
		m.opts.Log.Warn("cannot look for TLS libraries", "error", err)
		return
	}
	here := map[tlsscan.File]bool{}
	for _, f := range found {
		here[f.File] = true
		b := m.held[f.File]
		if b == nil {
			b = &binary{}
			m.held[f.File] = b
		}
		b.Binary = f
		if m.opts.TLS != nil {
			m.settle(b, now)
		}
		if m.opts.GoHTTP != nil {
			m.settleHTTP(b)
		}
	}
	for id, b := range m.held {
		if !here[id] {
			m.report(b, b.off())
			delete(m.held, id)
		}
	}
	m.forget()
	m.publish()
}

// settle gives a binary the probes that it should have now.
func (m *Manager) settle(b *binary, now time.Time) {
	switch {
	case b.Err != nil:
		b.problem = b.Err.Error()
		return
	case b.problem != "" || b.Library == nil:
		return
	case b.useless():
		b.problem = fmt.Sprintf("none of %d calls became a message: this is not where plaintext goes out", b.writes.Calls().Calls)
		m.opts.Log.Warn("probes of a TLS library are taken off", "binary", b.Path, "reason", b.problem)
		m.report(b, b.off())
		return
	}
	m.want(b, &b.writes, true, now, tlsfind.Write, tlsfind.WriteEx, tlsfind.GoWrite)
	m.want(b, &b.reads, m.wanted(b.Pids), now, tlsfind.Read, tlsfind.ReadEx, tlsfind.GoRead, tlsfind.GoReadEnd)
}

// want puts probes of some kinds on, or takes them off. Single-stepped ones are on for a share of the time.
func (m *Manager) want(b *binary, to **bpf.Probes, wanted bool, now time.Time, kinds ...tlsfind.Kind) {
	var points []bpf.TLSPoint
	stepped := false
	for _, p := range b.Library.Points {
		if slices.Contains(kinds, p.Kind) {
			points = append(points, bpf.TLSPoint{Kind: programs[p.Kind], Offset: p.Offset})
			stepped = stepped || p.Stepped
		}
	}
	wanted = wanted && points != nil && (!stepped || on(m.opts.Stepped, now))
	switch {
	case !wanted && *to != nil:
		m.report(b, (*to).Close())
		*to = nil
	case wanted && *to == nil:
		m.attach(b, to, points)
	}
	b.stepped = b.stepped || wanted && stepped
}

func (m *Manager) attach(b *binary, to **bpf.Probes, points []bpf.TLSPoint) {
	problem := m.with(b, func(path string) (err error) {
		*to, err = m.opts.TLS.Attach(path, points)
		return err
	})
	if problem != "" {
		b.problem = problem
		m.opts.Log.Warn("cannot probe a TLS library", "binary", b.Path, "error", problem)
	}
	if *to == nil {
		return
	}
	m.opts.Log.Info("probing a TLS library", "binary", b.Path, "library", b.Library.Name, "found by", b.Library.How, "points", len(points))
}

// with has a binary's file attached to. It says what is wrong with that; a file that is gone is no error, as the next look knows more.
func (m *Manager) with(b *binary, attach func(path string) error) (problem string) {
	file, err := b.Reopen()
	if errors.Is(err, fs.ErrNotExist) {
		m.vanished.Add(1)
		return ""
	}
	if err == nil {
		defer file.Close() //nolint:errcheck // it was read only
		err = attach(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	}
	if err != nil {
		m.failed.Add(1)
		return err.Error()
	}
	return ""
}

// programs are the recorder's, for the finder's kinds.
var programs = map[tlsfind.Kind]bpf.TLSKind{
	tlsfind.Write: bpf.TLSWrite, tlsfind.WriteEx: bpf.TLSWriteEx, tlsfind.GoWrite: bpf.TLSGoWrite, tlsfind.Read: bpf.TLSRead, tlsfind.ReadEx: bpf.TLSReadEx,
	tlsfind.GoRead: bpf.TLSGoRead, tlsfind.GoReadEnd: bpf.TLSGoReadEnd,
}

// wanted says whether somebody wants the reads of one of these processes.
func (m *Manager) wanted(pids []int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(pids, func(pid int) bool {
		_, ok := m.reads[pid]
		return ok
	})
}

func (m *Manager) report(b *binary, err error) {
	if err != nil {
		m.opts.Log.Warn("cannot take probes off a TLS library", "binary", b.Path, "error", err)
	}
}

// off takes all probes off.
func (b *binary) off() (err error) {
	for _, p := range []**bpf.Probes{&b.writes, &b.reads} {
		if *p != nil {
			err = errors.Join(err, (*p).Close())
			*p = nil
		}
	}
	return errors.Join(err, b.offHTTP())
}

// on says whether what is wanted for a share of the time is on now. It begins with the wall clock's slices, so that nodes agree.
func on(share float64, now time.Time) bool {
	return float64(now.UnixNano()%int64(slice)) < share*float64(slice)
}

// publish is what Binaries tells. Processes that are gone want no reads any more.
func (m *Manager) publish() {
	var list []Binary
	alive := map[int]struct{}{}
	for _, b := range m.held {
		s := Binary{Path: b.Path, Processes: len(b.Pids), Problem: b.problem, Writes: b.writes != nil, Reads: b.reads != nil, HTTP: m.httpState(b)}
		if b.Library != nil {
			s.Library, s.How, s.Stepped = b.Library.Name, b.Library.How, b.stepped
		}
		if b.writes != nil {
			c := b.writes.Calls()
			s.Calls, s.Tied = c.Calls, c.Tied
		}
		list = append(list, s)
		for _, pid := range b.Pids {
			alive[pid] = struct{}{}
		}
	}
	slices.SortFunc(list, func(a, b Binary) int { return b.Processes - a.Processes })
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = list
	for pid := range m.reads {
		if _, ok := alive[pid]; !ok {
			delete(m.reads, pid)
		}
	}
}

func (m *Manager) close() (err error) {
	for _, b := range m.held {
		err = errors.Join(err, b.off())
	}
	return err
}

// useless says whether probes have seen many calls and none of them became a message.
func (b *binary) useless() bool {
	if b.writes == nil {
		return false
	}
	c := b.writes.Calls()
	return c.Calls >= trialCalls && c.Tied == 0
}
