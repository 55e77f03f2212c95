package observe

import (
	"sync"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Labels name one distribution.
type Labels struct {
	Source      string // workload that sent
	Destination string // workload that received
	Hop         string
	Kind        string
	Class       string
	Direction   string // connect, request, response, or processing for the time inside a process
	Zones       string // ZonesSame or ZonesAcross; empty: not known of both ends
}

// What Labels say of zones.
const (
	ZonesSame   = "same"
	ZonesAcross = "across"
)

// zonesOf compares the zones of two workloads.
func zonesOf(a, b *journey.Workload) string {
	switch {
	case a.Zone == "" || b.Zone == "":
		return ""
	case a.Elsewhere(b):
		return ZonesAcross
	}
	return ZonesSame
}

// Series is the distribution of one hop's time over all requests.
type Series struct {
	Labels Labels

	mu    *sync.Mutex // the Observer's, for all series: a tree is measured under one lock
	now   histogram   // since the last mark: what a live table shows
	older *histogram  // before that; nil: nothing
	usual baseline
}

// add counts one time in ns. The caller has the lock.
func (s *Series) add(ns uint64) { s.now.add(ns) }

// mark begins a new stretch for the live table. What Total counts goes on.
func (s *Series) mark() {
	if s.older == nil {
		s.older = &histogram{}
	}
	s.older.merge(&s.now)
	s.now.clear()
}

// Value is a Series at one moment.
type Value struct {
	Labels   Labels
	Count    uint64
	Sum      float64            // seconds
	P50, P99 float64            // seconds, of Recent
	Buckets  map[float64]uint64 // cumulative, by upper bound in seconds, of Total
}

// recent is what came since the last mark; next begins a new stretch.
func (s *Series) recent(next bool) Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := Value{Labels: s.Labels, Count: s.now.count(), Sum: float64(s.now.sum) / 1e9}
	if v.Count == 0 {
		return v
	}
	q := s.now.quantiles(0.5, 0.99)
	v.P50, v.P99 = q[0], q[1]
	if next {
		s.mark()
	}
	return v
}

// total is everything since the start, in buckets with these upper bounds (seconds, ascending).
func (s *Series) total(bounds []float64) Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := Value{Labels: s.Labels, Buckets: make(map[float64]uint64, len(bounds))}
	counts := make([]uint64, len(bounds))
	for _, h := range []*histogram{&s.now, s.older} {
		if h == nil {
			continue
		}
		v.Sum += float64(h.sum) / 1e9
		h.each(func(seconds float64, n uint64) {
			v.Count += n
			for i := len(bounds) - 1; i >= 0 && seconds <= bounds[i]; i-- {
				counts[i] += n
			}
		})
	}
	for i, b := range bounds {
		v.Buckets[b] = counts[i]
	}
	return v
}
