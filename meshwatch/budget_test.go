package meshwatch

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"
)

// load is what an imagined node costs: CPUs in edges, times more in full depth, in proportion to the share that is recorded.
type load struct{ agent, recorder, deep float64 }

func (l load) under(s *shedder) (agent, recorder float64) {
	k := s.share
	if !s.shallow {
		k *= l.deep
	}
	return l.agent * k, l.recorder * k
}

// However large the load, within seconds the budget is kept to a tenth, nothing is given up that need not be, and all comes back.
func TestShedding(t *testing.T) {
	budget := Budget{Agent: 0.2, Recorder: 0.1}
	for name, tt := range map[string]struct {
		load    load
		share   float64 // that the load leaves room for
		shallow bool
	}{
		"small":                       {load{0.05, 0.02, 2}, 1, false},
		"too much in full depth only": {load{0.15, 0.06, 2}, 1, true},
		"the agent's too much":        {load{0.8, 0.06, 2}, 0.25, true},
		"the recorder's too much":     {load{0.05, 0.4, 1}, 0.25, true},
		"beyond all measure":          {load{50, 50, 2}, minShare, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShedder(budget)
			for second := range 180 {
				s.step(tt.load.under(s))
				agent, recorder := tt.load.under(s)
				if second >= 15 && s.share > minShare && (agent > 1.1*budget.Agent || recorder > 1.1*budget.Recorder) {
					if !(tt.shallow && tt.share == 1 && !s.shallow) { // full depth is tried again for a second
						t.Errorf("second %d: %.3f and %.3f CPUs, share %.3f", second, agent, recorder, s.share)
					}
				}
				if second >= 60 && (s.share < 0.8*tt.share || s.share > tt.share) {
					t.Errorf("second %d: share %.3f, there is room for %.3f", second, s.share, tt.share)
				}
			}
			if s.shallow != tt.shallow {
				t.Errorf("no full depth: %v", s.shallow)
			}
			for range longCalm * decideAt * 2 {
				s.step(0.001, 0.001)
			}
			if s.share != 1 || s.shallow {
				t.Errorf("when the load is gone: share %.3f, no full depth %v", s.share, s.shallow)
			}
		})
	}
}

// Full depth that was too much is tried again, but less and less often.
func TestDepthIsTriedLessOften(t *testing.T) {
	s := newShedder(Budget{Agent: 0.2})
	tries := 0
	for range 3600 {
		was := s.shallow
		s.step(load{0.1, 0, 3}.under(s))
		if was && !s.shallow {
			tries++
		}
	}
	if tries < 10 || tries > 20 {
		t.Errorf("tried %d times in an hour", tries)
	}
}

func TestNoBudget(t *testing.T) {
	s := newShedder(Budget{})
	for range decideAt {
		s.step(100, 100)
	}
	if s.share != 1 || s.shallow {
		t.Errorf("without a limit: %+v", s)
	}
}

// A share's windows add up to it, what it says stays so holds, and a smaller share's are among a larger one's.
func TestWindow(t *testing.T) {
	shares := []float64{1, 0.5, 0.25, 0.1, 0.05, 0.025, whole(0.01)}
	begin := time.Unix(1_700_000_000, 0)
	const tick = 5 * time.Millisecond
	on := make([]time.Duration, len(shares))
	const span = 16 * time.Second
	for at := time.Duration(0); at < span; at += tick {
		before := true
		for i, share := range shares {
			now := begin.Add(at)
			open, left := window(now, share)
			if open {
				on[i] += tick
			}
			if open && !before {
				t.Errorf("at %v: share %v is recorded, %v is not", at, share, shares[i-1])
			}
			before = open
			if left <= 0 || left > 8*time.Second {
				t.Errorf("at %v, share %v: for another %v", at, share, left)
			}
			if still, _ := window(now.Add(left-1), share); still != open {
				t.Errorf("at %v, share %v: not for another %v", at, share, left)
			}
		}
	}
	for i, share := range shares {
		if got := float64(on[i]) / float64(span); math.Abs(got-share) > 0.02*share+0.001 {
			t.Errorf("share %v: recorded %.4f of the time", share, got)
		}
	}
}

// The next look at what is spent falls into a window, so that recording is on.
func TestNextLook(t *testing.T) {
	for _, share := range []float64{1, 0.3, 0.1, minShare} {
		now := time.Unix(1_700_000_000, 12345678)
		for range 50 {
			wait := nextLook(now, share)
			if now = now.Add(wait); wait < time.Second || wait > 10*time.Second {
				t.Errorf("share %v: in %v", share, wait)
			}
			if on, _ := window(now, share); !on {
				t.Errorf("share %v: nothing is recorded then", share)
			}
		}
	}
}

// spent is a process that uses so many CPUs by the test's own clock.
type spent struct {
	cpus    float64
	began   time.Time
	refused error
}

func (s *spent) agent() (uint64, error) {
	return uint64(s.cpus * float64(time.Since(s.began))), s.refused
}

func (s *spent) recorder(context.Context, time.Duration) (float64, error) { return 0, nil }

func TestMeter(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	deep := make(chan bool, 10)
	var log strings.Builder
	m := newMeter(Budget{Agent: 0.1, Recorder: 1}, &spent{cpus: 0.3, began: time.Now()}, func(on bool) { deep <- on },
		slog.New(slog.NewTextHandler(&log, nil)))
	done := make(chan struct{})
	go func() { m.run(ctx); close(done) }()
	if on := <-deep; on {
		t.Error("full depth is allowed")
	}
	cancel()
	<-done
	if s := m.state(); !s.Shallow || math.Abs(s.AgentUsed-0.3) > 0.05 {
		t.Errorf("state %+v", s)
	}
	if !strings.Contains(log.String(), "no full depth, which was above it") {
		t.Errorf("said: %s", log.String())
	}
}

// What cannot be measured is said, and changes nothing.
func TestMeterThatIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var log strings.Builder
	m := newMeter(Budget{Agent: 0.1}, &spent{cpus: 9, began: time.Now(), refused: errors.New("not allowed")}, func(bool) { t.Error("depth changes") },
		slog.New(slog.NewTextHandler(&log, nil)))
	m.run(ctx)
	if s := m.state(); s.Shallow || s.Share != 1 || !strings.Contains(log.String(), "not allowed") {
		t.Errorf("state %+v, said: %s", s, log.String())
	}
}
