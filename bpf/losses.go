package bpf

import "fmt"

// lossReasons are the names of enum loss in c/flight.h: labels of metrics, so stable.
var lossReasons = [...]string{
	netfilterLossLOSS_RING_LIVE:      "ring-full-of-unfinished",
	netfilterLossLOSS_INDEX_FULL:     "index-set-full",
	netfilterLossLOSS_SOCKET_FULL:    "socket-set-full",
	netfilterLossLOSS_STAMPS_FULL:    "too-many-stamps",
	netfilterLossLOSS_RAW_BUDGET:     "raw-budget",
	netfilterLossLOSS_COALESCED:      "coalesced",
	netfilterLossLOSS_NONLINEAR:      "header-not-linear",
	netfilterLossLOSS_AMBIGUOUS:      "ambiguous-sequence",
	netfilterLossLOSS_HEAD_COPY:      "head-not-copied",
	netfilterLossLOSS_UNKNOWN_SOCKET: "unknown-socket",
	netfilterLossLOSS_CONT_LIMIT:     "head-in-too-many-pieces",
	netfilterLossLOSS_PLAIN_COPY:     "plaintext-not-copied",
	netfilterLossLOSS_PLAIN_TIE:      "plaintext-without-message",
	netfilterLossLOSS_PLAIN_THREADS:  "thread-set-full",
	netfilterLossLOSS_PLAIN_OBJECTS:  "connection-set-full",
	netfilterLossLOSS_GO:             "goroutine-not-known",
	netfilterLossLOSS_MPTCP:          "mptcp-connection",
}

var _ = [1]struct{}{}[len(lossReasons)-int(netfilterLossLOSS_MAX)] // every reason has a name

// Losses reads what the programs could not keep since load, by reason: a map look-up per reason.
func (r *Recorder) Losses() (map[string]uint64, error) {
	out := make(map[string]uint64, len(lossReasons))
	var perCPU []uint64
	for i, name := range lossReasons {
		if err := r.losses.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read loss counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}
