package join

import (
	"slices"
	"time"
)

// turns is what is known of a worker's turns: it reads all that has come, in one turn, and writes what comes of it in the next one, or later.
// Where a turn ends nobody sees. But as often as it has written, turns have ended in which it read.
type turns struct {
	due   []uint64 // ns: when it read that of which something will be written, in order
	ended uint64   // ns: the turns in which it read until then are over
}

// owes takes in that something will be written because of what was read at a time.
func (t *turns) owes(at uint64) {
	if len(t.due) == mostDue {
		t.due = t.due[1:]
	}
	i := len(t.due)
	t.due = append(t.due, at)
	for ; i > 0 && t.due[i-1] > at; i-- {
		t.due[i] = t.due[i-1]
	}
	t.due[i] = at
}

// writes takes in that the worker writes because of what it read at a time, 0: that is not known. Then it is as if it were what it read first:
// so the least is claimed.
func (t *turns) writes(at, because uint64) {
	n := 0
	for n < len(t.due) && t.due[n]+owesFor < at {
		n++
	}
	t.due = t.due[n:]
	i := 0
	if because != 0 {
		i = slices.Index(t.due, because)
	}
	if i >= 0 && i < len(t.due) {
		because = t.due[i]
		t.due = slices.Delete(t.due, i, i+1)
	}
	t.ends(because)
}

// ends takes in that the turn is over in which the worker read something.
func (t *turns) ends(at uint64) { t.ended = max(t.ended, at) }

const mostDue = 1 << 12

// owesFor is after how long, in ns, what was read is taken for something that nothing was written of.
const owesFor = uint64(100 * time.Millisecond)
