package observe

import "math/bits"

// histogram counts times in ns. The bins of an octave are 64 of equal width, so what it says is right to 0.8 %: a hop of 1 ms is
// told from one of 1.02 ms. An octave that is used takes 512 bytes; the times of one hop are mostly in four to eight.
type histogram struct {
	sum     uint64 // ns
	octaves [octaves]*[octaveBins]uint64
}

const (
	octaveBits = 6
	octaveBins = 1 << octaveBits
	octaves    = 37 // the last begins at 2^41 ns, 37 minutes, and has everything above it too
)

// add counts one time. A few ns if its bin is in the cache.
func (h *histogram) add(ns uint64) {
	h.sum += ns
	octave, bin := 0, ns // the first octave has a bin for each ns
	if e := bits.Len64(ns) - octaveBits; e > 0 {
		octave, bin = e, ns>>(e-1)-octaveBins
		if octave >= octaves {
			octave, bin = octaves-1, octaveBins-1
		}
	}
	b := h.octaves[octave]
	if b == nil {
		b = new([octaveBins]uint64)
		h.octaves[octave] = b
	}
	b[bin]++
}

// each calls f for the bins that are not empty, ascending, with the middle of the bin in seconds.
func (h *histogram) each(f func(seconds float64, n uint64)) {
	for octave, b := range h.octaves {
		if b == nil {
			continue
		}
		for bin, n := range b {
			if n > 0 {
				f(middle(octave, bin), n)
			}
		}
	}
}

func middle(octave, bin int) float64 {
	if octave == 0 {
		return float64(bin) / 1e9
	}
	width := uint64(1) << (octave - 1)
	return (float64((octaveBins+uint64(bin))*width) + float64(width-1)/2) / 1e9 //nolint:gosec // below octaveBins
}

func (h *histogram) count() (n uint64) {
	h.each(func(_ float64, k uint64) { n += k })
	return n
}

// quantiles are the times in seconds below which these shares (ascending) of all are; 0 when there are none.
func (h *histogram) quantiles(shares ...float64) []float64 {
	out, total := make([]float64, len(shares)), float64(h.count())
	seen, next := uint64(0), 0
	h.each(func(seconds float64, n uint64) {
		seen += n
		for ; next < len(shares) && float64(seen) > shares[next]*(total-1); next++ {
			out[next] = seconds
		}
	})
	return out
}

// merge adds what other has counted.
func (h *histogram) merge(other *histogram) {
	h.sum += other.sum
	for octave, b := range other.octaves {
		if b == nil {
			continue
		}
		if h.octaves[octave] == nil {
			h.octaves[octave] = new([octaveBins]uint64)
		}
		for bin, n := range b {
			h.octaves[octave][bin] += n
		}
	}
}

// clear keeps the memory of the octaves.
func (h *histogram) clear() {
	h.sum = 0
	for _, b := range h.octaves {
		if b != nil {
			clear(b[:])
		}
	}
}
