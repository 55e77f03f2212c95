package main

import (
	"context"
	"errors"
	"time"

	"github.com/meshwatch/meshwatch/test/lab"
)

// Agent is what the agent's process does at the fixed rate, everything recorded.
type Agent struct {
	Cores             float64           `json:"cores"`
	CPUPer10k         float64           `json:"cpu_seconds_per_10k_requests"`
	CPUUs             float64           `json:"cpu_us_per_request"`
	RSS               float64           `json:"rss_mb"`      // most seen, mapped maps included
	RSSPeak           float64           `json:"rss_peak_mb"` // since the start, loading of programs included
	MapBytes          uint64            `json:"map_bytes"`
	FlightsPerRequest float64           `json:"flights_per_request"`
	BytesPerFlight    float64           `json:"bytes_per_flight"` // record and what was captured of the message
	Journeys          float64           `json:"journeys_per_request"`
	Exchanges         float64           `json:"exchanges_per_request"`
	Lost              float64           `json:"flights_not_read"`
	Losses            map[string]uint64 `json:"losses"` // in this time, those that are not 0
}

const recordBytes = 384 // struct flight in bpf/c/flight.h

// counts is how far the agent has come.
type counts struct {
	cpu                 float64
	claimed, heads      uint64
	read, trees, paired uint64
	losses              map[string]uint64
}

func (a *agent) counts(ctx context.Context) (c counts, err error) {
	s, err := a.client.Status(ctx)
	if err != nil {
		return c, err
	}
	c = counts{
		claimed: a.flights(), heads: uint64(a.headBytes()), read: s.Ring.Read, trees: s.Joiner.Journeys, paired: s.Joiner.Requests,
		losses: map[string]uint64{},
	}
	for _, r := range s.Losses {
		c.losses[r.Stage+"/"+r.Reason] = r.Count
	}
	c.cpu, err = a.cpu()
	return c, err
}

// moment is everything that can be counted, at one time.
type moment struct {
	sample
	counts
}

func (b *bench) moment(ctx context.Context) (m moment, err error) {
	if m.counts, err = b.a.counts(ctx); err != nil {
		return m, err
	}
	m.sample, err = b.all()
	return m, err
}

// lost is the share of the flights recorded from c to d that the agent did not read.
func (c counts) lost(d counts) float64 {
	missed := d.losses["ring/lapped"] - c.losses["ring/lapped"]
	if missed == 0 {
		return 0
	}
	return float64(missed) / float64(missed+d.read-c.read)
}

func (b *bench) fixedFor() time.Duration {
	return b.p.warm + b.toggling(b.p.cpu).length() + b.p.steady
}

// fixed measures CPU per request and what the agent itself takes.
func (b *bench) fixed(ctx context.Context) error {
	c := &b.m.CPU
	c.Asked = b.m.Throughput.Unobserved * b.p.share
	run := start(ctx, b.l.Fortio, lab.Load{Connections: b.p.connections, QPS: c.Asked, Duration: 2*b.fixedFor() + time.Minute})
	err := b.atRate(ctx)
	r, endErr := run.end()
	if err := errors.Join(err, endErr); err != nil {
		return err
	}
	c.LoadErrors, c.P50Us, c.P99Us = r.Failed+r.Broken, float64(r.P50.Microseconds()), float64(r.P99.Microseconds())
	if c.LoadErrors > 0 {
		b.unsound("%d of %d requests failed at the fixed rate", c.LoadErrors, r.Requests)
	}
	if c.Reached < 0.97*c.Asked {
		b.unsound("only %.0f of %.0f requests a second were reached at the fixed rate: the machine is too busy", c.Reached, c.Asked)
	}
	return nil
}

func (b *bench) atRate(ctx context.Context) error {
	if err := sleep(ctx, b.p.warm); err != nil {
		return err
	}
	first, err := b.all()
	if err != nil {
		return err
	}
	t := b.toggling(b.p.cpu)
	t.read = b.all
	q, err := t.run(ctx)
	if err != nil {
		return err
	}
	last, err := b.all()
	if err != nil {
		return err
	}
	c, off := &b.m.CPU, q.off()
	c.More, c.Dummy, c.Off = each(q.switched, costDifference), each(q.dummy, costDifference), off.cost()
	c.OwnMore, c.OwnDummy, c.OwnOff = each(q.switched, ownDifference), each(q.dummy, ownDifference), off.ownCost()
	c.Reached, c.Others = last.minus(first).rate(), b.undisturbed("fixed rate", last.minus(first))
	return b.steady(ctx)
}

// steady records without a break, and looks at the agent.
func (b *bench) steady(ctx context.Context) error {
	b.a.record(true)
	if err := sleep(ctx, b.p.cpu.settle); err != nil {
		return err
	}
	before, err := b.moment(ctx)
	if err != nil {
		return err
	}
	if err := b.watchMemory(ctx); err != nil {
		return err
	}
	after, err := b.moment(ctx)
	if err != nil {
		return err
	}
	b.m.Agent.fill(before.counts, after.counts, after.minus(before.sample))
	b.m.Agent.MapBytes = b.a.bytes
	if lost := b.m.Agent.Lost; lost > maxLost {
		b.unsound("the agent did not read %.1f %% of the flights at the fixed rate: its cost is not that of joining all", 100*lost)
	}
	return nil
}

// watchMemory waits for the time of steady recording, and notes the most memory that the agent had.
func (b *bench) watchMemory(ctx context.Context) (err error) {
	a := &b.m.Agent
	for end := time.Now().Add(b.p.steady); time.Now().Before(end); {
		if err := sleep(ctx, min(250*time.Millisecond, time.Until(end))); err != nil {
			return err
		}
		now, err := memory(b.a.pid(), "VmRSS")
		if err != nil {
			return err
		}
		a.RSS = max(a.RSS, now)
	}
	a.RSSPeak, err = memory(b.a.pid(), "VmHWM")
	return err
}

func (a *Agent) fill(c, d counts, s sample) {
	cpu, flights := d.cpu-c.cpu, float64(d.claimed-c.claimed)
	a.Cores, a.CPUPer10k, a.CPUUs = cpu/s.Seconds, cpu/s.Requests*1e4, cpu/s.Requests*1e6
	a.FlightsPerRequest = flights / s.Requests
	if flights > 0 {
		a.BytesPerFlight = recordBytes + float64(uint32(d.heads-c.heads))/flights //nolint:gosec // a counter of 32 bits that wraps
	}
	a.Journeys, a.Exchanges, a.Lost = float64(d.trees-c.trees)/s.Requests, float64(d.paired-c.paired)/s.Requests, c.lost(d)
	a.Losses = map[string]uint64{}
	for name, n := range d.losses {
		if more := n - c.losses[name]; more > 0 {
			a.Losses[name] = more
		}
	}
}
