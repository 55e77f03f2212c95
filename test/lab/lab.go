// Package lab builds a service mesh out of network namespaces and ordinary processes: the demo, the tests and the
// benchmarks all run against it.
//
//	client → gateway (HAProxy) → [sidecar] frontend → [sidecar] → bridge → [sidecar] backend, backend2
//
// A lab is known by four hexadecimal digits, which every name it uses outside its own files carries, so several labs
// run side by side. All it has is under its state directory (see state.go): another process can open it, change it
// and take it down, also when the one that built it is dead.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/lab/rpc"
	"github.com/meshwatch/meshwatch/test/state"
	"github.com/meshwatch/meshwatch/test/tree"
)

// Sidecar is the kind of proxy beside each app.
type Sidecar string

// The kinds of sidecars.
const (
	SidecarEnvoy   Sidecar = "envoy"
	SidecarHAProxy Sidecar = "haproxy"
)

// Options say what to build. The zero value is a mesh with Envoy where it is installed (else HAProxy), over IPv4,
// without access logs.
type Options struct {
	Sidecar    Sidecar `json:"sidecar"`
	IPv6       bool    `json:"ipv6"`        // requests travel over IPv6; both families are configured anyway
	AccessLogs bool    `json:"access_logs"` // the proxies log every request, see AccessLog
	ALS        string  `json:"als"`         // Envoys tell their access log to the service at this unix socket, which may come and go
	Said       string  `json:"said"`        // HAProxies' rings tell their log to this unix stream socket, which may come and go
	TLS        bool    `json:"tls"`         // mutual TLS 1.3 between gateway and sidecars, and TLS from the client to the gateway
	HTTP2      bool    `json:"http2"`       // with TLS: Envoy sidecars speak HTTP/2 to each other
	GRPC       bool    `json:"grpc"`        // with Envoy: the apps speak gRPC (package rpc), so every leg is HTTP/2
	Anonymous  bool    `json:"anonymous"`   // apps hand on neither request ids nor trace context; not with GRPC
	Records    bool    `json:"records"`     // the apps say of every request what they did, see Records
	Threads    int     `json:"threads"`     // workers of each proxy, 0: 2
	Detached   bool    `json:"detached"`    // processes outlive this one; else the kernel ends them with it

	// N requests, about, are what gateway, sidecars and apps send on a connection: 0 any number, 1 one. Envoy, HAProxy with HTTP/2 and rpcapp
	// count to N; the Go app and HAProxy with HTTP/1.1 end a connection after each with a probability of 1/N, so that some have many.
	PerConnection int `json:"per_connection"`
}

// check says which options do not go together.
func (o Options) check() error {
	switch {
	case o.HTTP2 && (!o.TLS || o.Sidecar != SidecarEnvoy):
		return fmt.Errorf("build a lab: HTTP/2 between sidecars needs TLS and Envoy, not sidecar %s with TLS %t", o.Sidecar, o.TLS)
	case o.GRPC && o.Sidecar != SidecarEnvoy:
		return fmt.Errorf("build a lab: gRPC needs Envoy, not sidecar %s", o.Sidecar)
	case o.PerConnection < 0:
		return fmt.Errorf("build a lab: a connection cannot have %d requests: say 0 for any number, or more", o.PerConnection)
	}
	return nil
}

// readyWithin bounds Up's wait for the first answer; alone on two cores it takes about a second.
const readyWithin = 30 * time.Second

// Lab is a mesh that is up. Its methods may be called by several goroutines at once.
type Lab struct {
	ID      string  `json:"id"`
	Options Options `json:"options"`
	Owner   Process `json:"owner"` // who built it
	List    []Pod   `json:"pods"`  // use Pods

	mu        sync.Mutex // guards List, the frontend's page and the files under dir
	dir       string     // state directory
	root      string     // of the module's tree, for binaries and configuration
	spawnOnce sync.Once
	spawn     *spawner       // starts processes; use spawner()
	children  sync.WaitGroup // goroutines that reap processes
	page      *page          // the frontend's, nil until it is asked for
	pageMem   []byte         // page's mapping
}

// Up builds a lab and waits until a request passes all of it. When it fails, nothing is left.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	l, err := create(opts)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab %s: %w", l.ID, err), state.Tails(l.LogDir(), tail), l.Down())
	}
	slog.Info("lab is up", "id", l.ID, "sidecar", l.Options.Sidecar, "took", time.Since(start).Round(time.Millisecond))
	return l, nil
}

// create checks that a lab can be built here, and takes an id.
func create(opts Options) (*Lab, error) {
	root, err := tree.Root()
	if err != nil {
		return nil, err
	}
	if opts.Sidecar == "" {
		opts.Sidecar = defaultSidecar(root)
	}
	if err := errors.Join(check(root, opts.Sidecar), opts.check()); err != nil {
		return nil, err
	}
	id, dir, err := newState()
	if err != nil {
		return nil, err
	}
	owner, err := describe("owner", os.Getpid())
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Lab{ID: id, Options: opts, Owner: owner, dir: dir, root: root}, nil
}

// build makes everything between the state directory and the first answer.
func (l *Lab) build(ctx context.Context) error {
	if err := l.save(); err != nil { // the owner is known before there is anything to clean
		return err
	}
	app := make(chan error, 1)
	go func() { app <- l.buildPrograms(ctx) }()
	err := l.buildNetwork()
	if appErr := <-app; err == nil {
		err = appErr
	}
	if err != nil {
		return err
	}
	if err := l.save(); err != nil {
		return err
	}
	if l.Options.TLS {
		if err := l.makeCertificates(); err != nil {
			return err
		}
	}
	if err := l.startMesh(); err != nil {
		return err
	}
	return l.waitReady(ctx, readyWithin)
}

func (l *Lab) buildNetwork() error {
	if err := l.addNode(); err != nil {
		return err
	}
	for i, p := range demoPods() {
		p, err := l.addPod(p, i)
		if err != nil {
			return err
		}
		l.List = append(l.List, p)
	}
	return nil
}

// startMesh starts every process. They need each other only once requests come.
func (l *Lab) startMesh() error {
	for _, p := range l.List {
		if p.Role == RoleApp {
			if err := l.startApp(p); err != nil {
				return err
			}
		}
		if err := l.startProxy(p); err != nil {
			return err
		}
	}
	return nil
}

// waitReady sends requests until the path to every app has answered, or a process is gone.
func (l *Lab) waitReady(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last, dead error
	err := await.Until(ctx, func() bool {
		if !l.listening(ctx) { // else the gateway would wait a second before it tries again
			dead = l.checkProcesses()
			return dead != nil
		}
		err := l.tryRequest(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			last = err
		}
		dead = l.checkProcesses()
		return dead != nil
	})
	if err := errors.Join(err, dead); err != nil {
		return fmt.Errorf("wait for the first answer: %w", errors.Join(err, last))
	}
	return nil
}

// tryRequest sends a request that needs all that Up has started.
func (l *Lab) tryRequest(ctx context.Context) error {
	if l.Options.GRPC {
		r, err := l.Call(ctx, rpc.Talk, "", 1)
		if err == nil && r.Error != "" {
			err = errors.New(r.Error)
		}
		return err
	}
	resp, err := l.Request(ctx, "/ready?call=backend,backend2", nil)
	if err == nil && resp.Status != 200 {
		err = fmt.Errorf("status %d: %s", resp.Status, resp.Body)
	}
	return err
}

// listening says whether every app takes connections.
func (l *Lab) listening(ctx context.Context) bool {
	for _, p := range l.Pods() {
		if p.Role == RoleApp && !l.listens(ctx, p) {
			return false
		}
	}
	return true
}

// listens says whether an app's address takes connections: its sidecar's, where it has one.
func (l *Lab) listens(ctx context.Context, p Pod) bool {
	conn, err := l.Dial(ctx, "client", netip.AddrPortFrom(l.meshAddr(p), appPort).String())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// checkProcesses says which processes have ended by themselves.
func (l *Lab) checkProcesses() error {
	procs, err := l.Processes()
	for _, p := range procs {
		if !p.Running() {
			err = errors.Join(err, fmt.Errorf("process %s has ended", p.Name))
		}
	}
	return err
}

// GatewayURL is where clients send requests, without a path.
func (l *Lab) GatewayURL() string {
	scheme := "http://"
	if l.Options.TLS {
		scheme = "https://"
	}
	return scheme + l.gatewayAddress()
}

func (l *Lab) gatewayAddress() string {
	gw, _ := l.Pod("gateway")
	return netip.AddrPortFrom(l.meshAddr(gw), gatewayPort).String()
}

// meshAddr is the pod's address of the family that requests travel over.
func (l *Lab) meshAddr(p Pod) netip.Addr {
	if l.Options.IPv6 {
		return p.V6
	}
	return p.V4
}
