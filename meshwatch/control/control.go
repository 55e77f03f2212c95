// Package control is how the command line asks a running agent: HTTP and JSON over a unix socket that only the agent's own
// user may open. It owns that socket; what is asked comes from a Source.
package control

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
	"github.com/meshwatch/meshwatch/meshwatch/inject"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
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
	// Inject switches giving requests ids on or off; programs stay attached. An error: there are none.
	Inject(on bool) error
	// Deepen records the network namespaces that a word selects (netpath.State.Select) in full depth for a while, and names them.
	Deepen(word string, during time.Duration) []string
	// Mesh is what the topology has now.
	Mesh() Mesh
	// Who is behind an address now. port 0: any.
	Who(addr netip.AddrPort) Who
	// Routes are those that a pod's proxy was told of; an error says why none are known.
	Routes(namespace, pod string) ([]Rule, error)
	// Edges are who talks to whom, beside what is configured.
	Edges() Edges
}

// Status is the state of an agent. Counters are since its start.
type Status struct {
	Version   string    `json:"version"`
	Pid       int       `json:"pid"`
	Started   time.Time `json:"started"`
	Recording bool      `json:"recording"`
	Depth     string    `json:"depth"` // for people: the configured one, and how many namespaces are in full depth now
	Attached  Attached  `json:"attached"`
	Ring      Ring      `json:"ring"`
	Joiner    Joiner    `json:"joiner"`
	Budget    Budget    `json:"budget"`
	Export    Export    `json:"export"`
	Topology  Topology  `json:"topology"`

	Audit      *audit.Report  `json:"audit,omitempty"`      // nil: no access log is listened for
	Kubernetes *Kubernetes    `json:"kubernetes,omitempty"` // nil: not asked
	TLS        []probe.Binary `json:"tls"`                  // binaries with a TLS library; nil: probes are off
	Inject     *inject.State  `json:"inject,omitempty"`     // nil: requests are not given ids
	Memory     uint64         `json:"memory_bytes"`         // resident, of the agent's process
	Losses     []loss.Row     `json:"losses"`
}

// Attached is where the programs are.
type Attached struct {
	Namespaces int    `json:"namespaces"`
	Deep       int    `json:"deep"`      // namespaces in full depth, now
	Links      int    `json:"links"`     // with tc's hooks, where the kernel's tracepoints do not do
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

// Budget is what meshwatch may cost, and what it does about it. In CPUs: 0.2 is a fifth of one.
type Budget struct {
	Agent        float64 `json:"agent_cpus"` // 0: no limit
	AgentUsed    float64 `json:"agent_cpus_used"`
	Recorder     float64 `json:"recorder_cpus"`      // 0: no limit
	RecorderUsed float64 `json:"recorder_cpus_used"` // 0 without a limit: it is not measured
	Share        float64 `json:"share"`              // of the time that is recorded
	Shallow      bool    `json:"shallow"`            // no full depth
}

// String is for people.
func (b Budget) String() string {
	text := fmt.Sprintf("agent %.3f of %s", b.AgentUsed, limit(b.Agent))
	if b.Recorder > 0 {
		text += fmt.Sprintf(", recorder %.3f of %s", b.RecorderUsed, limit(b.Recorder))
	}
	switch {
	case b.Share < 1:
		return fmt.Sprintf("%s: above it, so %.1f %% of the time are recorded", text, 100*b.Share)
	case b.Shallow:
		return text + ": no full depth, which was above it"
	}
	return text
}

func limit(cpus float64) string {
	if cpus == 0 {
		return "any number of CPUs"
	}
	return fmt.Sprintf("%v CPUs", cpus)
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
	Problem   string    `json:"problem,omitempty"` // why the file as it is now is not in use, or the control plane is away, or what it said last that could not be read

	ControlPlane string    `json:"control_plane,omitempty"` // its address, empty: none
	Connected    bool      `json:"connected,omitempty"`     // to it
	Since        time.Time `json:"since,omitzero"`          // connected, or lost
	Refused      uint64    `json:"refused,omitempty"`       // answers of it with something that could not be read
	Proxies      *Proxies  `json:"proxies,omitempty"`       // nil: it is not asked about them
}

// Kubernetes is how it stands with the API server.
type Kubernetes struct {
	Connected bool      `json:"connected"`
	Ready     bool      `json:"ready"`             // everything that may be read was read once
	Since     time.Time `json:"since,omitzero"`    // connected, or lost
	Updated   time.Time `json:"updated,omitzero"`  // the last object came, changed or went
	Objects   int       `json:"objects"`           // that are kept
	Changes   uint64    `json:"changes"`           // taken
	Missing   []string  `json:"missing,omitempty"` // a sentence for each resource that may not be read
	Absent    []string  `json:"absent,omitempty"`  // resources that the API server does not have
	Problem   string    `json:"problem,omitempty"` // why it is not connected
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
	pathInject     = "/v1/inject"    // PUT, a boolean
	pathDepth      = "/v1/depth"     // POST, a question
	pathMesh       = "/v1/mesh"
	pathWho        = "/v1/who"    // ?address=
	pathRoutes     = "/v1/routes" // ?namespace=&pod=
	pathEdges      = "/v1/edges"
)

// question asks for full depth.
type question struct {
	Namespaces string        `json:"namespaces"` // a word, see Source
	During     time.Duration `json:"during_ns"`
}

// maxDeep is the longest time that may be asked for at once.
const maxDeep = time.Hour
