package report

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Style says how text comes out.
type Style struct {
	Width   int  // columns of the terminal; 0 and anything below MinWidth count as DefaultWidth and MinWidth
	Color   bool // ANSI colours: only for a terminal
	Rows    int  // Hops: at most so many rows; 0: all
	AllHops bool // Waterfall: every hop on a line of its own, not only those with at least 1 % of the journey
}

// The widths that a Style takes.
const (
	MinWidth     = 60
	DefaultWidth = 100
)

func (s Style) width() int {
	if s.Width == 0 {
		return DefaultWidth
	}
	return max(s.Width, MinWidth)
}

// SGR parameters.
const (
	bold = "1"
	dim  = "2"
	red  = "31"
)

func classColor(c journey.Class) string {
	switch c {
	case journey.ClassApp:
		return "32" // green
	case journey.ClassSidecar:
		return "33" // yellow
	case journey.ClassGateway:
		return "36" // cyan
	case journey.ClassNode:
		return "34" // blue
	case journey.ClassNetwork:
		return "35" // magenta
	}
	return "90" // grey
}

func (s Style) paint(color, text string) string {
	if !s.Color || color == "" || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// Human is a duration with three significant digits: "3.98 ms", "900 ns", "1.20 s".
func Human(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Human(-d)
	case d < time.Microsecond:
		return strconv.FormatInt(int64(d), 10) + " ns"
	case d < 999500*time.Nanosecond:
		return three(float64(d)/1e3) + " µs"
	case d < 999500*time.Microsecond:
		return three(float64(d)/1e6) + " ms"
	}
	return three(float64(d)/1e9) + " s"
}

func three(v float64) string {
	decimals := 0
	switch {
	case v < 9.995:
		decimals = 2
	case v < 99.95:
		decimals = 1
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

func percent(share float64) string {
	decimals := 0
	if share > 0 && share < 0.0995 || share > 0.99 && share < 1 {
		decimals = 1
	}
	return strconv.FormatFloat(100*share, 'f', decimals, 64) + " %"
}

// clean replaces what a terminal would obey. Hosts, targets and ids are whatever a client sent.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func columns(s string) int { return utf8.RuneCountInString(s) }

// fit cuts or pads on the right to exactly n columns.
func fit(s string, n int) string {
	s = cut(s, n)
	return s + strings.Repeat(" ", n-columns(s))
}

// left pads on the left to at least n columns.
func left(s string, n int) string { return strings.Repeat(" ", max(0, n-columns(s))) + s }

func cut(s string, n int) string {
	if columns(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:max(0, n-1)]) + "…"
}
