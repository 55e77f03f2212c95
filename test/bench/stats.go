package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Estimate is a median with its 95 % bootstrap interval.
type Estimate struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	N      int     `json:"n"` // values it is the median of
}

// half is half of the interval's width: what the figure is uncertain by.
func (e Estimate) half() float64 { return (e.High - e.Low) / 2 }

// agrees says whether the interval has want in it, give or take by.
func (e Estimate) agrees(want, by float64) bool {
	return e.N > 0 && e.Low-by <= want && want <= e.High+by
}

// text writes the estimate with digits after the point.
func (e Estimate) text(digits int) string {
	if e.N == 0 {
		return "—"
	}
	return fmt.Sprintf("%.*f (%.*f … %.*f)", digits, e.Median, digits, e.Low, digits, e.High)
}

// median is the middle value, 0 for none. It does not change values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

const resamples = 2000 // the interval's ends are then known to about a tenth of its width

// estimate is the median of values, and between which bounds 95 % of the medians of as many values drawn from them lie. The
// same values always give the same bounds.
func estimate(values []float64) Estimate {
	if len(values) == 0 {
		return Estimate{}
	}
	draw := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not for secrets
	medians, sample := make([]float64, resamples), make([]float64, len(values))
	for i := range medians {
		for k := range sample {
			sample[k] = values[draw.IntN(len(values))]
		}
		medians[i] = median(sample)
	}
	slices.Sort(medians)
	at := func(q float64) float64 { return medians[int(math.Round(q*float64(resamples-1)))] }
	return Estimate{Median: median(values), Low: at(0.025), High: at(0.975), N: len(values)}
}

// plus is the sum of two independent figures: what they are uncertain by adds as squares do.
func (e Estimate) plus(f Estimate) Estimate {
	down, up := math.Hypot(e.Median-e.Low, f.Median-f.Low), math.Hypot(e.High-e.Median, f.High-f.Median)
	m := e.Median + f.Median
	return Estimate{Median: m, Low: m - down, High: m + up, N: min(e.N, f.N)}
}

// withAgent is the throughput that a machine without a free CPU keeps, from what it keeps with the kernel's part alone and from the
// agent's CPU per request (µs) beside what a request costs unobserved (µs): CPU time is what there is a given amount of, so
// 1/kept = 1/kernel + agent/unobserved.
func withAgent(kernel, agent Estimate, unobserved float64) Estimate {
	if kernel.N == 0 || unobserved <= 0 {
		return Estimate{}
	}
	more := Estimate{1 / kernel.Median, 1 / kernel.High, 1 / kernel.Low, kernel.N}.
		plus(Estimate{agent.Median / unobserved, agent.Low / unobserved, agent.High / unobserved, max(agent.N, 1)})
	return Estimate{1 / more.Median, 1 / more.High, 1 / more.Low, kernel.N}
}

// outsideBy is how much more of the machine than usual something else may have in a quad before the quad is dropped.
const outsideBy = 0.05

// undisturbed drops quads in which work from outside (other processes of this machine, and time stolen by its host) had more than
// outsideBy of the CPUs above the median quad. It looks at nothing that recording changes, so it favours neither side.
func undisturbed(list []quad, cpus int) (kept []quad) {
	shares := make([]float64, len(list))
	for i, q := range list {
		shares[i] = q.on.plus(q.off).outside(cpus)
	}
	limit := median(shares) + outsideBy
	for i, q := range list {
		if shares[i] <= limit {
			kept = append(kept, q)
		}
	}
	return kept
}
