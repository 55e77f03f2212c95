package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshwatch/meshwatch/test/lab"
)

// world is a lab with an agent beside it, and the means to count what both do.
type world struct {
	l    *lab.Lab
	a    *agent
	p    plan
	r    *Report
	bins binaries
	own  *group // of the lab's processes
	ag   *group // of the agent's
	soft softirqs
	// count is how many requests there were so far: the frontend of the mesh says it, or the server of other traffic.
	count func() (uint64, error)
	draw  *rand.Rand
	pages []*mapped
}

// binaries are the programs that the bench runs.
type binaries struct {
	agent   program
	traffic string
}

// newWorld builds a lab with idle pods beside its own, and starts an agent.
func newWorld(ctx context.Context, b binaries, p plan, r *Report, o lab.Options, idle int) (_ *world, err error) {
	w := &world{p: p, r: r, bins: b, draw: rand.New(rand.NewPCG(3, 4))} //nolint:gosec // not for secrets
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.l, err = lab.Up(ctx, o); err != nil {
		return nil, err
	}
	w.count = w.l.Requests
	if idle > 0 {
		say("%s: adding %d pod namespaces", r.Scenario, idle)
		if err := w.l.AddIdle(idle); err != nil {
			return nil, err
		}
	}
	if w.soft, err = openSoftirqs(); err != nil {
		return nil, err
	}
	if w.own, err = newGroup(w.l.ID + "-lab"); err != nil {
		return nil, err
	}
	if w.ag, err = newGroup(w.l.ID + "-agent"); err != nil {
		return nil, err
	}
	return w, w.startAgent(ctx)
}

func (w *world) startAgent(ctx context.Context) (err error) {
	if w.a, err = startAgent(ctx, w.bins.agent, w.r.Depth, w.l.Others()); err != nil {
		return err
	}
	w.alone()
	return errors.Join(w.ag.add(w.a.pid()), w.favour(w.a.pid(), niceMeasured))
}

func (w *world) favour(pid, nice int) error {
	if !w.p.favoured {
		return nil
	}
	return favour(pid, nice)
}

// close stops and removes everything, in whatever state it is.
func (w *world) close() error {
	var errs []error
	if w.a != nil {
		errs = append(errs, w.a.stop())
	}
	if w.l != nil {
		errs = append(errs, w.l.Down())
	}
	for _, g := range []*group{w.own, w.ag} {
		if g != nil {
			errs = append(errs, g.close())
		}
	}
	for _, m := range w.pages {
		errs = append(errs, m.close())
	}
	return errors.Join(append(errs, w.soft.close())...)
}

// adopt has the lab's processes of now counted, and preferred to the rest of the machine.
func (w *world) adopt() error {
	procs, err := w.l.Processes()
	for _, p := range procs {
		if !strings.HasSuffix(p.Name, "-sleep") {
			err = errors.Join(err, w.own.add(p.PID), w.favour(p.PID, niceMeasured))
		}
	}
	return err
}

// sample is all that is counted, up to now.
func (w *world) sample() (s sample, err error) {
	n, err := w.count()
	if err != nil {
		return s, err
	}
	s.Requests, s.Seconds, s.Flights = float64(n), time.Since(boot).Seconds(), float64(w.a.flights())
	if s.Own, err = w.own.seconds(); err != nil {
		return s, err
	}
	soft, err := w.soft.seconds()
	if err != nil {
		return s, err
	}
	s.Own += soft
	if s.Agent, err = w.ag.seconds(); err != nil {
		return s, err
	}
	s.Busy, s.Steal, err = machine()
	s.Busy -= self()
	return s, err
}

// preferSelf has this program look at what it measures on time, until the returned function is called. What it starts is set to a
// value of its own later.
func preferSelf() (restore func()) {
	set := func(nice int) {
		tasks, _ := os.ReadDir("/proc/self/task") //nolint:errcheck // then it is not preferred
		for _, t := range tasks {
			if tid, err := strconv.Atoi(t.Name()); err == nil {
				_ = syscall.Setpriority(syscall.PRIO_PROCESS, tid, nice)
			}
		}
		_ = os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(nice)), 0) // the session's, so it is set back
	}
	set(niceBench)
	return func() { set(0) }
}

// cpus is how many CPUs the machine has.
func cpus() int { return runtime.NumCPU() }
