package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
)

// The markers between which a table is written.
const (
	tableBegins = "<!-- made by make accuracy: table -->\n"
	tableEnds   = "<!-- end of table -->\n"
)

// writeTable makes the table in a file anew.
func writeTable(name string, rows []any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	text, err = withTable(text, table(rows))
	if err != nil {
		return fmt.Errorf("write the table: %s: %w", name, err)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil { //nolint:gosec // for everyone
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

// withTable puts a table between the markers.
func withTable(text []byte, table string) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(tableBegins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if !ok || !ends {
		return nil, fmt.Errorf("it must have the lines %q and %q", strings.TrimSpace(tableBegins), strings.TrimSpace(tableEnds))
	}
	return slices.Concat(before, []byte(tableBegins), []byte(table), []byte(tableEnds), after), nil
}

// table has a row for each level.
func table(rows []any) string {
	var b strings.Builder
	b.WriteString("| scenario | load | under way per worker | sidecar out: right, wrong, apart | claimed | precision | gateway | sidecar in | app | pairs | hops | traces |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, row := range rows {
		l, ok := row.(*level)
		if !ok {
			continue
		}
		sc := l.Score.Relays
		right, wrong, apart := sc.of("sidecar out")
		fmt.Fprintf(&b, "| %s | %s | %g | %d, %d, %d | %.2f %% | %.3f %% |", l.Scenario, l.Kind, float64(l.Connections)/float64(l.workers()),
			right, wrong, apart, percent(right+wrong, right+wrong+apart), percent(right, right+wrong))
		var all [2]int
		for _, kind := range []string{"gateway", "sidecar in", "app", "sidecar out"} {
			right, wrong, apart := sc.of(kind)
			if kind != "sidecar out" {
				fmt.Fprintf(&b, " %.2f %%, %d wrong |", percent(right+wrong, right+wrong+apart), wrong)
			}
			all[0], all[1] = all[0]+right, all[1]+right+wrong+apart
		}
		fmt.Fprintf(&b, " %.2f %% | %.2f %% | %.2f %% |\n", percent(sc.Paired, sc.Exchanges), percent(all[0], all[1]), percent(sc.Whole, sc.Traces))
	}
	return b.String()
}
