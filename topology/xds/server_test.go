package xds

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	server "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/meshwatch/meshwatch/topology"
)

// plane is a control plane of go-control-plane's at a real socket, which can go away and come back with what it knows.
type plane struct {
	t       *testing.T
	cache   *cache.LinearCache // of workloads; nil: it has none
	all     cache.Cache
	address string
	options []grpc.ServerOption
	more    func(*grpc.Server)
	grpc    *grpc.Server
	serving sync.WaitGroup

	mu       sync.Mutex
	requests []*discovery.DeltaDiscoveryRequest
	sent     []int    // resources of each response
	closed   []string // ids of the nodes whose streams ended
}

// newPlane makes a control plane that is up until the test ends.
func newPlane(t *testing.T, more func(*grpc.Server), options ...grpc.ServerOption) *plane {
	c := cache.NewLinearCache(addressType)
	p := newPlaneOf(t, c, more, options...)
	p.cache = c
	return p
}

// newPlaneOf makes one of this cache's resources.
func newPlaneOf(t *testing.T, c cache.Cache, more func(*grpc.Server), options ...grpc.ServerOption) *plane {
	p := &plane{t: t, all: c, address: "127.0.0.1:0", options: options, more: more}
	p.up()
	t.Cleanup(p.down)
	return p
}

func (p *plane) up() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.address, p.grpc = l.Addr().String(), grpc.NewServer(p.options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(p.grpc, server.NewServer(context.Background(), p.all, server.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.requests = append(p.requests, proto.Clone(r).(*discovery.DeltaDiscoveryRequest)) // the server goes on to write to it
			return nil
		},
		StreamDeltaResponseFunc: func(_ int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.sent = append(p.sent, len(r.Resources))
		},
		DeltaStreamOpenFunc: func(context.Context, int64, string) error { return nil },
		DeltaStreamClosedFunc: func(_ int64, n *core.Node) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.closed = append(p.closed, n.GetId())
		},
	}))
	if p.more != nil {
		p.more(p.grpc)
	}
	served := p.grpc
	p.serving.Go(func() { _ = served.Serve(l) }) // ends with Stop
}

func (p *plane) down() {
	p.grpc.Stop()
	p.serving.Wait()
}

func (p *plane) seen() (requests []*discovery.DeltaDiscoveryRequest, sent []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(requests, p.requests...), append(sent, p.sent...)
}

// forget what was asked: 10,000 names each time.
func (p *plane) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

// set gives the control plane resources by their bytes.
func (p *plane) set(resources map[string][]byte) {
	p.t.Helper()
	all := map[string]types.Resource{}
	for name, b := range resources {
		m := &emptypb.Empty{}
		m.ProtoReflect().SetUnknown(b) // a message of any type is its bytes
		all[name] = m
	}
	if err := p.cache.UpdateResources(all, nil); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) remove(name string) {
	p.t.Helper()
	if err := p.cache.DeleteResource(name); err != nil {
		p.t.Fatal(err)
	}
}

// pod is a workload's bytes.
func pod(name, addr string) []byte {
	var w []byte
	for n, text := range map[protowire.Number]string{workloadName: name, workloadNamespace: "shop", workloadNode: "node-1", workloadCanonical: "front"} {
		w = protowire.AppendString(protowire.AppendTag(w, n, protowire.BytesType), text)
	}
	ip := netip.MustParseAddr(addr).AsSlice()
	w = protowire.AppendBytes(protowire.AppendTag(w, workloadAddress, protowire.BytesType), ip)
	return protowire.AppendBytes(protowire.AppendTag(nil, addressWorkload, protowire.BytesType), w)
}

// following is a client that runs until the test ends, and the latest Store that it gave out.
type following struct {
	*Client
	t       testing.TB
	mu      sync.Mutex
	store   *topology.Store
	changed chan struct{}
	refused int
	stop    func()
}

func follow(t testing.TB, s Settings) *following {
	t.Helper()
	return followAfter(t, s, func(int, time.Duration) time.Duration { return 5 * time.Millisecond })
}

// followAfter pauses between attempts as it is told.
func followAfter(t testing.TB, s Settings, pause func(attempt int, longest time.Duration) time.Duration) *following {
	t.Helper()
	f := &following{t: t, changed: make(chan struct{}, 1)}
	start := time.Now()
	f.Client = New(s, Options{
		Node: "node-1", Builder: topology.NewBuilder("", uint64(time.Hour)), Clock: func() uint64 { return uint64(time.Since(start)) }, //nolint:gosec // positive
		Changed: func(s *topology.Store) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.store = s
			f.notify()
		},
		Refused: func(n int) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refused += n
			f.notify()
		},
		Log: slog.New(slog.DiscardHandler),
	})
	f.pause = pause
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	f.stop = func() { cancel(); running.Wait() }
	t.Cleanup(f.stop)
	return f
}

func (f *following) notify() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// await looks again and again until it is so.
func (f *following) await(what string, so func() bool) {
	f.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-deadline:
			f.t.Fatalf("never: %s; status %+v", what, f.Status())
		case <-f.changed:
		case <-tick.C:
		}
	}
}

// is waits until the address is name's, "" for nobody's.
func (f *following) is(addr, name string) {
	f.t.Helper()
	f.await(fmt.Sprintf("%s is %q", addr, name), func() bool { return f.who(addr) == name })
}

func (f *following) who(addr string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w, ok := f.store.Lookup(netip.AddrPortFrom(netip.MustParseAddr(addr), 0), f.Clock()); ok {
		return w.Name
	}
	return ""
}
