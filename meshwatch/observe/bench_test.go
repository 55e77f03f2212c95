package observe

import (
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/join"
)

// withTree gives the tree of one request, of two legs, to do, while it is valid.
func withTree(b *testing.B, do func(w *world, t *join.Tree)) {
	w := newWorld(b)
	w.seen = func(t *join.Tree) { do(w, t) }
	w.oneRequest()
	w.finish(hour + uint64(10*time.Second))
}

// BenchmarkMeasureMessage is what a message costs: 7 hops or so. 0 allocations.
func BenchmarkMeasureMessage(b *testing.B) {
	withTree(b, func(w *world, t *join.Tree) {
		b.ReportAllocs()
		for b.Loop() {
			w.MeasureMessage(t.Exchanges[0].Req)
		}
	})
}

// BenchmarkMeasure is what a tree costs whose messages are measured: two stretches inside processes. 0 allocations.
func BenchmarkMeasure(b *testing.B) {
	withTree(b, func(w *world, t *join.Tree) {
		for _, x := range t.Exchanges {
			x.Req.Measured, x.Resp.Measured = true, true
		}
		b.ReportAllocs()
		for b.Loop() {
			w.Measure(t)
		}
	})
}

// BenchmarkRender is what a tree costs that is kept: 4 flights.
func BenchmarkRender(b *testing.B) {
	withTree(b, func(w *world, t *join.Tree) {
		b.ReportAllocs()
		for b.Loop() {
			w.Render(t)
		}
	})
}
