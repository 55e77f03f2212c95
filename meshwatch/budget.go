package meshwatch

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/control"
)

// What is done about costs above the budget, in this order: no full depth; then only a share of the time is recorded, in windows that
// begin with a second of the wall clock, so that agents of several nodes record the same requests, whole.
const (
	minShare   = 1.0 / 80
	aim        = 0.95                   // of the budget
	minWindow  = 100 * time.Millisecond // shorter ones would cut most requests
	statsTime  = 50 * time.Millisecond  // of bpf_stats in each second: they make every run of a program longer
	decideAt   = 3                      // seconds that a decision looks back on
	firstCalm  = 4                      // decisions within the budget, until full depth is tried again;
	longCalm   = 128                    // twice as many each time that it was too much
	calmEnough = 0.7                    // of the budget
)

// shedder decides what is left out. It is told once a second what the last one cost.
type shedder struct {
	budget  Budget
	share   float64 // of the time that is recorded
	shallow bool    // no full depth
	calm    int     // decisions in a row
	need    int     // of them
	seconds int     // since the last decision
	used    float64 // in them: seconds of CPU in terms of the budget
}

func newShedder(b Budget) *shedder { return &shedder{budget: b, share: 1, need: firstCalm} }

// step takes the CPUs that the agent and the recorder used.
func (s *shedder) step(agent, recorder float64) {
	s.seconds++
	if s.used += max(of(agent, s.budget.Agent), of(recorder, s.budget.Recorder)); s.seconds < decideAt {
		return
	}
	used := s.used / decideAt
	s.seconds, s.used = 0, 0
	switch {
	case used > 1 && !s.shallow:
		s.shallow, s.calm = true, 0
	case used > 1:
		s.share, s.calm = whole(s.share*aim/used), 0
	case s.share < 1:
		s.share = whole(s.share * min(aim/max(used, minShare), 2))
	case s.shallow && used < calmEnough:
		if s.calm++; s.calm >= s.need {
			s.shallow, s.calm, s.need = false, 0, min(2*s.need, longCalm)
		}
	default:
		s.calm = 0
	}
}

// of is a cost in terms of its budget.
func of(used, budget float64) float64 {
	if budget == 0 {
		return 0
	}
	return used / budget
}

// whole makes a share one of those whose windows are long enough: from a tenth on any, below that half of it, and half of that.
func whole(share float64) float64 {
	if share >= 0.1 {
		return min(share, 1)
	}
	s := 0.05
	for s > share && s > minShare {
		s /= 2
	}
	return s
}

// window says whether this moment is recorded, and how long that holds at least. A smaller share's moments are among those of a
// larger one.
func window(now time.Time, share float64) (on bool, left time.Duration) {
	if share >= 1 {
		return true, time.Second
	}
	period := time.Second
	for share*float64(period) < float64(minWindow)-1 {
		period *= 2
	}
	length, at := time.Duration(share*float64(period)), time.Duration(now.UnixNano()%int64(period))
	if at < length {
		return true, length - at
	}
	return false, period - at
}

// meter measures what meshwatch costs, and keeps it within the budget. Its methods may be called from any goroutine.
type meter struct {
	shed   *shedder
	source costs
	deepen func(bool) // whether there may be full depth
	log    *slog.Logger

	mu   sync.Mutex
	last control.Budget
}

// costs says what has been used so far, in ns of CPU.
type costs interface {
	agent() (uint64, error)
	// recorder measures for a while the CPUs in use.
	recorder(ctx context.Context, during time.Duration) (float64, error)
}

func newMeter(b Budget, source costs, deepen func(bool), log *slog.Logger) *meter {
	m := &meter{shed: newShedder(b), source: source, deepen: deepen, log: log}
	m.publish(0, 0)
	return m
}

// run looks once a second until ctx ends.
func (m *meter) run(ctx context.Context) {
	var before uint64
	var at time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		recorder, err := 0.0, error(nil)
		if m.shed.budget.Recorder > 0 {
			recorder, err = m.source.recorder(ctx, statsTime)
		}
		used, e := m.source.agent()
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		if err != nil || e != nil {
			m.log.Warn("cannot see what meshwatch costs: its budget is not kept", "recorder", err, "agent", e)
		} else if !at.IsZero() {
			m.step(float64(used-before)/float64(now.Sub(at)), recorder*m.share())
		}
		before, at = used, now
		timer.Reset(nextLook(now, m.share()))
	}
}

// nextLook is when to look again: at the beginning of a window, in about a second.
func nextLook(now time.Time, share float64) time.Duration {
	wait := time.Second
	if on, left := window(now.Add(wait), share); !on {
		wait += left
	}
	return wait
}

func (m *meter) step(agent, recorder float64) {
	s := m.shed
	share, shallow := s.share, s.shallow
	s.step(agent, recorder)
	m.publish(agent, recorder)
	if s.shallow != shallow {
		m.deepen(!s.shallow)
	}
	if s.shallow != shallow || (s.share < 1) != (share < 1) {
		m.log.Warn(m.state().String())
	}
}

func (m *meter) publish(agent, recorder float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.shed.budget
	m.last = control.Budget{Agent: b.Agent, AgentUsed: agent, Recorder: b.Recorder, RecorderUsed: recorder, Share: m.shed.share, Shallow: m.shed.shallow}
}

func (m *meter) state() control.Budget {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// share of the time that is to be recorded.
func (m *meter) share() float64 { return m.state().Share }

func (b *Budget) validate() error {
	for key, v := range map[string]float64{"budget.agent": b.Agent, "budget.recorder": b.Recorder} {
		if math.IsNaN(v) || v < 0 || v > 0 && v < 0.01 || v > 1000 {
			return fmt.Errorf("%s is %v: it must be 0 (no limit), or from 0.01 to 1000 CPUs", key, v)
		}
	}
	return nil
}

// agentTime is the CPU time of this process in ns.
func agentTime() (uint64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("read the agent's CPU time: %w", err)
	}
	return uint64(u.Utime.Nano() + u.Stime.Nano()), nil //nolint:gosec // positive
}

// recorderCosts are those of a running agent.
type recorderCosts struct{ *bpf.Recorder }

func (recorderCosts) agent() (uint64, error) { return agentTime() }

func (r recorderCosts) recorder(ctx context.Context, during time.Duration) (float64, error) {
	return r.CPUs(ctx, during)
}
