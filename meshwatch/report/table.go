package report

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// HopRow is one line of the hop table: one hop between two workloads over many journeys.
type HopRow struct {
	Service string        `json:"service"` // who waits for it: the leg's caller
	Leg     string        `json:"leg"`     // caller and callee
	Hop     string        `json:"hop"`
	Kind    string        `json:"kind"`
	Count   uint64        `json:"count"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	Share   float64       `json:"share"` // of the time of all journeys, 0 to 1
}

const (
	gap        = 2   // columns between columns
	shareCells = 10  // of the bar for 100 %
	barsFrom   = 100 // below this width the names need the room
	leastText  = 8   // columns that a column of text keeps
)

var hopHeads = [...]string{"SERVICE", "LEG", "HOP", "KIND", "COUNT", "P50", "P99", "SHARE"}

const textColumns = 4 // the first ones: left-aligned, and cut where the terminal is narrow

// Hops writes the rows as a table in the order given.
func Hops(w io.Writer, rows []HopRow, style Style) error {
	lines := make([][len(hopHeads)]string, 0, len(rows)+1)
	lines = append(lines, hopHeads)
	for k := range rows {
		r := &rows[k]
		lines = append(lines, [...]string{clean(r.Service), clean(r.Leg), clean(r.Hop), clean(r.Kind), strconv.FormatUint(r.Count, 10),
			Human(r.P50), Human(r.P99), percent(r.Share)})
	}
	limit, bars := style.width(), style.width() >= barsFrom
	if bars {
		limit -= gap + shareCells
	}
	widths := columnWidths(lines, limit)
	out := bufio.NewWriter(w)
	for k := range lines {
		var text strings.Builder
		for c, cell := range lines[k] {
			if c < textColumns {
				text.WriteString(fit(cell, widths[c]) + strings.Repeat(" ", gap))
			} else {
				text.WriteString(left(cell, widths[c]) + strings.Repeat(" ", gap))
			}
		}
		line := strings.TrimRight(text.String(), " ")
		if k == 0 {
			line = style.paint(bold, line)
		} else if bar := shareBar(rows[k-1].Share); bars && bar != "" {
			line = text.String() + style.paint("34", bar)
		}
		fmt.Fprintln(out, line)
	}
	return out.Flush()
}

// columnWidths are what the cells need; where that is too much, the widest column of text gives way.
func columnWidths(lines [][len(hopHeads)]string, limit int) (widths [len(hopHeads)]int) {
	total := gap * (len(widths) - 1)
	for c := range widths {
		for k := range lines {
			widths[c] = max(widths[c], columns(lines[k][c]))
		}
		total += widths[c]
	}
	for ; total > limit; total-- {
		widest := 0
		for c := range textColumns {
			if widths[c] > widths[widest] {
				widest = c
			}
		}
		if widths[widest] <= leastText {
			break
		}
		widths[widest]--
	}
	return widths
}

func shareBar(share float64) string {
	eighths := int(min(max(share, 0), 1)*shareCells*8 + 0.5)
	bar := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		bar += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return bar
}
