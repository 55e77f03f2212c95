package join

import (
	"fmt"
	"testing"
)

// simScore is what became of a simulated proxy's requests without ids.
type simScore struct{ right, wrong, apart int }

func (s simScore) claimed() float64 {
	return float64(s.right) / float64(max(s.right+s.wrong+s.apart, 1))
}

func playSim(t *testing.T, seed uint64, o simOptions) (score simScore) {
	t.Helper()
	w := newWorld(t)
	s := newProxySim(w, seed, o)
	w.j.emit = func(tree *Tree) {
		for _, x := range tree.Exchanges {
			n, ours := s.truth[x.Req.Flight.Id]
			switch {
			case !ours || x.ClientPid() != simProxy || x.hasID:
			case x.Parent < 0:
				score.apart++
			case s.truth[tree.Exchanges[x.Parent].Req.Flight.Id] != n:
				score.wrong++
			default:
				score.right++
			}
		}
	}
	s.play(w.j, w.j.Tick)
	w.j.Close()
	if n := len(w.j.groups) + len(w.j.traces) + len(w.j.quiet); n != 0 {
		t.Errorf("%d groups left in memory", n)
	}
	for pid, p := range w.j.processes {
		if len(p.in.list)+len(p.out.list) != 0 {
			t.Errorf("process %d: %d and %d exchanges left in memory", pid, len(p.in.list), len(p.out.list))
		}
	}
	return score
}

// A proxy whose every order is random: nothing is joined wrongly, whatever is lost and however much is under way.
func TestAssignmentIsNeverWrong(t *testing.T) {
	for seed := range uint64(4) {
		for _, clients := range []int{1, 4, 16, 64, 256, 1000} {
			for _, targets := range []int{1, 1000} {
				for _, lost := range []float64{0, 0.01} {
					for _, withID := range []float64{0, 0.5} {
						o := simOptions{clients: clients, workers: 2, requests: 3000, withID: withID, targets: targets, lost: lost, service: 300_000}
						t.Run(fmt.Sprintf("%d clients, %d targets, %v lost, %v with ids, seed %d", clients, targets, lost, withID, seed), func(t *testing.T) {
							score := playSim(t, seed, o)
							t.Logf("%+v: %.2f %%", score, 100*score.claimed())
							if score.wrong > 0 {
								t.Errorf("%d wrong joins", score.wrong)
							}
						})
					}
				}
			}
		}
	}
}
