package join

import (
	"fmt"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// simScore is how joins of a simulation compare with what happened, and how many trees were given while no worker was known.
type simScore struct{ right, wrong, unjoined, bare int }

func (s *simulation) score(prep func(*Joiner)) (out simScore, lost *loss.Set) {
	lost = &loss.Set{}
	cfg := DefaultConfig(head.New(head.Config{}))
	cfg.SelfID, cfg.Proxy = 1<<31, func(pid uint32) bool { return pid == simProxy }
	var j *Joiner
	j = New(cfg, lost, func(t *Tree) {
		if len(j.workers) == 0 {
			out.bare++
		}
		for _, x := range t.Exchanges {
			f := x.Req.Flight
			port, asked := s.cause[simSent{f.Seq, f.SendPort}]
			switch {
			case x.ClientPid() != simProxy || !asked:
			case x.parent == nil:
				out.unjoined++
			case int(x.parent.Req.Flight.SendPort) == port && x.parent.holds(x.Req.StartNs):
				out.right++
			default:
				out.wrong++
			}
		}
	})
	j.now = s.flights[s.order[0]].f.StartNs
	if prep != nil {
		prep(j)
	}
	s.replay(j, func() {
		if s.half != nil {
			s.half(j)
		}
	})
	return out, lost
}

// known has a process's records as they are once there were requests with ids.
func known(set func(*process)) func(*Joiner) {
	return func(j *Joiner) {
		j.newWorker(simProxy, simProxy)
		set(j.processes[simProxy])
	}
}

// Whatever the order of events: no join is wrong, and most are made where the proxy's habit is known.
func TestSimulatedProxies(t *testing.T) {
	proven := record{right: 1000}
	for _, c := range []struct {
		name     string
		habit    habit
		inFlight int
		varied   bool
		uses     int
		prep     func(*Joiner)
		least    float64 // share that is joined
	}{
		{"alone", takesLast, 1, false, 0, nil, 0.9},
		{"last free, 4", takesLast, 4, false, 0, known(func(p *process) { p.pool, p.waits, p.waitsAlone = proven, proven, proven }), 0.95},
		{"last free, 16", takesLast, 16, false, 0, known(func(p *process) { p.pool, p.waits, p.waitsAlone = proven, proven, proven }), 0.95},
		{"last free, 64", takesLast, 64, false, 0, known(func(p *process) { p.pool, p.waits, p.waitsAlone = proven, proven, proven }), 0.85},
		{"closes, 4", takesLast, 4, false, 1, known(func(p *process) { p.waits, p.waitsAlone = proven, proven }), 0.95},
		{"closes, 16", takesLast, 16, false, 1, known(func(p *process) { p.waits, p.waitsAlone = proven, proven }), 0.9},
		{"three each, 4", takesLast, 4, false, 3, known(func(p *process) { p.pool, p.waits, p.waitsAlone = proven, proven, proven }), 0.97},
		{"three each, 16", takesLast, 16, false, 3, known(func(p *process) { p.pool, p.waits, p.waitsAlone = proven, proven, proven }), 0.9},
		{"three each, 64", takesLast, 64, false, 3, known(func(p *process) { p.pool, p.waits, p.waitsAlone = proven, proven, proven }), 0},
		{"closes, 4, nothing known", takesLast, 4, false, 1, nil, 0},
		{"closes, 16, nothing known", takesLast, 16, false, 1, nil, 0},
		{"in order, 16", keepsOrder, 16, false, 0, known(func(p *process) { p.order.record = proven }), 0.7},
		{"closes in order, 4", keepsOrder, 4, false, 1, nil, 0.9},
		{"closes in order, 16", keepsOrder, 16, false, 1, nil, 0.9},
		{"closes in order, 64", keepsOrder, 64, false, 1, nil, 0.9},
		{"last free when written, 4", takesLastLate, 4, false, 0, nil, 0},
		{"last free when written, 16", takesLastLate, 16, false, 0, nil, 0},
		{"any free, 16", takesAnyFree, 16, false, 0, nil, 0},
		{"handed over, 4", handsOver, 4, false, 0, nil, 0},
		{"handed over, 16", handsOver, 16, false, 3, nil, 0},
		{"handed over, 64", handsOver, 64, false, 0, nil, 0},
		{"varied, 64", takesAnyFree, 64, true, 0, nil, 1},
	} {
		for _, lose := range []float64{0, 0.001} {
			t.Run(fmt.Sprintf("%s, %v lost", c.name, lose), func(t *testing.T) {
				var all simScore
				for seed := range uint64(2) {
					s := newSimulation(seed, c.habit, 2, c.inFlight, max(3000, 300*c.inFlight)) // where connections stand that are opened in vain is not known at first
					s.varied, s.lose, s.uses = c.varied, lose, c.uses
					s.run()
					got, _ := s.score(c.prep)
					all.right += got.right
					all.wrong += got.wrong
					all.unjoined += got.unjoined
				}
				t.Logf("%+v", all)
				known := c.habit != takesLastLate && c.habit != takesAnyFree && c.habit != handsOver
				if lose == 0 && known && all.wrong > 0 || all.wrong*1000 > all.right {
					t.Errorf("%d of %d joins are wrong", all.wrong, all.right+all.wrong)
				}
				if share := float64(all.right) / float64(all.right+all.unjoined+all.wrong); lose == 0 && share < c.least {
					t.Errorf("%.3f of exchanges are joined, want at least %v", share, c.least)
				}
			})
		}
	}
}
