package meshwatch

import (
	"cmp"
	"context"
	"os"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/attach"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/kube"
	"github.com/meshwatch/meshwatch/topology/xds"
)

// watch follows the datapath and the topology.
func (a *Agent) watch(ctx context.Context) (err error) {
	if file := a.cfg.Topology.File; file != "" {
		store, err := topology.Load(file)
		if err != nil {
			return &ConfigError{Err: err}
		}
		a.topologyChanged(store, nil)
		a.background.Go(func() {
			err := topology.Watch(ctx, file, topology.NewBuilder("", a.remembered()), monotonic, a.topologyChanged)
			if err != nil && ctx.Err() == nil {
				a.env.Log.Error("topology file is no longer followed", "file", file, "error", err)
			}
		})
	}
	builder := topology.NewBuilder("", a.remembered()) // both sources tell it: a pod of both is one
	if s := a.cfg.Topology.XDS.settings(); s.Address != "" {
		a.xds = xds.New(s, xds.Options{
			Node: nodeName(), Builder: builder, Clock: monotonic, Log: a.env.Log, Changed: a.learned,
			Refused: func(n int) { a.losses.Count("topology", "refused", uint64(n)) }, //nolint:gosec // not negative
		})
		if a.cfg.Topology.XDS.Proxies {
			a.governor = newGovernor(a.xds)
			a.observer.Govern(a.governor, a.losses)
		}
	}
	if err := a.watchKubernetes(ctx, builder); err != nil { // it tells the governor, too
		return err
	}
	if a.xds != nil {
		a.background.Go(func() { a.xds.Run(ctx) })
	}
	a.attached = attach.New(a.recorder, a.cfg.Namespaces.Exclude, a.cfg.TLS.Exclude, a.cfg.Go.Exclude, a.losses, a.env.Log)
	a.watcher, err = netpath.Watch(ctx, 0, func(c netpath.Change) {
		a.names.SetState(c.State)
		a.attached.Apply(c.State)
		if a.injects != nil {
			a.injects.SetState(c.State, monotonic())
		}
	})
	a.depths = newDepths(a.cfg.Depth, a.attached, a.names.State)
	return err
}

// watchKubernetes follows the API server, where that is wanted.
func (a *Agent) watchKubernetes(ctx context.Context, b *topology.Builder) error {
	k := a.cfg.Topology.Kubernetes
	if !k.Enabled {
		return nil
	}
	clients, err := kube.Connect(k.settings())
	if err != nil {
		return &ConfigError{Err: err}
	}
	a.kube = kube.New(k.settings(), clients, kube.Options{
		Node: cmp.Or(k.Node, nodeName()), Builder: b, Clock: monotonic, Log: a.env.Log, Changed: a.learned,
		Lost: func(reason string, n uint64) { a.losses.Count("topology", reason, n) },
	})
	a.background.Go(func() { a.kube.Run(ctx) })
	return nil
}

// remembered is for how long it matters who had an address: until the last request of that time is given out.
func (a *Agent) remembered() uint64 {
	return uint64(a.cfg.Join.Expire+a.cfg.Join.Parents) + topology.Lateness //nolint:gosec // positive
}

// nodeName is what Kubernetes calls this node, as the chart says, or the machine itself.
func nodeName() string {
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name
	}
	name, _ := os.Hostname() //nolint:errcheck // then it has none
	return name
}

// learned takes what the control plane and the API server told. Both call it: the later Store counts, whoever comes last.
func (a *Agent) learned(s *topology.Store) {
	a.learning.Lock()
	defer a.learning.Unlock()
	if !s.After(a.latest) {
		return
	}
	a.latest = s
	a.setStore(s)
	if a.governor != nil {
		a.governor.learned(s)
	}
	a.topology.Store(&control.Topology{Addresses: s.Len(), Loaded: time.Now()})
}

// setStore tells everybody of a topology.
func (a *Agent) setStore(s *topology.Store) {
	a.names.SetStore(s)
	if a.injects != nil {
		a.injects.SetStore(s, monotonic())
	}
}

// topologyChanged takes a new topology, or notes why the file as it is now cannot be one.
func (a *Agent) topologyChanged(s *topology.Store, err error) {
	next := control.Topology{File: a.cfg.Topology.File, Loaded: time.Now()}
	if err == nil {
		a.setStore(s)
		next.Addresses = s.Len()
	} else {
		a.losses.Count("topology", "bad-file", 1)
		a.env.Log.Warn("topology file is not used; the last good one stays", "file", next.File, "error", err)
		if t := a.topology.Load(); t != nil {
			next = *t
		}
		next.Problem = err.Error()
	}
	a.topology.Store(&next)
}
