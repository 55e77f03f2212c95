package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Estimate is a median over quads with its 95 % bootstrap interval.
type Estimate struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Quads  int     `json:"quads"`
}

// agrees says whether the interval has want in it, give or take by, and is no wider than width to either side: a control that is
// too vague to contradict anything does not count.
func (e Estimate) agrees(want, by, width float64) bool {
	return e.Quads > 0 && e.Low-by <= want && want <= e.High+by && e.High-e.Low <= 2*width
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
	return Estimate{Median: median(values), Low: at(0.025), High: at(0.975), Quads: len(values)}
}
