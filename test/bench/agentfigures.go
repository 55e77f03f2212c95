package main

import "context"

// Agent is what the agent's process does while it records without a break.
type Agent struct {
	Rate       float64           `json:"requests_per_second"`
	Cores      float64           `json:"cores"`
	RSS        float64           `json:"rss_mb"`
	RSSPeak    float64           `json:"rss_peak_mb"` // since the start, loading of programs included
	MapBytes   uint64            `json:"map_bytes"`
	Flights    float64           `json:"flights_per_request"`
	FlightSize float64           `json:"bytes_per_flight"` // record and what was captured of the message
	Journeys   float64           `json:"journeys_per_request"`
	Exchanges  float64           `json:"exchanges_per_request"`
	Lost       float64           `json:"flights_not_read"`
	Losses     map[string]uint64 `json:"losses"` // in this time, those that are not 0
}

const recordBytes = 384 // struct flight in bpf/c/flight.h

// counts is how far the agent has come.
type counts struct {
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
	return c, nil
}

// lost is the share of the flights recorded from c to d that the agent did not read.
func (c counts) lost(d counts) float64 {
	missed := d.losses["ring/lapped"] - c.losses["ring/lapped"]
	if missed == 0 {
		return 0
	}
	return float64(missed) / float64(missed+d.read-c.read)
}

// maxLost is the share of flights that may stay unread before the agent's cost no longer counts as that of all.
const maxLost = 0.01

// lookAtAgent notes what the agent did between two counts. The last stage that looks is the one reported.
func (w *world) lookAtAgent(c, d counts, s sample) (err error) {
	a := &Agent{Rate: s.rate(), Cores: s.Agent / s.Seconds, MapBytes: w.a.bytes, Losses: map[string]uint64{}}
	w.r.Agent = a
	if a.RSS, err = memory(w.a.pid(), "VmRSS"); err != nil {
		return err
	}
	if a.RSSPeak, err = memory(w.a.pid(), "VmHWM"); err != nil {
		return err
	}
	flights := float64(d.claimed - c.claimed)
	if flights > 0 {
		a.FlightSize = recordBytes + float64(uint32(d.heads-c.heads))/flights //nolint:gosec // a counter of 32 bits that wraps
	}
	if s.Requests > 0 {
		a.Flights, a.Journeys, a.Exchanges = flights/s.Requests, float64(d.trees-c.trees)/s.Requests, float64(d.paired-c.paired)/s.Requests
	}
	a.Lost = c.lost(d)
	for name, n := range d.losses {
		if more := n - c.losses[name]; more > 0 {
			a.Losses[name] = more
		}
	}
	if a.Lost > maxLost {
		w.r.unsound("the agent did not read %.1f %% of the flights: its cost is not that of joining all", 100*a.Lost)
	}
	return nil
}
