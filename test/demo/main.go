// Command demo shows what meshwatch is for: a real mesh, real requests and where their time goes; then one part is made
// slow, and the same commands say which. It ends with an error when they do not. make demo runs it.
//
// Everything it starts belongs to the lab and goes with it, also after an interrupt; make lab-down ends what --keep left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshwatch/meshwatch/test/lab"
)

func main() { os.Exit(run()) }

func run() int {
	var o options
	flag.StringVar((*string)(&o.fault), "fault", string(lab.FaultApp), "what is made slow: app, sidecar, loss or iptables")
	flag.StringVar((*string)(&o.sidecar), "sidecar", "", "envoy or haproxy; default Envoy where it is installed")
	flag.StringVar(&o.meshwatch, "meshwatch", "bin/meshwatch", "the program to show")
	flag.BoolVar(&o.keep, "keep", false, "leave mesh, load and agent up")
	flag.Parse()
	if _, ok := cases[o.fault]; !ok || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: cannot slow %q: FAULT is one of %q\n", o.fault, lab.FaultKinds)
		return 2
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the lab's: what matters is said here
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop() // until the end: a second ^C does not cut the clean-up short
	switch err := show(ctx, os.Stdout, o); {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything it had started is gone")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

type options struct {
	fault     lab.FaultKind
	sidecar   lab.Sidecar
	meshwatch string
	keep      bool
}

// errNotFound says that the demonstration ran, and failed.
var errNotFound = errors.New("meshwatch does not say that the time is where it was put")
