package audit

import "math"

// Interval is a share and where it lies with 95 % confidence.
type Interval struct {
	Share float64 `json:"share"` // 0 where Of is 0
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	Of    uint64  `json:"of"` // how many were judged
}

// z is the 97.5th percentile of the normal distribution.
const z = 1.959963984540054

// Wilson is the share of n that k is, with Wilson's score interval at 95 %: it stays within 0 and 1, and says something also where all or
// none are. With n = 0 nothing is known: from 0 to 1.
func Wilson(k, n uint64) Interval {
	if n == 0 {
		return Interval{High: 1}
	}
	p, of := float64(k)/float64(n), float64(n)
	middle := (p + z*z/(2*of)) / (1 + z*z/of)
	half := z / (1 + z*z/of) * math.Sqrt(p*(1-p)/of+z*z/(4*of*of))
	i := Interval{Share: p, Low: max(0, middle-half), High: min(1, middle+half), Of: n}
	if k == 0 { // exactly, whatever the rounding
		i.Low = 0
	}
	if k == n {
		i.High = 1
	}
	return i
}
