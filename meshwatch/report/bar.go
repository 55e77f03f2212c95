package report

import "strings"

// The cells of a bar.
const (
	cellLeg  = "━" // a leg is open
	cellOwn  = "█" // own time
	cellWait = "░" // a process waits for exchanges it made
	cellThin = "▏" // too short for a cell, but there
)

// span is an interval of the journey's clock.
type span struct{ from, to uint64 }

func (s span) overlap(o span) uint64 {
	a, b := max(s.from, o.from), min(s.to, o.to)
	if a >= b {
		return 0
	}
	return b - a
}

// scale maps the journey's duration on cells.
type scale struct {
	span
	cells int
}

func (c scale) cell(i int) span {
	n, total := uint64(c.cells), c.to-c.from //nolint:gosec // a terminal's width
	at := func(k uint64) uint64 {
		return c.from + total/n*k + total%n*k/n // without overflow
	}
	return span{at(uint64(i)), at(uint64(i) + 1)} //nolint:gosec // at most cells
}

// bar draws one interval with mark, and with wait where others cover most of it. An interval shorter than half a cell is
// drawn thin in the cell where it begins.
func (c scale) bar(s span, mark string, waits []span) string {
	var out strings.Builder
	drawn, first := false, -1
	cells := make([]string, c.cells)
	for i := range cells {
		at := c.cell(i)
		cells[i] = " "
		covered := at.overlap(s)
		if first < 0 && s.from < at.to && s.to >= at.from {
			first = i
		}
		if 2*covered < at.to-at.from || covered == 0 {
			continue
		}
		var waiting uint64
		for _, w := range waits {
			waiting += at.overlap(w)
		}
		cells[i], drawn = mark, true
		if 2*waiting >= covered {
			cells[i] = cellWait
		}
	}
	if !drawn && first >= 0 {
		cells[first] = cellThin
	}
	for _, cell := range cells {
		out.WriteString(cell)
	}
	return strings.TrimRight(out.String(), " ")
}
