package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/test/lab"
)

const (
	connections = 8
	rate        = 20               // requests per second: what is slow is then the fault and not a queue for the CPUs
	settle      = 3 * time.Second  // until what began before is over: more than three retransmissions
	stretch     = 10 * time.Second // that a table covers
	rows        = "12"             // of a table: the largest
)

// demo is one run.
type demo struct {
	options
	out io.Writer
	l   *lab.Lab
	a   *agent
}

// show runs the demonstration. Whatever it returns, nothing is left unless o.keep.
func show(ctx context.Context, out io.Writer, o options) (err error) {
	if o.meshwatch, err = filepath.Abs(o.meshwatch); err != nil {
		return err
	}
	d := demo{options: o, out: out}
	if err := d.up(ctx); err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, d.l.Down())
		}
	}()
	if err := d.start(ctx); err != nil {
		return err
	}
	f := faultOf(o.fault, d.l.Options.Sidecar)
	before, err := d.look(ctx, "Where does the time go?", 0.5)
	if err != nil {
		return err
	}
	d.say("\n== Now %s", f.says)
	if err := d.l.StartFault(f.Fault); err != nil {
		return err
	}
	found, err := d.moved(ctx, f, before)
	if err != nil {
		return err
	}
	if keep = o.keep; keep {
		d.how()
	}
	if !found {
		return errNotFound
	}
	return nil
}

// moved looks again, and says whether the time is where the fault is. On a machine that others use it looks a second time.
func (d *demo) moved(ctx context.Context, f fault, before evidence) (bool, error) {
	for again := false; ; again = true {
		after, err := d.look(ctx, "Where does the time go now?", 0.95)
		if err != nil {
			return false, err
		}
		text, found := judge(f, before, after)
		d.say("\n== What moved\n%s", text)
		if found || again || after.busy < tooBusy {
			return found, nil
		}
		d.say("Once more:")
	}
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// up builds the mesh.
func (d *demo) up(ctx context.Context) (err error) {
	d.say("== A mesh")
	if d.l, err = lab.Up(ctx, lab.Options{Sidecar: d.sidecar, Detached: d.keep}); err != nil {
		return err
	}
	kind := string(d.l.Options.Sidecar)
	if d.sidecar == "" && d.l.Options.Sidecar == lab.SidecarHAProxy {
		d.say("Envoy is not there, so the sidecars are HAProxy (test/install.sh demo says why)")
	}
	d.say("lab %s, each pod a network namespace mw%[1]s-*:", d.l.ID)
	d.say("  client → gateway (haproxy) → [%s] frontend → [%[1]s] → bridge → [%[1]s] backend", kind)
	return nil
}

// start starts agent and load.
func (d *demo) start(ctx context.Context) (err error) {
	if d.a, err = configure(d.l); err != nil {
		return err
	}
	d.say("$ %s agent --config %s &", d.name(), d.a.config)
	if err := d.a.start(ctx, d.meshwatch); err != nil {
		return err
	}
	d.say("load: wrk on %d connections, with pauses that make it about %d requests/s", connections, rate)
	return d.l.StartLoad(lab.Load{QPS: rate, Connections: connections})
}

// look shows the hop table of a stretch of time and one of its requests: the one that this share of them is faster than.
func (d *demo) look(ctx context.Context, title string, quantile float64) (evidence, error) {
	if err := sleep(ctx, settle); err != nil {
		return evidence{}, err
	}
	e, err := d.a.watch(ctx, stretch)
	if err != nil {
		return e, err
	}
	whole, legs := e.whole()
	d.say("\n== %s\n%d requests in %s, %d of them seen on all %d legs", title, len(e.requests), stretch, whole, legs)
	if err := d.command(ctx, "hops", "--once", "--rows", rows); err != nil {
		return e, err
	}
	s := e.at(quantile)
	id := s.RequestID
	if id == "" {
		id = s.TraceID
	}
	which := map[float64]string{0.5: "One in the middle: half of the requests are faster"}[quantile]
	if which == "" {
		which = fmt.Sprintf("A slow one: %.0f %% of the requests are faster", 100*quantile)
	}
	d.say("\n%s", which)
	return e, d.command(ctx, "trace", id)
}

// command runs meshwatch as a user would, and shows how.
func (d *demo) command(ctx context.Context, args ...string) error {
	args = append(args, "--control", d.a.socket)
	d.say("$ %s %s", d.name(), strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.meshwatch, args...)
	cmd.Stdout, cmd.Stderr = d.out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run meshwatch %s: %w", args[0], err)
	}
	return nil
}

// name is how the working directory names the program.
func (d *demo) name() string {
	if dir, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(dir, d.meshwatch); err == nil && !strings.HasPrefix(rel, "..") {
			return rel
		}
	}
	return d.meshwatch
}

// how says what there is to see, and how it ends.
func (d *demo) how() {
	at := " --control " + d.a.socket
	d.say("\n== Mesh %s, its load and the agent stay up, with %s slow. To look:", d.l.ID, d.fault)
	d.say("  %s hops%s            # live; ^C ends the table only", d.name(), at)
	d.say("  %s trace%s           # the latest requests; with an id, one of them", d.name(), at)
	d.say("  %s path mw%s-backend%s", d.name(), d.l.ID, at)
	d.say("  %s status%s", d.name(), at)
	d.say("  go run ./test/lab/cmd/lab fault %s off --id %s", d.fault, d.l.ID)
	d.say("To end all of it:\n  make lab-down")
}
