package main

import (
	"fmt"
	"iter"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/test/lab/record"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
)

// call is the truth about a gRPC call: the same on every leg, as the apps hand on each message.
type call struct {
	sent, received int // messages, as the client saw them
	status         int
	streams        bool
}

// readCalls adds what the client and both apps recorded. A call that they do not agree on is not scored.
func (t *truth) readCalls(records func(pod string) iter.Seq2[record.Record, error]) error {
	agreed := map[uint64]int{}
	for _, pod := range []string{"client", "frontend", "backend"} {
		for rec, err := range records(pod) {
			if err != nil {
				return err
			}
			n, ours := t.number(rec.TruthID)
			r := t.requests[n]
			if !ours || r == nil {
				continue // the lab's own, or the gateway has not logged it
			}
			c := &call{rec.Received, rec.Sent, rec.Status, rpc.Streaming(rec.Target)}
			if pod == "client" {
				c.sent, c.received = rec.Sent, rec.Received
				if r.call != nil {
					return fmt.Errorf("read records of client: call %s is there twice", rec.TruthID)
				}
				r.call = c
			}
			if r.call != nil && *r.call == *c && rec.Error == "" {
				agreed[n]++
			}
		}
	}
	const sides = 3
	for n, r := range t.requests {
		if r.state == scored && (r.call == nil || agreed[n] != sides) {
			r.state = logsDisagree
		}
	}
	return nil
}

// fault is how an exchange differs from the call, "" if it does not.
func (c *call) fault(e *journey.Exchange) string {
	g := e.GRPC
	switch {
	case g == nil:
		return "not seen as gRPC"
	case g.Status != c.status:
		return fmt.Sprintf("status %d, not %d", g.Status, c.status)
	case !g.Exact:
		return "messages not counted exactly"
	case int(g.Sent) != c.sent:
		return "request messages"
	case int(g.Received) != c.received:
		return "response messages"
	}
	return ""
}
