package report

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// HopRow is one line of the hop table: one hop between two workloads over many journeys.
type HopRow struct {
	Owner   string        `json:"owner"`   // whose time it is, as Owner says it
	Service string        `json:"service"` // who waits for it: the leg's caller
	Leg     string        `json:"leg"`     // caller and callee; the arrow is the message's direction
	Hop     string        `json:"hop"`
	Kind    string        `json:"kind"`
	Count   uint64        `json:"count"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	Share   float64       `json:"share"` // of the time of all journeys, 0 to 1
}

// Owner names whose time a stretch is: "backend app", "frontend sidecar", "gateway", "node", "network". workload is whose
// process it was, where the class is that of a process.
func Owner(class journey.Class, workload string) string {
	switch {
	case class == journey.ClassNode || class == journey.ClassNetwork || workload == "":
		return string(class)
	case class == journey.ClassApp || class == journey.ClassSidecar:
		return workload + " " + string(class)
	}
	return workload
}

// OwnerShare is all the time of one owner.
type OwnerShare struct {
	Owner string
	Share float64 // of the time of all journeys, 0 to 1
}

// Owners sums the rows up by whose time it is, largest first.
func Owners(rows []HopRow) []OwnerShare {
	var list []OwnerShare
	for k := range rows {
		i := slices.IndexFunc(list, func(o OwnerShare) bool { return o.Owner == rows[k].Owner })
		if i < 0 {
			i, list = len(list), append(list, OwnerShare{Owner: rows[k].Owner})
		}
		list[i].Share += rows[k].Share
	}
	slices.SortStableFunc(list, func(a, b OwnerShare) int { return cmp.Compare(b.Share, a.Share) })
	return list
}

// owners says it in a line: a part that is slow at many hops is not seen in their rows.
func owners(rows []HopRow) string {
	var words []string
	for _, o := range Owners(rows) {
		words = append(words, clean(o.Owner)+" "+percent(o.Share))
	}
	return "whose time: " + strings.Join(words, " · ")
}

const (
	gap        = 2  // columns between columns
	shareCells = 10 // of the bar for 100 %, where there is room
	leastCells = 5  // a shorter bar says nothing
	leastText  = 8  // columns that a column of text keeps
)

// Service and kind are left out: the leg and the hop's name say them.
var hopHeads = [...]string{"WHOSE TIME", "HOP", "LEG", "COUNT", "P50", "P99", "SHARE"}

const textColumns = 3 // the first ones: left-aligned, and cut where the terminal is narrow

// Hops writes whose time it is over all rows, and the rows as a table in the order given.
func Hops(w io.Writer, rows []HopRow, style Style) error {
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, cut(owners(rows), style.width()))
	if style.Rows > 0 {
		rows = rows[:min(style.Rows, len(rows))]
	}
	lines := make([][len(hopHeads)]string, 0, len(rows)+1)
	lines = append(lines, hopHeads)
	for k := range rows {
		r := &rows[k]
		lines = append(lines, [...]string{clean(r.Owner), clean(r.Hop), clean(r.Leg), strconv.FormatUint(r.Count, 10),
			Human(r.P50), Human(r.P99), percent(r.Share)})
	}
	widths, used := columnWidths(lines, style.width())
	cells := min(style.width()-used-gap, shareCells)
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
		} else if bar := shareBar(rows[k-1].Share, cells); bar != "" {
			line = text.String() + style.paint("34", bar)
		}
		fmt.Fprintln(out, line)
	}
	return out.Flush()
}

// columnWidths are what the cells need; where that is more than limit, the widest column of text gives way.
func columnWidths(lines [][len(hopHeads)]string, limit int) (widths [len(hopHeads)]int, total int) {
	total = gap * (len(widths) - 1)
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
	return widths, total
}

// shareBar draws a share with at most cells; none where that are too few.
func shareBar(share float64, cells int) string {
	if cells < leastCells {
		return ""
	}
	eighths := int(min(max(share, 0), 1)*float64(cells*8) + 0.5)
	bar := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		bar += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return bar
}
