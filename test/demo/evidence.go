package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// evidence is what meshwatch said about one stretch of time.
type evidence struct {
	owners   []portion         // of the time of all requests, by the hop table; largest first
	verdicts []portion         // of the time of the kept requests, by their verdicts; largest first
	requests []control.Summary // quickest first
	busy     float64           // the CPUs, 0 to 1
}

// portion is one name's part of a whole.
type portion struct {
	name  string
	share float64 // 0 to 1
}

func (p portion) String() string { return fmt.Sprintf("%s %.0f %%", p.name, 100*p.share) }

// weigh sums up the hop table, and the requests that began in its time.
func weigh(rows []report.HopRow, list []control.Summary, since time.Time) evidence {
	var e evidence
	for _, o := range report.Owners(rows) {
		e.owners = append(e.owners, portion{o.Owner, o.Share})
	}
	verdicts := map[string]float64{}
	var total time.Duration
	for _, s := range list {
		if s.Start.Before(since) {
			continue
		}
		e.requests = append(e.requests, s)
		total += s.Duration
	}
	for _, s := range e.requests { // one that took long has more to say about where time went
		if total > 0 {
			verdicts[verdictName(s.Class, s.Where)] += float64(s.Duration) / float64(total)
		}
	}
	slices.SortFunc(e.requests, func(a, b control.Summary) int { return cmp.Compare(a.Duration, b.Duration) })
	e.verdicts = largestFirst(verdicts)
	return e
}

func largestFirst(shares map[string]float64) []portion {
	var list []portion
	for _, name := range slices.Sorted(maps.Keys(shares)) {
		list = append(list, portion{name, shares[name]})
	}
	slices.SortStableFunc(list, func(a, b portion) int { return cmp.Compare(b.share, a.share) })
	return list
}

// at is the request that a share of the others is faster than. There must be one.
func (e evidence) at(quantile float64) control.Summary {
	return e.requests[min(int(quantile*float64(len(e.requests))), len(e.requests)-1)]
}

// whole is how many of the requests have every leg that any has.
func (e evidence) whole() (n, legs int) {
	for _, s := range e.requests {
		legs = max(legs, s.Legs)
	}
	for _, s := range e.requests {
		if s.Legs == legs {
			n++
		}
	}
	return n, legs
}

func shareOf(list []portion, name string) float64 {
	for _, p := range list {
		if p.name == name {
			return p.share
		}
	}
	return 0
}

// judge compares two stretches: text says what meshwatch found, found whether that is what was made slow. It is when the
// part has more of the time than any other and more than before, and verdicts over most of the time name it.
func judge(f fault, before, after evidence) (text string, found bool) {
	was, is := shareOf(before.owners, f.owner), shareOf(after.owners, f.owner)
	said := shareOf(after.verdicts, verdictName(f.class, f.Pod))
	found = len(after.owners) > 0 && after.owners[0].name == f.owner && is > was && said >= 0.5
	var b strings.Builder
	for _, s := range []struct {
		name string
		e    evidence
	}{{"before", before}, {"after", after}} {
		fmt.Fprintf(&b, "%-7s p50 %s, p95 %s\n  whose time            %s\n  verdicts, by duration %s\n", s.name, report.Human(s.e.at(0.5).Duration),
			report.Human(s.e.at(0.95).Duration), top(s.e.owners), top(s.e.verdicts))
	}
	moved, excuse := "The time moved", ""
	if !found {
		moved, excuse = "The time did NOT clearly move", after.excuse()
	}
	fmt.Fprintf(&b, "%s to what was made slow: %s had %.0f %% of it, now %.0f %%.%s", moved, f.owner, 100*was, 100*is, excuse)
	return b.String(), found
}

// top are the largest portions, in words.
func top(list []portion) string {
	const most = 3
	var words []string
	for _, p := range list[:min(len(list), most)] {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}
