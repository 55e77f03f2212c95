package join

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStreamsPlace(t *testing.T) {
	type step struct {
		id   uint32
		want int
		ok   bool
	}
	for _, c := range []struct {
		name    string
		fresh   bool
		steps   []step
		missing []uint32
	}{
		{"in order", false, []step{{1, 0, true}, {3, 0, true}, {5, 0, true}}, nil},
		{"late", false, []step{{1, 0, true}, {7, 2, true}, {3, 0, true}, {9, 1, true}, {5, 0, true}}, nil},
		{"still missing", false, []step{{1, 0, true}, {7, 2, true}}, []uint32{3, 5}},
		{"older than what was seen first", false, []step{{5, 0, true}, {3, 0, false}}, nil},
		{"too many", false, []step{{1, 0, true}, {1001, 0, false}, {1003, 0, true}}, nil},
		{"fresh", true, []step{{1, 0, true}, {3, 0, true}}, nil},
		{"fresh, the second first", true, []step{{3, 1, true}, {1, 0, true}, {5, 0, true}}, nil},
		{"fresh, too many", true, []step{{1001, 0, true}, {999, 0, false}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s streams
			for _, step := range c.steps {
				if got, ok := s.place(step.id, c.fresh); got != step.want || ok != step.ok {
					t.Errorf("stream %d has place %d, %t; want %d, %t", step.id, got, ok, step.want, step.ok)
				}
			}
			if diff := cmp.Diff(c.missing, append([]uint32(nil), s.missing...)); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
		})
	}
}

// Streams that are seen in another order than they were opened in belong to the requests in the order of these.
func TestStreamsOutOfOrder(t *testing.T) {
	w := newWorld(t)
	wk := w.j.newWorker(101, 101)
	c := &class{pool: &pool{}}
	wk.lines[1] = &line{class: c}
	l := wk.lines[1]
	var ys []*Exchange
	for i := range 4 {
		y := &Exchange{serial: uint64(i + 1), Req: &Message{RecvNs: uint64(i + 1)}} //nolint:gosec // a few
		ys = append(ys, y)
		l.asked(y)
	}
	leg := &Leg{}
	leg.up.used = true
	l.streams = &leg.up.streams
	for _, step := range []struct {
		id uint32
		of int
	}{{1, 0}, {5, 2}, {3, 1}, {7, 3}} {
		x := &Exchange{Stream: Stream{ID: step.id}, Req: &Message{leg: leg}}
		at, sure := leg.up.streams.place(step.id, false)
		l.asks(x, at, !sure)
		if x.inOrder.of() != ys[step.of] {
			t.Errorf("stream %d is not taken for request %d", step.id, step.of)
		}
	}
}
