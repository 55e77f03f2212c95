package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/lab"
)

// wrk starts the load that takes what it gets, through the mesh.
func (w *world) wrk(ctx context.Context) (*load, error) {
	run := start(ctx, w.l.Wrk, lab.Load{Connections: w.p.connections, Duration: longest})
	if err := w.await(ctx, "client-load"); err != nil {
		_, endErr := run.end()
		return nil, errors.Join(err, endErr)
	}
	return run, w.warm(ctx)
}

// longest bounds every load: whatever happens to the bench, it ends.
const longest = 15 * time.Minute

// await waits until the lab has a process.
func (w *world) await(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var last error
	err := await.Until(ctx, func() bool {
		procs, err := w.l.Processes()
		last = err
		return slices.ContainsFunc(procs, func(p lab.Process) bool { return p.Name == name })
	})
	if err != nil {
		return fmt.Errorf("wait for the load to start: %w", errors.Join(err, last))
	}
	return nil
}

func (w *world) warm(ctx context.Context) error {
	return errors.Join(w.adopt(), sleep(ctx, w.p.warm))
}

// traffic is a client of the bench's own.
type traffic struct {
	w      *world
	client lab.Process
	page   *mapped
}

// serverPort is where the bench's own server listens.
const serverPort = 9000

// serve starts the bench's own server in a pod of its own, whose count is then the world's. It says where it is.
func (w *world) serve(ctx context.Context, kind string) (string, error) {
	pod, err := w.l.AddPod(ctx, "peer")
	if err != nil {
		return "", err
	}
	m, err := newPage(w.l.Dir(), "server")
	if err != nil {
		return "", err
	}
	w.pages = append(w.pages, m)
	_, err = w.l.InPod("peer", "server", w.bins.traffic, "-kind", kind, "-page", m.file, "-listen", fmt.Sprintf(":%d", serverPort))
	w.count = func() (uint64, error) { return m.served.Load(), nil }
	to := fmt.Sprintf("%s:%d", pod.V4, serverPort)
	return to, errors.Join(err, w.listening(ctx, to))
}

// listening waits until an address takes connections.
func (w *world) listening(ctx context.Context, to string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var last error
	err := await.Until(ctx, func() bool {
		conn, err := w.l.Dial(ctx, "client", to)
		if last = err; err != nil {
			return false
		}
		last = conn.Close()
		return true
	})
	return errors.Join(err, last)
}

// client is how the bench's own traffic is sent.
type client struct {
	kind, to             string
	connections, workers int // workers: 0: one for each connection
	rate                 float64
	tls                  bool
}

// send starts traffic, and waits until all its connections are open and it is in its stride.
func (w *world) send(ctx context.Context, c client) (_ *traffic, err error) {
	m, err := newPage(w.l.Dir(), fmt.Sprintf("client%d", len(w.pages)))
	if err != nil {
		return nil, err
	}
	w.pages = append(w.pages, m)
	t := &traffic{w: w, page: m}
	t.client, err = w.l.InPod("client", "traffic", w.bins.traffic, "-kind", c.kind, "-page", m.file, "-to", c.to,
		"-connections", strconv.Itoa(c.connections), "-workers", strconv.Itoa(min(cmp.Or(c.workers, c.connections), c.connections)),
		"-rate", strconv.FormatFloat(c.rate, 'f', 1, 64), "-tls="+strconv.FormatBool(c.tls))
	if err != nil {
		return nil, err
	}
	err = w.connected(ctx, t, c)
	if err == nil {
		err = w.warm(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, t.stop())
	}
	return t, nil
}

// connected waits for all connections.
func (w *world) connected(ctx context.Context, t *traffic, c client) error {
	if c.kind == "churn" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := await.Until(ctx, func() bool {
		return t.page.connected.Load() >= uint64(c.connections) || !t.client.Running() //nolint:gosec // a number of connections
	})
	return errors.Join(err, t.alive())
}

func (t *traffic) alive() error {
	if t.client.Running() {
		return nil
	}
	log, _ := os.ReadFile(t.w.l.LogFile(t.client)) //nolint:errcheck // what there is
	return fmt.Errorf("the load has ended by itself: %s", log)
}

// stop ends it, and notes what went wrong on its way.
func (t *traffic) stop() error {
	err := errors.Join(t.alive(), t.w.l.Stop(t.client))
	if n := t.page.failed.Load(); n > 0 {
		t.w.r.unsound("%d requests of %s failed", n, filepath.Base(t.page.file))
	}
	return err
}

// load is a load generator of the lab's that runs in the background.
type load struct {
	stop   context.CancelFunc
	done   chan struct{}
	result lab.LoadResult
	err    error
}

func start(ctx context.Context, send func(context.Context, lab.Load) (lab.LoadResult, error), w lab.Load) *load {
	ctx, stop := context.WithCancel(ctx)
	l := &load{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.result, l.err = send(ctx, w)
	}()
	return l
}

// end stops the load and gives its result. It is an error if it had ended by itself: then what was measured last was idle.
func (l *load) end() (lab.LoadResult, error) {
	select {
	case <-l.done:
		l.stop()
		return l.result, errors.Join(errors.New("the load ended before what was to be measured"), l.err)
	default:
	}
	l.stop()
	<-l.done
	return l.result, l.err
}
