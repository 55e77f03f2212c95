// Package journey holds the words of meshwatch (docs/architecture.md) as plain values: what the joiner produces and what
// spans, JSON, tables and metrics are made from. Nothing here does I/O.
//
// Every time is nanoseconds of CLOCK_MONOTONIC (bpf_ktime_get_ns) of this node; Clock converts to wall time.
package journey

import (
	"net/netip"
	"strconv"
	"time"
)

// Role says what a process is to the mesh. It decides whose time is whose in the verdict.
type Role string

// The roles a process can have.
const (
	RoleUnknown Role = ""
	RoleApp     Role = "app"
	RoleSidecar Role = "sidecar"
	RoleGateway Role = "gateway"
)

// Workload names who is behind an end, as the topology knows it. The zero value is an unknown workload.
type Workload struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"` // Kubernetes namespace, not a network namespace
	Service   string `json:"service,omitempty"`   // service.name of the workload's own spans
	Node      string `json:"node,omitempty"`

	ServiceNamespace string `json:"service_namespace,omitempty"` // service.namespace, where it is not Namespace
	Version          string `json:"version,omitempty"`           // service.version
	Kind             string `json:"kind,omitempty"`              // of the Kubernetes object that Name is of: Pod, WorkloadEntry, …
	UID              string `json:"uid,omitempty"`               // of that object
	Cluster          string `json:"cluster,omitempty"`
	Region           string `json:"region,omitempty"`
	Zone             string `json:"zone,omitempty"`
}

// KindPod is the Workload.Kind of pods.
const KindPod = "Pod"

// Elsewhere says whether another workload is in another zone, as far as both zones are known.
func (w *Workload) Elsewhere(other *Workload) bool {
	return w.Zone != "" && other.Zone != "" && (w.Zone != other.Zone || w.Region != other.Region)
}

// End is one end of a leg: a socket, and the thread that used it. Local and Peer are addresses as this end's socket sees
// them, so NAT shows as a difference between the two ends of one leg.
type End struct {
	Local    netip.AddrPort `json:"local"`
	Peer     netip.AddrPort `json:"peer"`
	Netns    uint32         `json:"netns"`             // inode number of the network namespace
	NetName  string         `json:"netns_name"`        // as an operator knows it, see netpath
	Pid      int            `json:"pid"`               // thread group, in the agent's pid namespace; 0: not seen
	Tid      int            `json:"tid"`               // thread that wrote (client: the request, server: the response)
	Process  string         `json:"process,omitempty"` // comm of the process
	Thread   string         `json:"thread,omitempty"`  // comm of the thread
	Role     Role           `json:"role,omitempty"`    //
	Workload Workload       `json:"workload,omitzero"` //
	Known    bool           `json:"known"`             // false: this end's socket was never seen (another node, or lost)
}

// Leg is one TCP connection as both ends see it, whatever NAT does between.
type Leg struct {
	Client End `json:"client"` // the end that sends requests
	Server End `json:"server"`
	// CrossZone: the ends are in different zones, as far as the topology knows both.
	CrossZone bool `json:"cross_zone,omitempty"`
}

// Hook is a place in the kernel where a stamp is taken. The numbers are shared with bpf/flight.h.
type Hook uint8

// The hooks, in the order in which a packet meets them.
const (
	HookNone        Hook = 0
	HookOutput      Hook = 1 // TCP sent the segment; in full depth netfilter LOCAL_OUT, before all rules: the flight's start
	HookPostrouting Hook = 2 // netfilter POST_ROUTING, before all rules
	HookEgress      Hook = 3 // given to a device
	HookIngress     Hook = 4 // come from a device
	HookForward     Hook = 5 // netfilter FORWARD, before all rules
	HookInput       Hook = 6 // netfilter LOCAL_IN, before all rules
	HookDelivered   Hook = 7 // come to its socket; in full depth netfilter LOCAL_IN, after all rules
	HookRetransmit  Hook = 8 // tcp_retransmit_skb on the sending socket
	HookDrop        Hook = 9 // kfree_skb; Flight.DropReason says why
	HookReset       Hook = 10
)

// Stamp says that a message was seen at a place.
type Stamp struct {
	At      uint64 `json:"at_ns"`
	Hook    Hook   `json:"hook"`
	Netns   uint32 `json:"netns"`
	Ifindex uint32 `json:"ifindex"`
}

// Class is whose time a stretch of a journey is.
type Class string

// The classes of the first verdict.
const (
	ClassApp     Class = "app"
	ClassSidecar Class = "sidecar"
	ClassGateway Class = "gateway"
	ClassNode    Class = "node"
	ClassNetwork Class = "network"
	ClassUnknown Class = "unknown" // measured, but nobody's as far as we know
	ClassMixed   Class = "mixed"   // only as a verdict: no class has half
)

// Hop is the interval between two neighbouring stamps. Times are absolute, From <= To.
type Hop struct {
	Name  string `json:"name"` // low cardinality: "iptables OUTPUT", "loopback", "veth", "bridge", "socket wait", …
	Kind  string `json:"kind"` // iptables, loopback, veth, bridge, tunnel, wire, socket-wait, retransmit, …
	Class Class  `json:"class"`
	From  uint64 `json:"from_ns"`
	To    uint64 `json:"to_ns"`
	Netns uint32 `json:"netns"` // where the hop begins
	Net   string `json:"netns_name,omitempty"`
	Iface string `json:"iface,omitempty"` // where the hop begins, empty for netfilter
}

// Flight is one application message on its way from the sending socket to the receiving socket; or a connection's SYN, which
// no socket reads: Recv is then when the sending one was connected, or gave up.
type Flight struct {
	Serial      uint64  `json:"serial"`      // the recorder's number, unique while the agent runs
	Start       uint64  `json:"start_ns"`    // first packet at its first hook
	SendEnd     uint64  `json:"send_end_ns"` // last write of the message returned; 0: not seen
	Recv        uint64  `json:"recv_ns"`     // first byte was read by the receiver; 0: not seen
	RecvEnd     uint64  `json:"recv_end_ns"` // last read of the message
	Seq         uint32  `json:"seq"`         // TCP sequence number of the first byte
	Ack         uint32  `json:"ack"`         // acknowledgement number of the first packet
	Bytes       uint32  `json:"bytes"`       // written, modulo 2^32
	Retransmits uint32  `json:"retransmits"` // segments of this message sent again
	DropReason  uint32  `json:"drop_reason"` // enum skb_drop_reason of the last drop, 0: none
	Stamps      []Stamp `json:"stamps"`      // in time order, the first is Start's
	Hops        []Hop   `json:"hops"`        // between neighbouring stamps, and the socket wait
	Deep        bool    `json:"deep"`        // in full depth: every hook and device of the way is among the stamps
	Truncated   bool    `json:"truncated"`   // there were more stamps than the record holds
}

// Method is how a join was made, strongest first.
type Method string

// The methods of this version. See docs/architecture.md.
const (
	MethodRequestID  Method = "request-id"  // the same request id in both heads
	MethodResponseID Method = "response-id" // the id came back in the response head
	MethodTrace      Method = "trace"       // the same trace context in both heads
	MethodProxyLog   Method = "proxy-log"   // the proxy's own log has both connections
	MethodContent    Method = "content"     // a proxy handed it on: the same method, target and host, and nothing else that fits
	MethodPool       Method = "pool"        // and by the connection that it takes next, as it was just seen to
	MethodOrder      Method = "order"       // and in the order in which it read them, as it was seen to
	MethodThread     Method = "thread"      // an app's thread had one request, and does one at a time
	MethodGoroutine  Method = "goroutine"   // the goroutine that answers one, or one that it started, asked the other
)

// Relay is the causal link inside one process from the exchange it received (From) to the one it made (To).
type Relay struct {
	From       int     `json:"from"` // index in Journey.Exchanges
	To         int     `json:"to"`
	Method     Method  `json:"method"`
	Confidence float64 `json:"confidence"` // share of such joins that are right, 0 to 1
	Candidates int     `json:"candidates"` // inbound exchanges that the evidence was weighed over, at least 1
	Pid        int     `json:"pid"`
	Role       Role    `json:"role,omitempty"`
}

// TraceContext is what a head carries of a distributed trace. The zero value carries none.
type TraceContext struct {
	TraceID [16]byte // zero: none; 64-bit ids are left-padded with zeros
	SpanID  [8]byte  // the caller's span; zero: unknown
	Sampled bool     // the caller's decision
	Decided bool     // a decision was carried
	Format  string   // traceparent, b3, uber-trace-id, sw8
}

// Exchange is a request flight and its response flight on one leg.
type Exchange struct {
	Leg       Leg               `json:"leg"`
	Protocol  string            `json:"protocol"`         // "http/1.1", "http/1.0", "http/2"
	TLS       bool              `json:"tls"`              // encrypted on the wire; what is said of it was read in the processes
	Stream    uint32            `json:"stream,omitempty"` // of HTTP/2
	GRPC      *GRPC             `json:"grpc,omitempty"`   // nil: the exchange is no gRPC call
	Method    string            `json:"method,omitempty"`
	Target    string            `json:"target,omitempty"` // request target as sent, without the query
	Host      string            `json:"host,omitempty"`
	Status    int               `json:"status,omitempty"` // 0: no response seen
	RequestID string            `json:"request_id,omitempty"`
	Trace     TraceContext      `json:"-"`
	Headers   map[string]string `json:"headers,omitempty"` // capture_headers; never evidence for a join
	Connect   *Flight           `json:"connect,omitempty"` // the SYN of the leg's connection; nil: not opened for this exchange
	Request   Flight            `json:"request"`
	Response  *Flight           `json:"response,omitempty"` // nil: none seen
	Parent    int               `json:"parent"`             // index of the exchange that caused this one, -1 for a root
	Error     string            `json:"error,omitempty"`    // reset, no-response, 5xx, a gRPC code: empty when it went well
	// Governance is what governed it at the proxy that received it; nil: that is no proxy, or nobody was asked.
	Governance *Governance `json:"governance,omitempty"`
}

// GRPC is what a call has beyond its HTTP/2. A call that streams is one exchange, however long it lives.
type GRPC struct {
	Status   int    `json:"status"`            // grpc-status, -1: none seen
	Sent     uint32 `json:"request_messages"`  //
	Received uint32 `json:"response_messages"` //
	Exact    bool   `json:"messages_exact"`    // all messages were counted: none of their beginnings was missed
}

// grpcCodes are the names of gRPC's status codes, by number.
var grpcCodes = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
}

// Code is the name of the call's status, or its number where it has no name; empty: none seen.
func (g *GRPC) Code() string {
	switch {
	case g.Status < 0:
		return ""
	case g.Status < len(grpcCodes):
		return grpcCodes[g.Status]
	}
	return strconv.Itoa(g.Status)
}

// Failed says whether the status is one that means that the server failed, as OpenTelemetry's conventions for gRPC have it.
func (g *GRPC) Failed() bool {
	switch g.Code() {
	case "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS":
		return true
	}
	return false
}

// Began is when the client began with it: to connect, where a connection was opened for it, else to send.
func (e *Exchange) Began() uint64 {
	if e.Connect != nil {
		return min(e.Connect.Start, e.Request.Start)
	}
	return e.Request.Start
}

// End is when the exchange was over for its client, as far as seen.
func (e *Exchange) End() uint64 {
	if e.Response != nil {
		return max(e.Response.RecvEnd, e.Response.Recv, lastStamp(e.Response))
	}
	return max(e.Request.RecvEnd, e.Request.Recv, lastStamp(&e.Request))
}

func lastStamp(f *Flight) uint64 {
	if len(f.Stamps) == 0 {
		return f.Start
	}
	return f.Stamps[len(f.Stamps)-1].At
}

// Share is one class's own time within a journey.
type Share struct {
	Class Class         `json:"class"`
	Own   time.Duration `json:"own_ns"`
}

// Verdict says whose time a journey was: the class with at least half of the duration, else mixed.
type Verdict struct {
	Class  Class   `json:"class"`
	Share  float64 `json:"share"`           // of the duration, of the winning class (of the largest when mixed)
	Where  string  `json:"where,omitempty"` // the workload or hop that had most of that class's time
	Shares []Share `json:"shares"`          // largest first; sums to at most the duration
}

// Journey is all exchanges of one request, as a tree. Exchanges[0] is the root; a parent stands before its children.
type Journey struct {
	TraceID   [16]byte    `json:"-"`
	RequestID string      `json:"request_id,omitempty"`
	Exchanges []*Exchange `json:"exchanges"`
	Relays    []Relay     `json:"relays"`
	Verdict   Verdict     `json:"verdict"`
	// Unjoined is why the root has no parent although its process serves requests: no-id, no-parent, ambiguous,
	// process-not-seen. Empty when it is where the request began.
	Unjoined string `json:"unjoined,omitempty"`
	// Candidates is how many exchanges may have caused the root, where there are several or none is proven.
	Candidates int `json:"candidates,omitempty"`
	// RecordedShare is the share of the time that was recorded then, where the budget did not allow all of it; else 0.
	RecordedShare float64 `json:"recorded_share,omitempty"`
}

// Duration is the root exchange's, as its client saw it.
func (j *Journey) Duration() time.Duration {
	r := j.Exchanges[0]
	return time.Duration(r.End() - r.Request.Start) //nolint:gosec // both are of one clock, End is not before Start
}

// Clock converts the recorder's monotonic nanoseconds to wall time by an offset read once (wall = monotonic + Offset).
type Clock struct{ Offset int64 }

// Wall is the wall time of a monotonic time in ns.
func (c Clock) Wall(ns uint64) time.Time { return time.Unix(0, int64(ns)+c.Offset) } //nolint:gosec // years from overflow
