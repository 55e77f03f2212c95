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

	mu     sync.Mutex
	count  uint64
	sum    float64 // seconds
	sketch *ddsketch.DDSketch
}

// relativeAccuracy of quantiles: a hop of 1 ms is told from one of 1.02 ms.
const relativeAccuracy = 0.01

// maxBins of a sketch cover 1 ns to 1 h at that accuracy.
const maxBins = 2048

func newSeries(l Labels) *Series {
	m, err := mapping.NewCubicallyInterpolatedMapping(relativeAccuracy)
	if err != nil {
		panic(err) // a constant
	}
	return &Series{Labels: l, sketch: ddsketch.NewDDSketch(m, store.NewCollapsingLowestDenseStore(maxBins), store.NewCollapsingLowestDenseStore(1))}
}

// add counts one time in ns. About 30 ns.
func (s *Series) add(ns uint64) {
	v := float64(ns) / 1e9
	s.mu.Lock()
	s.count++
	s.sum += v
	_ = s.sketch.Add(v) // fails for infinite values only
	s.mu.Unlock()
}

// Value is a Series at one moment.
type Value struct {
	Labels   Labels
	Count    uint64
	Sum      float64 // seconds
	P50, P99 float64 // seconds
	Buckets  map[float64]uint64
}

// read is the series' value; bounds (seconds, ascending) are for its cumulative buckets, nil for none.
func (s *Series) read(bounds []float64) Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := Value{Labels: s.Labels, Count: s.count, Sum: s.sum}
	if s.count == 0 {
		return v
	}
	if q, err := s.sketch.GetValuesAtQuantiles([]float64{0.5, 0.99}); err == nil {
		v.P50, v.P99 = q[0], q[1]
	}
	if bounds == nil {
		return v
	}
	v.Buckets = make(map[float64]uint64, len(bounds))
	counts := make([]float64, len(bounds))
	s.sketch.ForEach(func(value, count float64) bool {
		for i, b := range bounds {
			if value <= b {
				counts[i] += count
			}
		}
		return false
	})
	for i, b := range bounds {
		v.Buckets[b] = uint64(counts[i])
	}
	return v
}

func (s *Series) reset() {
	s.mu.Lock()
	s.count, s.sum = 0, 0
	s.sketch.Clear()
	s.mu.Unlock()
}
