package join

import "testing"

// As often as a worker has written, turns have ended in which it read: the least that can be said, unless it is known what for it writes.
func TestTurns(t *testing.T) {
	const ms = uint64(1_000_000)
	for _, c := range []struct {
		name  string
		do    func(*turns)
		ended uint64
	}{
		{"it has read", func(t *turns) { t.owes(1 * ms) }, 0},
		{"the first of two is written", func(t *turns) {
			t.owes(2 * ms)
			t.owes(1 * ms)
			t.writes(3*ms, 0)
		}, 1 * ms},
		{"both are", func(t *turns) {
			t.owes(1 * ms)
			t.owes(2 * ms)
			t.writes(3*ms, 0)
			t.writes(4*ms, 0)
		}, 2 * ms},
		{"the second is, and that is known", func(t *turns) {
			t.owes(1 * ms)
			t.owes(2 * ms)
			t.writes(3*ms, 2*ms)
		}, 2 * ms},
		{"what is not owed any more says nothing", func(t *turns) {
			t.owes(1 * ms)
			t.writes(1*ms+owesFor+1, 0)
		}, 0},
		{"in a turn behind that it reads again", func(t *turns) {
			t.owes(1 * ms)
			t.writes(2*ms, 0)
			t.owes(3 * ms)
			t.writes(4*ms, 0)
		}, 3 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got turns
			c.do(&got)
			if got.ended != c.ended {
				t.Errorf("turns ended until %d, want %d", got.ended, c.ended)
			}
		})
	}
	var got turns
	for i := range uint64(2 * mostDue) {
		got.owes(i)
	}
	if len(got.due) > mostDue {
		t.Errorf("%d reads are kept, want at most %d", len(got.due), mostDue)
	}
}
