package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// sample is what happened in a stretch of time, or since some beginning.
type sample struct {
	Requests float64
	Seconds  float64
	Own      float64 // CPU seconds of what is measured: mesh and load, and the kernel's threads that carry its packets
	Agent    float64 // CPU seconds of the agent's process
	Busy     float64 // CPU seconds of the whole machine, this program left out
	Steal    float64 // CPU seconds that the machine's host gave to someone else
	Flights  float64 // recorded
}

func (s sample) plus(o sample) sample {
	return sample{s.Requests + o.Requests, s.Seconds + o.Seconds, s.Own + o.Own, s.Agent + o.Agent, s.Busy + o.Busy, s.Steal + o.Steal, s.Flights + o.Flights}
}

func (s sample) minus(o sample) sample {
	return s.plus(sample{-o.Requests, -o.Seconds, -o.Own, -o.Agent, -o.Busy, -o.Steal, -o.Flights})
}

// rate is requests per second.
func (s sample) rate() float64 { return s.Requests / s.Seconds }

// cost is µs of CPU per request, without the agent's.
func (s sample) cost() float64 { return s.Own * 1e6 / s.Requests }

// others is how many cores were busy with something that is not measured.
func (s sample) others() float64 { return max(0, s.Busy-s.Own-s.Agent) / s.Seconds }

// outside is the share of all CPUs that somebody else had, on the machine or on its host.
func (s sample) outside(cpus int) float64 {
	return s.others()/float64(cpus) + s.Steal/s.Seconds/float64(cpus)
}

// quad is the two sides of four slices.
type quad struct{ on, off sample }

// quads are those in which recording was switched, and as many in which all was done but that (A/A).
type quads struct{ switched, dummy []quad }

// each applies a comparison of the two sides to quads that nothing else disturbed, and estimates it.
func each(list []quad, cpus int, compare func(quad) float64) Estimate {
	var values []float64
	for _, q := range undisturbed(list, cpus) {
		if q.on.Requests > 0 && q.off.Requests > 0 {
			values = append(values, compare(q))
		}
	}
	return estimate(values)
}

func throughputRatio(q quad) float64 { return q.on.rate() / q.off.rate() }
func costDifference(q quad) float64  { return q.on.cost() - q.off.cost() }

// off is everything outside of recording, which says what the machine does unobserved; on is the rest.
func (q quads) off() (sum sample) {
	for _, d := range q.dummy {
		sum = sum.plus(d.on).plus(d.off)
	}
	for _, s := range q.switched {
		sum = sum.plus(s.off)
	}
	return sum
}

func (q quads) on() (sum sample) {
	for _, s := range q.switched {
		sum = sum.plus(s.on)
	}
	return sum
}

func (q quads) plus(o quads) quads {
	return quads{append(q.switched, o.switched...), append(q.dummy, o.dummy...)}
}

// toggling is one comparison: quads in which recording is switched take turns with dummies, inside of one continuous load.
type toggling struct {
	quads         int           // of each kind
	slice, settle time.Duration // settle: the first part of a slice is left out
	record        func(on bool) error
	read          func() (sample, error) // counters since some beginning
	draw          *rand.Rand
}

// slices differ in length by up to this share from quad to quad, so that nothing periodic, such as the agent's look at the ring or a
// garbage collection, meets the same slice of every quad.
const jitter = 0.25

// run leaves recording off.
func (t toggling) run(ctx context.Context) (q quads, err error) {
	defer func() {
		if e := t.record(false); err == nil {
			err = e
		}
	}()
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

// order is how a quad goes: on, off, off, on, or the other way round by the toss of a coin. What drifts evenly hits both sides
// alike, and what one slice leaves to the next does so on average.
func (t toggling) order() [4]bool {
	first := t.draw.IntN(2) == 0
	return [4]bool{first, !first, !first, first}
}

func (t toggling) quad(ctx context.Context, real bool) (q quad, err error) {
	slice := time.Duration(float64(t.slice) * (1 + jitter*(2*t.draw.Float64()-1)))
	for _, on := range t.order() {
		if err := t.record(on && real); err != nil {
			return q, err
		}
		s, err := t.one(ctx, slice)
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

func (t toggling) one(ctx context.Context, slice time.Duration) (sample, error) {
	begin := time.Now()
	if err := sleep(ctx, t.settle); err != nil {
		return sample{}, err
	}
	before, err := t.read()
	if err != nil {
		return sample{}, err
	}
	if err := sleep(ctx, slice-time.Since(begin)); err != nil {
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
