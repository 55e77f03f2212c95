package join

import "time"

// spans are intervals of the last while, in ns.
type spans []span

type span struct{ from, to uint64 }

// add adds an interval. As long ago as nothing is weighed any more is forgotten; of too many the two oldest are made one.
func (s *spans) add(from, to uint64) {
	kept := (*s)[:0]
	for _, old := range *s {
		switch {
		case old.to+spanKept < from:
		case old.to >= from && old.from <= to:
			from, to = min(from, old.from), max(to, old.to)
		default:
			kept = append(kept, old)
		}
	}
	if len(kept) == mostSpans {
		kept[1].from = min(kept[0].from, kept[1].from)
		kept[1].to = max(kept[0].to, kept[1].to)
		kept = append(kept[:0], kept[1:]...)
	}
	*s = append(kept, span{from, to})
}

const (
	spanKept  = uint64(4 * time.Second) // more than a group waits
	mostSpans = 32
)

// touch says whether one of them has a part of an interval.
func (s spans) touch(from, to uint64) bool {
	for _, old := range s {
		if from <= old.to && old.from <= to {
			return true
		}
	}
	return false
}
