// Package control is how the command line asks a running agent: HTTP and JSON over a unix socket that only the agent's own
// user may open. It owns that socket; what is asked comes from a Source.
package control

import (
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/netpath"
)

// Source is the agent. Its methods are called from several goroutines at once.
type Source interface {
	Status() Status
	// Hops is the hop table, largest share first; reset begins it anew after reading.
	Hops(reset bool) []report.HopRow
	// Journey finds a kept journey by request id or trace id; nil: none.
	Journey(id string) *journey.Journey
	// Recent are the latest kept journeys, at most n, newest first.
	Recent(n int) []Summary
	// Namespaces are the network namespaces as the agent sees them.
	Namespaces() []*netpath.Namespace
	// Record switches recording on or off; programs stay attached.
	Record(on bool)
}

// Status is the state of an agent. Counters are since its start.
type Status struct {
	Version   string     `json:"version"`
	Pid       int        `json:"pid"`
	Started   time.Time  `json:"started"`
	Recording bool       `json:"recording"`
	Depth     string     `json:"depth"` // which hooks are recorded: "all hooks", or what is left out and why
	Attached  Attached   `json:"attached"`
	Ring      Ring       `json:"ring"`
	Joiner    Joiner     `json:"joiner"`
	Export    Export     `json:"export"`
	Topology  Topology   `json:"topology"`
	Memory    uint64     `json:"memory_bytes"` // resident, of the agent's process
	Losses    []loss.Row `json:"losses"`
}

// Attached is where the programs are.
type Attached struct {
	Namespaces int    `json:"namespaces"`
	Links      int    `json:"links"`
	Denied     uint64 `json:"denied"`    // processes whose namespace may not be looked at, now
	Conflicts  uint64 `json:"conflicts"` // places, now, that a stamp does not tell apart: their hops are named by hook alone
}

// Ring is the memory that the kernel writes flights to and the agent reads.
type Ring struct {
	Records  uint64 `json:"records"`   // that it holds
	Read     uint64 `json:"read"`      // flights given to the joiner
	Open     int    `json:"open"`      // flights watched that are not over
	Lag      uint64 `json:"lag"`       // records behind the kernel at the last look
	MapBytes int    `json:"map_bytes"` // of all BPF maps
}

// Joiner is what was made of the flights.
type Joiner struct {
	Flights   uint64 `json:"flights"`
	Requests  uint64 `json:"requests"`
	Responses uint64 `json:"responses"`
	Journeys  uint64 `json:"journeys"`
	Relays    uint64 `json:"relays"`
	Raw       uint64 `json:"raw"`  // flights of other protocols
	Kept      uint64 `json:"kept"` // journeys that became spans, see keep in docs/configuration.md
}

// Export is the way to the tracing backend.
type Export struct {
	On       bool   `json:"on"`
	Endpoint string `json:"endpoint,omitempty"`
	State    string `json:"state,omitempty"` // for people: nothing sent yet, connected, lost, …
}

// Topology is what is known of who is behind an address.
type Topology struct {
	File      string    `json:"file,omitempty"` // empty: none
	Addresses int       `json:"addresses"`
	Loaded    time.Time `json:"loaded,omitzero"`   // when the state in use was read
	Problem   string    `json:"problem,omitempty"` // why the file as it is now is not in use
}

// Summary is one line about a journey.
type Summary struct {
	Start     time.Time     `json:"start"`
	TraceID   string        `json:"trace_id"`
	RequestID string        `json:"request_id,omitempty"`
	Root      string        `json:"root"` // method, host and target of the first exchange
	Status    int           `json:"status,omitempty"`
	Duration  time.Duration `json:"duration_ns"`
	Legs      int           `json:"legs"`
	Class     journey.Class `json:"class"` // of the verdict
	Where     string        `json:"where,omitempty"`
	Error     string        `json:"error,omitempty"`
}

// The paths of the protocol. It is between an agent and the command line of the same build.
const (
	pathStatus     = "/v1/status"
	pathHops       = "/v1/hops" // POST: and reset
	pathJourneys   = "/v1/journeys"
	pathNamespaces = "/v1/namespaces"
	pathRecording  = "/v1/recording" // PUT, a boolean
)
