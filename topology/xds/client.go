// Package xds asks a control plane who is behind an address: a client of Envoy's delta xDS, and of what Istio adds to it. It owns
// gRPC to the control plane.
package xds

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshwatch/meshwatch/topology"
)

// Options are what a Client needs besides its settings.
type Options struct {
	Node    string // the Kubernetes node's name, for the control plane's log
	Builder *topology.Builder
	Clock   func() uint64         // CLOCK_MONOTONIC in ns
	Changed func(*topology.Store) // never called twice at a time
	Refused func(resources int)   // could not be read, and were said to be so
	Log     *slog.Logger
}

// Client follows a control plane. New makes one, Run does it.
type Client struct {
	Options
	*link
	addresses
	subscription
	dirty   chan struct{}
	proxies *proxies
	started uint64 // CLOCK_MONOTONIC ns

	mu     sync.Mutex
	status Status
	lost   uint64 // when the control plane was last heard of before this connection, 0: it is the first
}

// Status is how it stands with a control plane. Its zero value: never connected.
type Status struct {
	Connected bool
	Since     time.Time // connected or lost
	Updated   time.Time // the last resource came or went
	Version   string    // as the control plane calls its latest state
	Resources int
	Accepted  uint64 // responses
	Refused   uint64 // responses with resources that could not be read
	Problem   string // why it is not connected, or what was last refused
}

// New makes a Client. It does not connect.
func New(s Settings, o Options) *Client {
	l := newLink(s, o.Log, "")
	c := &Client{Options: o, link: l, dirty: make(chan struct{}, 1), proxies: newProxies(l, o), started: o.Clock()}
	c.addresses.builder = o.Builder
	c.subscription = subscription{typeURL: addressType, versions: map[string]string{}}
	return c
}

// Run follows the control plane until ctx ends, and connects again whenever it is lost. What was learned stays.
func (c *Client) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { topology.Publish(ctx, c.dirty, c.Builder, c.Clock, c.Changed) })
	running.Go(func() { c.proxies.run(ctx) })
	c.follow(ctx, c.session, c.disconnected)
}

// session is the stream of who is behind an address.
func (c *Client) session(ctx context.Context) (heard bool, err error) {
	first := c.begin()
	first.Node = c.node()
	said := false
	return c.talk(ctx, []*discovery.DeltaDiscoveryRequest{first}, func(r *discovery.DeltaDiscoveryResponse) []*discovery.DeltaDiscoveryRequest {
		if !said {
			said = true
			c.connected()
		}
		return []*discovery.DeltaDiscoveryRequest{c.read(r)}
	})
}

// read takes a response and makes the answer to it: that all of it is taken, or what cannot be.
func (c *Client) read(r *discovery.DeltaDiscoveryResponse) *discovery.DeltaDiscoveryRequest {
	now := c.Clock()
	m := topology.Moment{At: now, Since: now - min(now, topology.Lateness)}
	c.mu.Lock()
	switch {
	case c.status.Accepted+c.status.Refused == 0:
		m = topology.First(now, c.started)
	case c.lost != 0:
		m.Since = c.lost - min(c.lost, topology.Lateness+uint64(keepalivePeriod+keepaliveTimeout)) // it was away before that showed
		c.lost = 0
	}
	c.mu.Unlock()
	answer, bad := c.update(r, func(name string, value []byte) error { return c.set(name, value, m) }, func(name string) { c.remove(name, m) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Updated, c.status.Version, c.status.Resources = time.Now(), r.SystemVersionInfo, len(c.versions)
	if bad == 0 {
		c.status.Accepted++
	} else {
		c.status.Refused++
		c.status.Problem = answer.ErrorDetail.Message
		c.Refused(bad)
		c.Log.Warn("control plane sent what cannot be read; the last good state of it stays", "resources", bad, "error", answer.ErrorDetail.Message)
	}
	select {
	case c.dirty <- struct{}{}:
	default: // it will be seen
	}
	return answer
}

func (c *Client) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Connected, c.status.Since, c.status.Problem = true, time.Now(), ""
	c.Log.Info("control plane connected", "address", c.settings.Address)
}

// disconnected notes why. The log has the first failure of several.
func (c *Client) disconnected(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Connected || c.status.Problem == "" {
		c.Log.Warn("control plane is away; what it told stays", "address", c.settings.Address, "error", err)
	}
	if c.status.Connected {
		c.status.Connected, c.status.Since, c.lost = false, time.Now(), c.Clock()
	}
	c.status.Problem = err.Error()
}

// Status is how it stands now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// node says who asks: a name that istiod takes for a proxy's, in the namespace of the token.
func (c *Client) node() *core.Node {
	namespace := c.identity.namespace()
	meta, _ := structpb.NewStruct(map[string]any{"NAMESPACE": namespace, "CLUSTER_ID": c.settings.ClusterID, "NODE_NAME": c.Node}) // strings only
	return &core.Node{
		Id:       fmt.Sprintf("sidecar~127.0.0.1~meshwatch-%s.%s~%s.svc.cluster.local", c.Node, namespace, namespace),
		Cluster:  "meshwatch",
		Metadata: meta,
	}
}

// code is gRPC's for a resource that is refused.
const code = int32(codes.InvalidArgument)
