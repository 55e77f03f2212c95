package main

import (
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// explains says which stages of the agent's losses can be behind a kind of incomplete request. A lost
// flight shows in many ways: as no journey, no leg, no response; and a joiner that misses one says so.
var explains = map[string][]string{
	noJourney:  {"recorder", "ring", "leg", "parse", "pair", "output"},
	missingLeg: {"recorder", "ring", "leg", "parse", "pair", "output", "relay"},
	noResponse: {"recorder", "ring", "leg", "parse", "pair"},
	unjoined:   {"relay"},
	missingHop: {"recorder", "ring", "attach", "leg"},
}

// since is what was lost between two looks; only reasons that happened.
func since(before, after []loss.Row) []loss.Row {
	var rows []loss.Row
	for _, row := range after {
		for _, b := range before {
			if b.Stage == row.Stage && b.Reason == row.Reason {
				row.Count -= b.Count
			}
		}
		if row.Count > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

// silent is how many incomplete requests of each kind the agent's own counters do not account for. stopped is the number of
// requests under way when the load stopped: they are counted as lost too, and not scored.
func silent(incomplete map[string]int, lost []loss.Row, stopped int) map[string]int {
	out := map[string]int{}
	for kind, n := range incomplete {
		counted := -stopped
		for _, row := range lost {
			for _, name := range explains[kind] {
				if name == row.Stage {
					counted += int(row.Count) //nolint:gosec // of a short run
				}
			}
		}
		if rest := min(n, n-counted); rest > 0 {
			out[kind] = rest
		}
	}
	return out
}
