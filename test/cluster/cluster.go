// Package cluster runs a real Kubernetes with a real Istio on this machine, as ordinary processes in namespaces: tests and
// demonstrations that speak of Istio run against it.
//
//	client → ingress gateway → [istio-proxy] frontend → [istio-proxy] backend-v1, backend-v2
//
// A node is a network and a mount namespace of its own; process ids are the machine's. The first node also has etcd, the API
// server, the controller manager and the scheduler. Everything that runs is in one tree of cgroups, and everything that is
// written is in one directory, so a cluster can be taken down completely whatever became of the process that built it. There
// is one cluster at a time on a machine.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/test/state"
	"github.com/meshwatch/meshwatch/test/tree"
)

// Options say what to build. The zero value is one node, with sidecars that redirect.
type Options struct {
	Nodes      int  `json:"nodes"`       // 1 to 3; from two on the last has a cgroup v2 layout, the others the machine's own
	TPROXY     bool `json:"tproxy"`      // sidecars take connections transparently instead of by REDIRECT
	DNSCapture bool `json:"dns_capture"` // sidecars answer their apps' DNS queries
	H2Upgrade  bool `json:"h2_upgrade"`  // sidecars talk HTTP/2 to each other (h2UpgradePolicy: UPGRADE)
	HBONE      bool `json:"hbone"`       // sidecars tunnel to each other: HTTP/2 CONNECT to port 15008
}

func (o Options) check() (Options, error) {
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return o, fmt.Errorf("build a cluster: %d nodes, want 1 to %d", o.Nodes, maxNodes)
	}
	return o, nil
}

// Phase is a part of building a cluster, and how long after the beginning it was done.
type Phase struct {
	Name  string        `json:"name"`
	Since time.Duration `json:"since_ns"`
}

// Cluster is a Kubernetes that is up. Its methods may be called by several goroutines at once.
type Cluster struct {
	Options Options `json:"options"`
	Phases  []Phase `json:"phases"` // of its building
	Ready   bool    `json:"ready"`  // false: its builder did not come to the end
	// HugePages says that this cluster switched the controller on for the machine's cgroup v2 tree, and must switch it off.
	HugePages bool `json:"huge_pages"`

	root  string // of the module's tree, for programs
	begun time.Time
	mu    sync.Mutex // guards Phases
}

// Up builds a cluster and waits until everything in it is ready. One of the same options that is already up is used as it is;
// remains of one whose builder or machine died are removed first. When Up fails, nothing is left but the logs that its error shows.
func Up(ctx context.Context, opts Options) (*Cluster, error) {
	opts, err := opts.check()
	if err != nil {
		return nil, err
	}
	root, err := tree.Root()
	if err != nil {
		return nil, err
	}
	if err := missing(root); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err := open(root); err == nil && c.up() == nil {
		if c.Options != opts {
			return nil, fmt.Errorf("build a cluster: one with other options is up (%+v), take it down first: make cluster-down", c.Options)
		}
		if err := c.WaitReady(ctx); err != nil {
			return nil, fmt.Errorf("one is up that is not well, take it down first (make cluster-down): %w", err)
		}
		return c, nil
	}
	if err := down(ctx); err != nil {
		return nil, fmt.Errorf("remove what another cluster left: %w", err)
	}
	c := &Cluster{Options: opts, root: root, begun: time.Now()}
	if err := c.build(ctx); err != nil {
		err = errors.Join(fmt.Errorf("build a cluster: %w", err), state.Tails(path("logs"), tail))
		return nil, errors.Join(err, down(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// Open returns the cluster that is up.
func Open() (*Cluster, error) {
	root, err := tree.Root()
	if err != nil {
		return nil, err
	}
	c, err := open(root)
	if err != nil {
		return nil, fmt.Errorf("open the cluster: %w (is one up? make cluster)", err)
	}
	if err := c.up(); err != nil {
		return nil, fmt.Errorf("open the cluster: %w", err)
	}
	return c, nil
}

// up says why a cluster is not: its state is on a disk, and outlives what it tells of.
func (c *Cluster) up() error {
	if !c.Ready {
		return errors.New("it is not ready: it is being built, or its builder died (then: make cluster-down)")
	}
	for n := 1; n <= c.Options.Nodes; n++ {
		if _, err := keeper(n); err != nil {
			return fmt.Errorf("node %d has gone, as after a restart of the machine (make cluster builds it again): %w", n, err)
		}
	}
	return nil
}

// Down removes the cluster, or what is left of one. It is no error if that is nothing.
func Down(ctx context.Context) error {
	unlock, err := lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return down(ctx)
}

// downWithin bounds taking a cluster down; it takes a second or two.
const downWithin = 60 * time.Second

func down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, downWithin)
	defer cancel()
	c := &Cluster{}
	if err := state.Read(path("cluster.json"), c); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.HugePages = true // nobody knows any more: better off than on
	}
	if err := killAll(ctx); err != nil {
		return fmt.Errorf("take the cluster down: %w", err)
	}
	err := errors.Join(removeCgroups(ctx), hugePages(false, c.HugePages))
	if err == nil {
		err = os.RemoveAll(stateDir) // last: what is not removed can be tried again
	}
	if err != nil {
		return fmt.Errorf("take the cluster down: %w", err)
	}
	return nil
}

// build makes a cluster from nothing. What needs no other part runs beside it: two cores are busy all the time.
func (c *Cluster) build(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	if err := c.addNode(1); err != nil {
		return err
	}
	imagesCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	images := make(chan error, 1)
	go func() { images <- c.startContainerd(imagesCtx, 1) }()
	err := c.startControlPlane(ctx)
	if err == nil {
		err = c.installBase(ctx)
	}
	if err != nil {
		cancel() // nobody needs them any more
	}
	if err := errors.Join(err, <-images); err != nil {
		return err
	}
	c.phase("control plane and images")
	if err := c.startNode(ctx, 1); err != nil {
		return err
	}
	c.phase("node n1")
	if err := c.addNodes(ctx); err != nil {
		return err
	}
	if err := c.installIstio(ctx); err != nil {
		return err
	}
	if err := c.installApps(ctx); err != nil {
		return err
	}
	c.Ready = true
	return c.save()
}

// addNodes adds the nodes after the first, one after the other: each is busy with importing images.
func (c *Cluster) addNodes(ctx context.Context) error {
	for n := 2; n <= c.Options.Nodes; n++ {
		if err := c.addNode(n); err != nil {
			return err
		}
		if err := c.startContainerd(ctx, n); err != nil {
			return err
		}
		if err := c.startNode(ctx, n); err != nil {
			return err
		}
		c.phase("node " + nodeName(n))
	}
	return nil
}

// prepare makes what is there before any process: state directory, cgroups, keys, images.
func (c *Cluster) prepare() error {
	for _, dir := range []string{"logs", "conf", "pki"} {
		if err := os.MkdirAll(path(dir), 0o755); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	if err := c.save(); err != nil {
		return err
	}
	if err := c.makeCgroups(); err != nil {
		return err
	}
	if err := makePKI(path("pki"), c.Options.Nodes); err != nil {
		return err
	}
	return c.buildImages()
}

// phase notes that a part is done, and says so.
func (c *Cluster) phase(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := Phase{name, time.Since(c.begun)}
	c.Phases = append(c.Phases, p)
	slog.Info("cluster: "+name, "after", p.Since.Round(100*time.Millisecond))
}
