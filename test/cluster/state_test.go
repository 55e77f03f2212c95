package cluster

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/state"
)

func TestLock(t *testing.T) {
	want(t)
	empty(t)
	unlock, err := lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Up(ctxWithin(t, 100*time.Millisecond), Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("building while another does: %v", err)
	}
	unlock()
	if unlock, err = lock(ctxWithin(t, soon)); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestRestart: after a restart of the machine there is the state of a cluster and nothing else. It is no cluster that is up, and
// nothing to be told to take down.
func TestRestart(t *testing.T) {
	want(t)
	empty(t)
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := state.Write(path("cluster.json"), &Cluster{Options: Options{Nodes: 1}, Ready: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(); err == nil || !strings.Contains(err.Error(), "make cluster") {
		t.Errorf("open: %v", err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop() // building it again need not come far
	if _, err := Up(stopped, Options{Nodes: 1}); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "cluster-down") {
		t.Errorf("the cluster was not built again: %v", err)
	}
	if exists(stateDir) {
		t.Error("a cluster that did not come up left its state")
	}
}
