package observe

import (
	"sync"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// Labels name one distribution.
type Labels struct {
	Source      string // workload that sent
	Destination string // workload that received
	Hop         string
	Kind        string
	Class       string
	Direction   string // request, response, or processing for the time inside a process
}

// Series is the distribution of one hop's time over all requests.
type Series struct {
	Labels Labels

	mu    sync.Mutex
	now   part // since the last mark: what a live table shows
	older part // before that
}

// part is a stretch of a Series' life.
type part struct {
	count  uint64
	sum    float64            // seconds
	sketch *ddsketch.DDSketch // nil: empty
}

// relativeAccuracy of quantiles: a hop of 1 ms is told from one of 1.02 ms.
const relativeAccuracy = 0.01

// maxBins of a sketch cover 1 ns to 1 h at that accuracy.
const maxBins = 2048

func newSeries(l Labels) *Series { return &Series{Labels: l, now: part{sketch: newSketch()}} }

func newSketch() *ddsketch.DDSketch {
	m, err := mapping.NewCubicallyInterpolatedMapping(relativeAccuracy)
	if err != nil {
		panic(err) // a constant is wrong
	}
	return ddsketch.NewDDSketch(m, store.NewCollapsingLowestDenseStore(maxBins), store.NewCollapsingLowestDenseStore(1))
}

// add counts one time in ns. About 30 ns.
func (s *Series) add(ns uint64) {
	v := float64(ns) / 1e9
	s.mu.Lock()
	s.now.count++
	s.now.sum += v
	_ = s.now.sketch.Add(v) // fails for infinite values only
	s.mu.Unlock()
}

// mark begins a new stretch for the live table. What Total counts goes on.
func (s *Series) mark() {
	if s.now.count == 0 {
		return
	}
	if s.older.sketch == nil {
		s.older.sketch = newSketch()
	}
	_ = s.older.sketch.MergeWith(s.now.sketch) // fails for other mappings only
	s.older.count += s.now.count
	s.older.sum += s.now.sum
	s.now.count, s.now.sum = 0, 0
	s.now.sketch.Clear()
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
	v := Value{Labels: s.Labels, Count: s.now.count, Sum: s.now.sum}
	if v.Count > 0 {
		if q, err := s.now.sketch.GetValuesAtQuantiles([]float64{0.5, 0.99}); err == nil {
			v.P50, v.P99 = q[0], q[1]
		}
	}
	if next {
		s.mark()
	}
	return v
}

// total is everything since the start, in buckets with these upper bounds (seconds, ascending).
func (s *Series) total(bounds []float64) Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := Value{
		Labels: s.Labels, Count: s.now.count + s.older.count, Sum: s.now.sum + s.older.sum, Buckets: make(map[float64]uint64, len(bounds)),
	}
	counts := make([]float64, len(bounds))
	for _, p := range []*part{&s.now, &s.older} {
		if p.count == 0 {
			continue
		}
		p.sketch.ForEach(func(value, count float64) bool {
			for i, b := range bounds {
				if value <= b {
					counts[i] += count
				}
			}
			return false
		})
	}
	for i, b := range bounds {
		v.Buckets[b] = uint64(counts[i])
	}
	return v
}
