package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Load is a number of requests to the gateway.
type Load struct {
	Requests    int
	Connections int
	Path        string // and query, see test/lab/app
}

// Loaded is what became of them.
type Loaded struct {
	Requests int
	Codes    map[int]int // status → requests; -1: without an answer
	Duration time.Duration
}

// SendLoad sends requests from the first node, as fast as they are answered.
func (c *Cluster) SendLoad(ctx context.Context, l Load) (Loaded, error) {
	out, err := c.run(ctx, 1, network, nil, c.program("fortio"), "load", "-qps=0", "-quiet", "-json=-",
		"-n="+strconv.Itoa(l.Requests), "-c="+strconv.Itoa(l.Connections), c.GatewayURL()+l.Path)
	if err != nil {
		return Loaded{}, fmt.Errorf("send load: %w", err)
	}
	var r struct {
		RetCodes       map[string]int
		ActualDuration time.Duration
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return Loaded{}, fmt.Errorf("read fortio's result: %w", err)
	}
	loaded := Loaded{Codes: map[int]int{}, Duration: r.ActualDuration}
	for code, n := range r.RetCodes {
		number, err := strconv.Atoi(code)
		if err != nil {
			return Loaded{}, fmt.Errorf("read fortio's result: status %q", code)
		}
		loaded.Codes[number] += n
		loaded.Requests += n
	}
	return loaded, nil
}

// Match finds for each line of a caller's access log the line of the same request and connection at the callee. Lines of
// requests that never left the caller are left out; of a request that was repeated the last one counts. A line of the callee's
// serves once.
func Match(callers, callees []Access) (matched int, lost []Access) {
	type hop struct {
		id   string
		conn Addr
	}
	at := map[hop]int{}
	for _, a := range callees {
		at[hop{a.RequestID, a.DownstreamDirect}]++
	}
	for _, a := range callers {
		if !a.UpstreamLocal.IsValid() {
			continue
		}
		if h := (hop{a.RequestID, a.UpstreamLocal}); at[h] > 0 {
			at[h]--
			matched++
		} else {
			lost = append(lost, a)
		}
	}
	return matched, lost
}

// Collect reads the pods' access logs and divides them into lines of callers and of callees, as far as choose wants them.
func Collect(pods []Pod, choose func(Access) bool) (callers, callees []Access, err error) {
	for _, p := range pods {
		for a, e := range p.AccessLog() {
			switch {
			case e != nil:
				return nil, nil, e
			case !choose(a):
			case a.Inbound():
				callees = append(callees, a)
			default:
				callers = append(callers, a)
			}
		}
	}
	return callers, callees, nil
}

// MeshPods are those of the demo that write access logs: the gateway's and the apps'.
func (c *Cluster) MeshPods(ctx context.Context) ([]Pod, error) {
	gateway, err := c.Pods(ctx, GatewayNamespace, "istio=ingressgateway")
	if err != nil {
		return nil, err
	}
	apps, err := c.Pods(ctx, Namespace, "app in (frontend, backend)")
	return append(gateway, apps...), err
}
