package main

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
)

// The marks between which a page has the tables.
const (
	tablesBegin = "<!-- tables: written by go run ./test/accuracy --table -->"
	tablesEnd   = "<!-- end of tables -->"
)

// writeTables puts the tables of levels into a page, between its marks.
func writeTables(file string, levels []*level) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	before, rest, ok := bytes.Cut(page, []byte(tablesBegin))
	_, after, ended := bytes.Cut(rest, []byte(tablesEnd))
	if !ok || !ended {
		return fmt.Errorf("write tables: %s has no %q with %q behind it", file, tablesBegin, tablesEnd)
	}
	out := slices.Concat(before, []byte(tablesBegin+"\n\n"), tables(levels), []byte("\n"+tablesEnd), after)
	if err := os.WriteFile(file, out, 0o644); err != nil { //nolint:gosec // a page of the repository
		return fmt.Errorf("write tables: %w", err)
	}
	return nil
}

// tables are Markdown.
func tables(levels []*level) []byte {
	var b bytes.Buffer
	columns := map[int]bool{}
	for _, l := range levels {
		columns[l.PerWorker] = true
	}
	inFlight := slices.Sorted(maps.Keys(columns))
	byLoad(&b, levels, inFlight, "Relays of proxies: claimed, and of these wrong", func(l *level) string { return cell(l.Score.Relays.proxies()) })
	byLoad(&b, levels, inFlight, "Services: relays of proxies and apps that are claimed, and wrong", func(l *level) string { return cell(l.Score.Relays.services()) })
	byLoad(&b, levels, inFlight, "End to end: requests with every leg under the right cause, and those joined wrongly", func(l *level) string {
		e := l.Score.Relays.EndToEnd
		return fmt.Sprintf("%s, %s", percent(e.Right, e.all()), percent(e.Wrong, e.all()))
	})
	total := newRelays()
	for _, l := range levels {
		for to, from := range map[*map[string]*joined]map[string]*joined{
			&total.Kinds: l.Score.Relays.Kinds, &total.Methods: l.Score.Relays.Methods, &total.Reliability: l.Score.Relays.Reliability,
		} {
			for name, c := range from {
				sum := in(*to, name)
				sum.Right, sum.Wrong, sum.Unjoined = sum.Right+c.Right, sum.Wrong+c.Wrong, sum.Unjoined+c.Unjoined
			}
		}
	}
	list(&b, "By method, and what it says of its confidence", total.Reliability)
	list(&b, "By the process that relays", total.Kinds)
	return b.Bytes()
}

// byLoad is a table of what a level says, with requests in flight for each worker on one axis.
func byLoad(b *bytes.Buffer, levels []*level, columns []int, title string, say func(*level) string) {
	fmt.Fprintf(b, "%s:\n\n| in flight per worker |", title)
	for _, n := range columns {
		fmt.Fprintf(b, " %d |", n)
	}
	fmt.Fprintf(b, "\n|---|%s\n", strings.Repeat("---|", len(columns)))
	var order []string
	rows := map[string]map[int]string{}
	for _, l := range levels {
		name := l.row()
		if rows[name] == nil {
			rows[name] = map[int]string{}
			order = append(order, name)
		}
		rows[name][l.PerWorker] = say(l)
	}
	for _, name := range order {
		fmt.Fprintf(b, "| %s |", name)
		for _, n := range columns {
			fmt.Fprintf(b, " %s |", rows[name][n])
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}

// row is what a level has in common with those that differ by load.
func (out *level) row() string {
	ids := "no ids"
	if out.IDs {
		ids = "ids"
	}
	return strings.Join([]string{out.Scenario, ids, out.Requests, out.kind()}, ", ")
}

func cell(c joined) string {
	return fmt.Sprintf("%s, %s", percent(c.claimed(), c.all()), percent(c.Wrong, c.claimed()))
}

// percent has as many digits as the number allows.
func percent(part, all int) string {
	p := share(part, all)
	switch {
	case math.IsNaN(p):
		return "–"
	case part == 0 || part == all:
		return fmt.Sprintf("%.0f %%", p)
	}
	return fmt.Sprintf("%.2f %%", p)
}

// list is a table of one row for each name.
func list(b *bytes.Buffer, title string, rows map[string]*joined) {
	fmt.Fprintf(b, "%s:\n\n| | right | wrong | unjoined | right of claimed |\n|---|---|---|---|---|\n", title)
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		c := rows[name]
		fmt.Fprintf(b, "| %s | %d | %d | %d | %s |\n", name, c.Right, c.Wrong, c.Unjoined, percent(c.Right, c.claimed()))
	}
	b.WriteByte('\n')
}
