package join

import (
	"fmt"
	"testing"
)

// A proxy whose requests have had ids for a while has no models meanwhile. With the first one that has none they begin anew, and what they say
// is not wrong: neither of what was under way then, nor after.
func TestNamed(t *testing.T) {
	proven := record{right: 1000}
	inPool := known(func(p *process) { p.pool, p.waits, p.waitsAlone = proven, proven, proven })
	for _, c := range []struct {
		habit                   habit
		inFlight, uses, without int // one in so many has no id after that
		prep                    func(*Joiner)
		least                   float64 // share that is joined
	}{
		{takesLast, 1, 0, 8, nil, 0.97}, // what is alone is joined at once
		{takesLast, 4, 0, 1, inPool, 0.85},
		{takesLast, 4, 1, 1, inPool, 0.8},
		{takesLast, 8, 3, 2, inPool, 0.85},
		{keepsOrder, 8, 0, 1, known(func(p *process) { p.order.record = proven }), 0.8},
		{takesAnyFree, 8, 0, 2, nil, 0.7},
	} {
		t.Run(fmt.Sprintf("habit %d, %d, %d on a connection", c.habit, c.inFlight, c.uses), func(t *testing.T) {
			requests := 8000 * c.inFlight
			s := newSimulation(7, c.habit, 2, c.inFlight, requests)
			s.uses = c.uses
			s.named = func(n int) bool { return n > requests/8 && n < 3*requests/4 || n%c.without > 0 }
			s.half = func(j *Joiner) { j.processes[simProxy].unnamed = j.now - namedAfter } // the time is short here
			s.run()
			got, _ := s.score(c.prep)
			t.Logf("%+v", got)
			if got.wrong > 0 {
				t.Errorf("%d of %d joins are wrong", got.wrong, got.right+got.wrong)
			}
			if share := float64(got.right) / float64(got.right+got.unjoined); share < c.least {
				t.Errorf("%.3f of exchanges are joined, want at least %v", share, c.least)
			}
			if got.bare < requests/16 || got.bare > requests/4 {
				t.Errorf("%d trees of %d were given while the proxy was named", got.bare, requests)
			}
		})
	}
}
