// Package kube follows a Kubernetes API server: who is behind an address (pods of this node, endpoints elsewhere, Istio's entries), which
// services there are, and what Istio's and the Gateway API's resources say of how requests go. It owns the API server, and only reads.
//
// It uses client-go's reflectors with stores of its own, where informers would keep a second copy of every object: only what
// is used is kept, and it is known which of what comes is old news (see stream.moment).
package kube

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/meshwatch/meshwatch/topology"
)

// Options are what a Client needs besides its settings.
type Options struct {
	Node    string // this node's name in Kubernetes
	Builder *topology.Builder
	Clock   func() uint64                 // CLOCK_MONOTONIC in ns
	Changed func(*topology.Store)         // never called twice at a time
	Lost    func(reason string, n uint64) // what could not be taken: the reasons are below
	Log     *slog.Logger
}

// The reasons that Lost is given.
const (
	LostForbidden = "forbidden"       // the service account may not read a resource; once for each attempt
	LostAway      = "api-server-away" // an attempt to list or watch; what happens meanwhile is read late
	LostBad       = "bad-value"       // an address, port or duration of an object that cannot be one
)

// Client follows an API server. New makes one, Run does it.
type Client struct {
	Options
	clusterID string
	started   uint64
	streams   []*stream
	failure   *atomic.Pointer[error] // of the latest request, nil in it: none
	dirty     chan struct{}

	mu     sync.Mutex
	pods   map[name]*pod // of this node
	nodes  map[string]*node
	shared map[netip.Addr]int         // how many nodes have an address
	parts  map[name]map[name]endpoint // what EndpointSlices say of a pod, by slice
	status Status
}

// Status is how it stands with an API server. Its zero value: never connected.
type Status struct {
	Connected bool
	Since     time.Time // connected or lost
	Updated   time.Time // the last object came, changed or went
	Ready     bool      // everything that may be read was read once
	Objects   int       // that are kept
	Changes   uint64    // taken, the first lists included
	Missing   []string  // a sentence for each resource that may not be read
	Absent    []string  // resources that the API server does not have: their CRDs are not installed
	Problem   string    // why it is not connected
}

// New makes a Client. It does not connect.
func New(s Settings, clients Clients, o Options) *Client {
	c := &Client{
		Options: o, clusterID: s.ClusterID, failure: clients.failure, started: o.Clock(), dirty: make(chan struct{}, 1), pods: map[name]*pod{}, nodes: map[string]*node{},
		shared: map[netip.Addr]int{}, parts: map[name]map[name]endpoint{},
	}
	for _, k := range c.kinds(clients) {
		c.streams = append(c.streams, &stream{kind: k, client: c, held: map[name]any{}})
	}
	return c
}

// Run follows the API server until ctx ends, and comes back to it whenever it is lost. What was learned stays.
func (c *Client) Run(ctx context.Context) {
	ctx = klog.NewContext(ctx, logr.Discard()) // status, log and counters of ours say it
	var running sync.WaitGroup
	for _, s := range c.streams {
		r := cache.NewReflectorWithOptions(s.listWatch(), s.kind.object, s, cache.ReflectorOptions{Name: "meshwatch", TypeDescription: s.kind.resource})
		running.Go(func() { r.RunWithContext(ctx) })
	}
	running.Go(func() { topology.Publish(ctx, c.dirty, c.Builder, c.Clock, c.Changed) })
	running.Wait()
}

// touched notes that something changed. The caller has the lock.
func (c *Client) touched() {
	c.status.Updated = time.Now()
	c.status.Changes++
	select {
	case c.dirty <- struct{}{}:
	default: // it will be seen
	}
}

// Status is how it stands now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Ready = true
	for _, stream := range c.streams {
		s.Objects += len(stream.held)
		s.Ready = s.Ready && stream.state != waiting
		switch stream.state {
		case forbidden:
			s.Missing = append(s.Missing, stream.kind.missing())
		case absent:
			s.Absent = append(s.Absent, stream.kind.id())
		}
	}
	return s
}

// note takes how a request to the API server went, nil: well. The log has the first failure of several.
func (c *Client) note(s *stream, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := s.state
	s.took(err)
	if s.state != was && s.state == forbidden {
		c.Log.Warn("Kubernetes does not let this agent read all that it needs", "missing", s.kind.missing(), "error", err)
	}
	lost := slices.ContainsFunc(c.streams, func(s *stream) bool { return s.err != nil })
	switch {
	case lost && c.status.Problem == "":
		c.Log.Warn("Kubernetes API server is away; what it told stays", "error", err)
	case !lost && err == nil && !c.status.Connected:
		c.Log.Info("Kubernetes API server connected")
	}
	if connected := !lost && (err == nil || c.status.Connected || s.state == forbidden || s.state == absent); connected != c.status.Connected {
		c.status.Connected, c.status.Since = connected, time.Now()
	}
	c.status.Problem = ""
	if lost {
		i := slices.IndexFunc(c.streams, func(s *stream) bool { return s.err != nil })
		c.status.Problem = c.streams[i].err.Error()
	}
}

// id is what Istio calls a workload: both sources have one name for it. group is empty for Kubernetes' own.
func (c *Client) id(group, kind string, of name, rest ...string) string {
	id := c.clusterID + "/" + group + "/" + kind + "/" + of.Namespace + "/" + of.Name
	for _, part := range rest {
		id += "/" + part
	}
	return id
}

// bad counts what an object says that makes no sense; the rest of the object is taken.
func (c *Client) bad() { c.Lost(LostBad, 1) }
