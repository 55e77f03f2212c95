package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// printLevels shows them to people: a line each, then what was not complete and what the agent says that it lost.
func printLevels(w io.Writer, levels []*level) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p := printer{w: tw}
	p.line("CONNECTIONS\tREQUESTS/S\tSCORED\tCOMPLETE\tWRONG JOINS\tWRONG RELAYS\tUNJOINED LEGS\tSILENT\tNOT SCORED")
	for _, l := range levels {
		s := &l.Score
		p.line("%s\t%.0f\t%d\t%.3f %%\t%d\t%d\t%d\t%d\t%d", l.name(), l.Rate, s.Scored, l.Percent, s.WrongJoins,
			s.WrongRelays, sum(s.Unjoined), sum(l.Silent), sum(s.Requests)-s.Scored-s.Streams.Scored)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	p.w = w
	for _, l := range levels {
		p.level(l)
	}
	p.line("")
	return p.err
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); p.err == nil {
		p.err = err
	}
}

func (p *printer) level(l *level) {
	st := l.Score.Streams
	p.line("\n%s connections: %d scored = %d complete + %d incomplete; latency p50 %s, p99 %s", l.name(), l.Score.Scored+st.Scored,
		l.Score.Complete+st.Complete, sum(l.Score.Incomplete), l.Load.P50, l.Load.P99)
	if st.Scored > 0 {
		p.line("  %8d  of them are calls that stream, %d complete with the apps' numbers of messages", st.Scored, st.Complete)
	}
	for _, name := range byCount(l.Score.Requests) {
		if name != stateNames[scored] {
			p.line("  %8d  not scored: %s", l.Score.Requests[name], name)
		}
	}
	for _, name := range byCount(l.Score.Causes) {
		p.line("  %8d  %s", l.Score.Causes[name], name)
	}
	for _, name := range byCount(l.Score.Unjoined) {
		p.line("  %8d  unjoined legs: %s", l.Score.Unjoined[name], name)
	}
	p.relays(l)
	for _, row := range l.Lost {
		p.line("  %8d  lost, says the agent: %s %s", row.Count, row.Stage, row.Reason)
	}
	for _, name := range byCount(l.Silent) {
		p.line("  %8d  SILENT, no counter says so: %s", l.Silent[name], name)
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// byCount are the keys, largest count first.
func byCount(m map[string]int) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b))
	})
}
