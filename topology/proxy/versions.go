package proxy

import "github.com/meshwatch/meshwatch/topology"

// Versions are the Configs that may have governed a proxy's recent requests. Times are CLOCK_MONOTONIC in ns. A nil one knows nothing.
type Versions struct {
	now     *Config
	changed uint64 // when now was learned; 0: it was always so
	before  *Config
	since   uint64 // likewise of before
}

// First are the Versions of a proxy of which something was learned for the first time, so late that it may have been otherwise at
// requests before.
func First(c *Config, at uint64) *Versions { return &Versions{now: c, changed: at} }

// Then are the Versions after a change of routes or listeners that was learned at a time.
func (v *Versions) Then(c *Config, at uint64) *Versions {
	if v == nil {
		return &Versions{now: c}
	}
	return &Versions{now: c, changed: at, before: v.now, since: v.changed}
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

// Lookup says what governed a request at a time. A proxy learns of a change up to topology.Lateness before or after this agent does:
// meanwhile only what both say is said.
func (v *Versions) Lookup(r *Request, at uint64) Answer {
	switch {
	case v == nil:
		return Answer{Why: NoConfig}
	case v.changed == 0 || at >= v.changed+topology.Lateness:
		return v.now.Lookup(r)
	case v.since != 0 && at < v.since+topology.Lateness:
		return Answer{Why: Changing}
	case at+topology.Lateness < v.changed:
		return v.before.Lookup(r)
	}
	return v.now.Lookup(r).and(v.before.Lookup(r), Changing)
}
