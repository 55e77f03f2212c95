package main

import (
	"context"
	"time"
)

// order is how recording is switched over a quad of slices: on, off, off, on. What drifts evenly hits both sides alike.
var order = [4]bool{true, false, false, true}

// sample is what happened in a stretch of time.
type sample struct {
	Requests float64
	Seconds  float64
	Busy     float64 // CPU seconds of the whole machine
	Ours     float64 // of Busy: mesh, load and agent
}

func (s sample) plus(o sample) sample {
	return sample{s.Requests + o.Requests, s.Seconds + o.Seconds, s.Busy + o.Busy, s.Ours + o.Ours}
}

func (s sample) minus(o sample) sample {
	return sample{s.Requests - o.Requests, s.Seconds - o.Seconds, s.Busy - o.Busy, s.Ours - o.Ours}
}

// rate is requests per second.
func (s sample) rate() float64 { return s.Requests / s.Seconds }

// cost is µs of CPU per request, of everything that runs on the machine.
func (s sample) cost() float64 { return s.Busy * 1e6 / s.Requests }

// ownCost is µs of CPU per request of mesh, load and agent.
func (s sample) ownCost() float64 { return s.Ours * 1e6 / s.Requests }

// others is how many cores were busy with something else: kernel threads, this program, strangers.
func (s sample) others() float64 { return (s.Busy - s.Ours) / s.Seconds }

// quad is the two sides of four slices.
type quad struct{ on, off sample }

// quads are those in which recording was switched, and as many in which all was done but that.
type quads struct{ switched, dummy []quad }

// each applies a comparison of the two sides to quads, and estimates it.
func each(list []quad, compare func(quad) float64) Estimate {
	values := make([]float64, len(list))
	for i, q := range list {
		values[i] = compare(q)
	}
	return estimate(values)
}

func throughputRatio(q quad) float64 { return q.on.rate() / q.off.rate() }
func costDifference(q quad) float64  { return q.on.cost() - q.off.cost() }
func ownDifference(q quad) float64   { return q.on.ownCost() - q.off.ownCost() }

// off is everything outside of recording, which says what the machine does unobserved.
func (q quads) off() (sum sample) {
	for _, l := range [][]quad{q.switched, q.dummy} {
		for _, q := range l {
			sum = sum.plus(q.off)
		}
	}
	return sum
}

// toggling is one comparison: quads in which recording is switched take turns with dummies, inside of one continuous load.
type toggling struct {
	quads         int           // of each kind
	slice, settle time.Duration // settle: the first part of a slice is left out, as it still has work of the one before
	record        func(on bool)
	read          func() (sample, error) // counters since some beginning
}

// length is how long it takes.
func (t toggling) length() time.Duration { return time.Duration(2*len(order)*t.quads) * t.slice }

// run leaves recording off.
func (t toggling) run(ctx context.Context) (q quads, err error) {
	defer t.record(false)
	for range t.quads {
		for _, to := range []*[]quad{&q.switched, &q.dummy} {
			one, err := t.quad(ctx, to == &q.switched)
			if err != nil {
				return q, err
			}
			*to = append(*to, one)
		}
	}
	return q, nil
}

func (t toggling) quad(ctx context.Context, real bool) (q quad, err error) {
	for _, on := range order {
		t.record(on && real)
		s, err := t.one(ctx)
		if err != nil {
			return q, err
		}
		if on {
			q.on = q.on.plus(s)
		} else {
			q.off = q.off.plus(s)
		}
	}
	return q, nil
}

func (t toggling) one(ctx context.Context) (sample, error) {
	begin := time.Now()
	if err := sleep(ctx, t.settle); err != nil {
		return sample{}, err
	}
	before, err := t.read()
	if err != nil {
		return sample{}, err
	}
	if err := sleep(ctx, t.slice-time.Since(begin)); err != nil {
		return sample{}, err
	}
	after, err := t.read()
	return after.minus(before), err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
