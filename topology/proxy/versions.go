package proxy

import "github.com/meshwatch/meshwatch/topology"

// Versions are the Configs that may have governed a proxy's recent requests. Times are CLOCK_MONOTONIC in ns. A nil one knows nothing.
type Versions struct {
	now     *Config
	changed uint64 // when now was learned; 0: it was always so
	from    uint64 // it may have been so from then on
	before  *Config
	since   uint64 // when before was learned; 0: likewise
}

// First are the Versions of a proxy of which something was learned for the first time, so late that it may have been otherwise at
// requests before.
func First(c *Config, at uint64) *Versions {
	return &Versions{now: c, changed: at, from: early(at, at)}
}

// Then are the Versions after a change of routes or listeners that was learned at a time. heard is when the control plane was last heard
// of before that: the change may have been then already. As at, if it was there all the time.
func (v *Versions) Then(c *Config, at, heard uint64) *Versions {
	if v == nil {
		return &Versions{now: c}
	}
	return &Versions{now: c, changed: at, from: early(at, heard), before: v.now, since: v.changed}
}

// early is from when on a proxy may have been told what this agent learns at a time.
func early(at, heard uint64) uint64 {
	heard = min(at, heard)
	return heard - min(heard, topology.Lateness)
}

// With are the Versions with another Config that routes as the one before.
func (v *Versions) With(c *Config) *Versions {
	if v == nil {
		return &Versions{now: c}
	}
	next := *v
	next.now = c
	return &next
}

// Now is the Config of now.
func (v *Versions) Now() *Config {
	if v == nil {
		return nil
	}
	return v.now
}

// Lookup says what governed a request at a time. A proxy learns of a change up to topology.Lateness before or after this agent does, and
// before it while the control plane was away for the agent alone: meanwhile only what both say is said.
func (v *Versions) Lookup(r *Request, at uint64) Answer {
	switch {
	case v == nil:
		return Answer{Why: NoConfig}
	case v.changed == 0 || at >= v.changed+topology.Lateness:
		return v.now.Lookup(r)
	case v.since != 0 && at < v.since+topology.Lateness:
		return Answer{Why: Changing}
	case at < v.from:
		return v.before.Lookup(r)
	}
	return v.now.Lookup(r).and(v.before.Lookup(r), Changing)
}
