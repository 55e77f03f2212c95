package observe

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Every time is found again to 0.8 %, at the borders of bins and octaves too.
func TestHistogramIsAccurate(t *testing.T) {
	draw := rand.New(rand.NewPCG(3, 4))
	values := []uint64{0, 1, 62, 63, 64, 65, 127, 128, 129, 255, 256, 1 << 20, 1<<20 - 1, 1<<41 - 1, 1 << 41, 1<<42 - 1}
	for range 1000 {
		values = append(values, draw.Uint64N(1<<draw.UintN(41)))
	}
	for _, ns := range values {
		var h histogram
		h.add(ns)
		got := h.quantiles(0.5)[0] * 1e9
		if off := math.Abs(got - float64(ns)); off > 0.008*float64(ns) {
			t.Errorf("%d ns is found as %.0f ns", ns, got)
		}
		if h.sum != ns || h.count() != 1 {
			t.Errorf("%d ns: sum %d, count %d", ns, h.sum, h.count())
		}
	}
}

func TestHistogramBeyondItsEnd(t *testing.T) {
	var h histogram
	h.add(math.MaxUint64)
	h.add(0)
	if q := h.quantiles(0, 1); q[0] != 0 || q[1] < (40*time.Minute).Seconds() {
		t.Errorf("quantiles %v", q)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var h histogram
	values := make([]float64, 10000)
	for i := range values {
		ns := uint64(1000 * math.Exp(rand.New(rand.NewPCG(5, uint64(i))).NormFloat64()))
		h.add(ns)
		values[i] = float64(ns) / 1e9
	}
	slices.Sort(values)
	for i, share := range []float64{0, 0.5, 0.99, 1} {
		got, want := h.quantiles(0, 0.5, 0.99, 1)[i], values[int(share*9999)]
		if math.Abs(got-want) > 0.01*want {
			t.Errorf("quantile %v is %v, want %v", share, got, want)
		}
	}
	if q := new(histogram).quantiles(0.5, 0.99); q[0] != 0 || q[1] != 0 {
		t.Errorf("quantiles of nothing: %v", q)
	}
}

// The live table begins anew, what is exported never goes back.
func TestSeriesMark(t *testing.T) {
	s := &Series{mu: &sync.Mutex{}}
	for _, ns := range []uint64{1000, 2000, 3_000_000} {
		s.add(ns)
	}
	bounds := []float64{1.5e-6, 1e-3, 1}
	total := Value{Count: 3, Sum: 0.003003, Buckets: map[float64]uint64{1.5e-6: 1, 1e-3: 2, 1: 3}}
	for range 2 {
		if diff := cmp.Diff(total, s.total(bounds)); diff != "" {
			t.Errorf("total (-want +got):\n%s", diff)
		}
		s.recent(true)
	}
	if v := s.recent(false); v.Count != 0 || v.Sum != 0 || v.P99 != 0 {
		t.Errorf("after a mark: %+v", v)
	}
	s.add(5000)
	if v := s.recent(true); v.Count != 1 || math.Abs(v.P50-5e-6) > 5e-8 {
		t.Errorf("after a mark and 5 µs: %+v", v)
	}
	if v := s.total(bounds); v.Count != 4 || v.Buckets[1e-3] != 3 {
		t.Errorf("total at the end: %+v", v)
	}
}

func BenchmarkSeriesAdd(b *testing.B) {
	s := &Series{mu: &sync.Mutex{}}
	for i := range b.N {
		s.add(uint64(1000 + i&0xffff))
	}
}
