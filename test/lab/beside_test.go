package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestKept is a lab that outlives its builder: what runs beside it and its load go with Clean, by their records.
func TestKept(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarHAProxy, Detached: true})
	if err := l.StartLoad(Load{Connections: 2, QPS: 50}); err != nil {
		t.Fatal(err)
	}
	p, err := l.Beside("watcher", "/bin/sh", "-c", "echo $MESHWATCH_LAB $PWD; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watcher's output", func() bool {
		log, _ := os.ReadFile(l.LogFile(p)) //nolint:errcheck // not yet there
		return strings.HasPrefix(string(log), l.ID+" /")
	})
	own, _ := os.Readlink("/proc/self/ns/net")                              //nolint:errcheck // then they differ
	its, _ := os.Readlink(filepath.Join("/proc", itoa(p.PID), "ns", "net")) //nolint:errcheck // then they differ
	if own != its || !p.Running() {
		t.Errorf("the watcher is not beside the lab: in %s, not %s", its, own)
	}
	first, err := l.Requests()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests of the load", func() bool { n, err := l.Requests(); return err == nil && n > first+10 })
	procs, err := l.Processes()
	if err != nil || len(procs) != 9 {
		t.Fatalf("%d processes, %v: want 9", len(procs), err)
	}
	if err := Clean(l.ID); err != nil {
		t.Fatal(err)
	}
	gone(t, l.ID, procs)
}

func TestOthers(t *testing.T) {
	want := []string{"mw[^0]*", "mw0[^a]*", "mw0a[^1]*", "mw0a1[^b]*"}
	if diff := cmp.Diff(want, (&Lab{ID: "0a1b"}).Others()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
