package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/nets"
)

// Injected is what it costs to put request ids into the requests of one app of the mesh to its sidecar.
type Injected struct {
	Throughput Compared `json:"throughput"`
	Cost       Compared `json:"cpu_us"` // more CPU per request of the mesh
	OffCost    float64  `json:"off_cpu_us"`
	Ids        float64  `json:"ids_per_request"` // that were given while it was on; without quads that are dropped, about one
	Missed     uint64   `json:"missed"`
}

// injectStage has slices in which connections are many times as young as the slice: switching is for new ones only.
var injectStage = stage{120, 160 * time.Millisecond, 30 * time.Millisecond}

// injected switches giving ids on and off inside one load whose connections are for one request each; recording stays on.
func injected(ctx context.Context, b binaries, p plan, r *Report) (err error) {
	b.agent.lines = "inject: missing\n"
	w, err := newWorld(ctx, b, p, r, lab.Options{Sidecar: lab.SidecarEnvoy, PerConnection: 1}, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.morePorts(); err != nil {
		return err
	}
	run := start(ctx, w.l.Wrk, lab.Load{Connections: w.p.connections, Duration: longest, Path: "/?bare=1"})
	if err := errors.Join(w.await(ctx, "client-load"), w.warm(ctx)); err != nil {
		_, endErr := run.end()
		return errors.Join(err, endErr)
	}
	err = w.injectedUnderLoad(ctx)
	l, endErr := run.end()
	if n := l.Failed + l.Broken; n > 0 {
		r.unsound("%d of %d requests failed under the saturating load", n, l.Requests)
	}
	return errors.Join(err, endErr)
}

// morePorts has each pod open more connections a minute than it would: each port waits for a minute.
func (w *world) morePorts() error {
	for _, p := range w.l.Pods() {
		err := nets.Named(p.Netns).Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("16000 65535"), 0) // above those that proxies listen on
		})
		if err != nil {
			return fmt.Errorf("give %s more ports: %w", p.Name, err)
		}
	}
	return nil
}

func (w *world) injectedUnderLoad(ctx context.Context) error {
	s := injectStage
	s.quads = min(s.quads, w.p.kernel.quads)
	t := w.toggling(s)
	t.record = func(on bool) error { return w.a.client.Inject(ctx, on) }
	w.a.record(true)
	before, err := w.a.client.Status(ctx)
	if err != nil {
		return err
	}
	q, err := t.run(ctx)
	if err != nil {
		return err
	}
	after, err := w.a.client.Status(ctx)
	if err != nil {
		return err
	}
	if before.Inject == nil || after.Inject.Injected == before.Inject.Injected {
		return fmt.Errorf("no request was given an id: %+v", after.Inject)
	}
	w.r.Inject = &Injected{
		Throughput: compare(q, throughputRatio), Cost: compare(q, costDifference), OffCost: q.off().cost(),
		Ids: float64(after.Inject.Injected-before.Inject.Injected) / (q.on().Requests * s.slice.Seconds() / (s.slice - s.settle).Seconds()),
	}
	for _, l := range after.Losses {
		if l.Stage == "inject" {
			w.r.Inject.Missed += l.Count
		}
	}
	return nil
}

func (i *Injected) rows(row func(string, ...any)) {
	row("throughput, ids given / not\t%s\t%s", i.Throughput.On.text(3), i.Throughput.AA.text(3))
	row("CPU per request, saturated, µs\t%s\t%s", i.Cost.On.text(1), i.Cost.AA.text(1))
	row("  %.2f ids a request, %d missed, %d quads dropped; without a request costs %.0f µs", i.Ids, i.Missed, i.Throughput.Dropped, i.OffCost)
}
