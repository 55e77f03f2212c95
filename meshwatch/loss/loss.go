// Package loss counts everything that meshwatch could not keep, by stage and reason. Loss is ours; a drop is the kernel's.
package loss

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Set holds the counters. The zero value is ready; all methods may be called from any goroutine.
type Set struct {
	mu     sync.RWMutex
	counts map[key]*Counter
}

type key struct{ stage, reason string }

// Counter counts one reason. Add costs one atomic addition.
type Counter struct{ n atomic.Uint64 }

// Add counts n more.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value is how many were counted.
func (c *Counter) Value() uint64 { return c.n.Load() }

// Counter is the counter of a stage and reason, made when first asked for: a reason is listed from then on, also at zero.
func (s *Set) Counter(stage, reason string) *Counter {
	k := key{stage, reason}
	s.mu.RLock()
	c := s.counts[k]
	s.mu.RUnlock()
	if c != nil {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c = s.counts[k]; c == nil {
		if s.counts == nil {
			s.counts = map[key]*Counter{}
		}
		c = &Counter{}
		s.counts[k] = c
	}
	return c
}

// Count adds n to a stage and reason.
func (s *Set) Count(stage, reason string, n uint64) { s.Counter(stage, reason).Add(n) }

// Row is one counter's value.
type Row struct {
	Stage  string `json:"stage"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Rows lists all counters by stage and reason.
func (s *Set) Rows() []Row {
	s.mu.RLock()
	rows := make([]Row, 0, len(s.counts))
	for k, c := range s.counts {
		rows = append(rows, Row{k.stage, k.reason, c.n.Load()})
	}
	s.mu.RUnlock()
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Reason, b.Reason))
	})
	return rows
}
