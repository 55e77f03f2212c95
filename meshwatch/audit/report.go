package audit

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// counts are what was found, by method and by why there was no join.
type counts struct {
	entries, own, again uint64
	used                uint64 // joins that were made of entries
	right, wrong        map[journey.Method]uint64
	missing             map[string]uint64
}

func newCounts() counts {
	return counts{right: map[journey.Method]uint64{}, wrong: map[journey.Method]uint64{}, missing: map[string]uint64{}}
}

// Report is how joins compare with what proxies said, since the start.
type Report struct {
	Entries uint64   `json:"entries"` // that were taken
	Own     uint64   `json:"own"`     // of these, answered by the proxy itself: nothing to join
	Again   uint64   `json:"again"`   // said before
	Used    uint64   `json:"used"`    // joins were made of these: nothing to compare
	Waiting int      `json:"waiting"` // not judged yet
	All     Method   `json:"all"`
	Methods []Method `json:"methods"` // by name
	Missing []Count  `json:"missing"` // joins that were not made, by why
	Unknown []Count  `json:"unknown"` // entries of which nothing can be said, by why
}

// Method is how the joins of one method compare.
type Method struct {
	Method    journey.Method `json:"method"` // empty: all of them
	Right     uint64         `json:"right"`
	Wrong     uint64         `json:"wrong"`
	Precision Interval       `json:"precision"` // of the joins that were made, the right ones
	Recall    Interval       `json:"recall"`    // of the joins there are, those that this method made, and right
}

// Count is a number of something.
type Count struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Report says what was found so far.
func (a *Audit) Report() *Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &a.counts
	r := &Report{Entries: c.entries, Own: c.own, Again: c.again, Used: c.used, Waiting: len(a.waiting) + len(a.settling)}
	var missing uint64
	for why, n := range c.missing {
		missing += n
		r.Missing = append(r.Missing, Count{cmp.Or(why, "root"), n})
	}
	slices.SortFunc(r.Missing, func(x, y Count) int { return cmp.Compare(x.Reason, y.Reason) })
	for _, n := range c.right {
		r.All.Right += n
	}
	for _, n := range c.wrong {
		r.All.Wrong += n
	}
	there := r.All.Right + r.All.Wrong + missing
	r.All.score(there)
	names := maps.Clone(c.right)
	maps.Copy(names, c.wrong)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		m := Method{Method: name, Right: c.right[name], Wrong: c.wrong[name]}
		m.score(there)
		r.Methods = append(r.Methods, m)
	}
	for _, l := range []struct {
		why string
		n   uint64
	}{
		{"ambiguous", a.lost.ambiguous.Value()}, {"connection-not-seen", a.lost.unseen.Value()}, {"contradicted", a.lost.contradicted.Value()},
		{"not-one-process", a.lost.processes.Value()}, {"not-the-speaker", a.lost.speaker.Value()}, {"table-full", a.lost.full.Value()},
	} {
		if l.n > 0 {
			r.Unknown = append(r.Unknown, Count{l.why, l.n})
		}
	}
	return r
}

// score works the shares out. there is how many joins there are.
func (m *Method) score(there uint64) {
	m.Precision = Wilson(m.Right, m.Right+m.Wrong)
	m.Recall = Wilson(m.Right, there)
}
