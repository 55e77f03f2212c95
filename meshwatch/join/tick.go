package join

import "time"

// Tick moves the clock (CLOCK_MONOTONIC ns) and gives out what is whole. Call it after each batch of flights.
func (j *Joiner) Tick(now uint64) {
	j.now = now
	for l := range j.holding {
		j.release(l)
	}
	j.work(now - min(now, uint64(j.cfg.Linger)-min(uint64(j.cfg.Linger), settles)))
	j.flush(false)
	if now-j.swept > uint64(time.Second) {
		j.sweep()
		j.swept = now
	}
}

// Close gives out everything that is left.
func (j *Joiner) Close() {
	for _, h := range j.halves {
		j.retire(h.leg, "agent-stopped")
	}
	j.work(^uint64(0))
	j.flush(true)
}

// sweep forgets what was not used for a while, so that memory follows the load.
func (j *Joiner) sweep() {
	const idle = uint64(10 * time.Second)
	j.horizon, j.recent = j.recent, j.latest
	for _, h := range j.halves {
		l := h.leg
		j.expire(l)
		if j.now-l.used < idle || l.unanswered() {
			continue
		}
		j.retire(l, "idle")
	}
	j.sweepApps()
	j.nameProcesses()
	for pid, at := range j.servers {
		if j.now-at > 6*idle {
			delete(j.servers, pid)
		}
	}
	j.retireWorkers(6 * idle)
	j.forgetWords()
}
