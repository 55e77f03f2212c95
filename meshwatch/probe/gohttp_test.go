package probe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/tlsscan"
)

func privileged(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
		t.Fatal("not root, and MESHWATCH_TEST_PRIVILEGED=1 says that the privileged tests must run")
	}
	t.Skip("loading BPF programs needs root")
}

// program builds the Go program that bpf's tests record, without symbols.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gohttp")
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "../../bpf/testdata/gohttp").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// manage runs a Manager until the test ends, with all probes taken off then.
func manage(t *testing.T, r *bpf.Recorder) *Manager {
	t.Helper()
	m := New(tlsscan.New(), Options{GoHTTP: r.GoHTTP, Stepped: 1, Losses: &loss.Set{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

// eventually waits until the program's net/http is as wanted, or with nil until the program is gone.
func eventually(t *testing.T, m *Manager, path, what string, ok func(*HTTP) bool) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		list := m.Binaries()
		i := slices.IndexFunc(list, func(b Binary) bool { return b.Path == path })
		switch {
		case i < 0 && ok == nil, i >= 0 && ok != nil && ok(list[i].HTTP):
			return
		case i < 0:
			last = "it is not listed"
		default:
			last = fmt.Sprintf("%+v", list[i].HTTP)
		}
	}
	t.Fatalf("%s: no: %s", what, last)
}

// record loads the recorder, which records until the test ends.
func record(t *testing.T) *bpf.Recorder {
	t.Helper()
	r, err := bpf.Load(bpf.Options{Sizes: bpf.DefaultSizes()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.Attach(); err != nil {
		t.Fatal(err)
	}
	r.Ring().Enable(true)
	return r
}

// A Go program that runs gets its probes, though it has no symbols, and each of its requests its goroutine.
func TestNetHTTP(t *testing.T) {
	privileged(t)
	r := record(t)
	m := manage(t, r)
	path := program(t)
	works, waits := startProgram(t, path), startProgram(t, path)
	eventually(t, m, path, "has probes", func(h *HTTP) bool { return h != nil && h.Probed })
	works.end(t)
	const requests = 8 * 5 * 3
	eventually(t, m, path, "all requests have their goroutine", func(h *HTTP) bool { return h != nil && h.Requests == requests && h.Tied == requests })
	waits.end(t)
	for deadline := time.Now().Add(30 * time.Second); r.GoHTTP.Known() > 0; {
		if time.Now().After(deadline) {
			t.Fatal("a process is known though it is gone")
		}
	}
	eventually(t, m, path, "is no longer listed", nil)
}

// running is the program, which waits for its input to end.
type running struct {
	cmd *exec.Cmd
	in  io.Closer
	out strings.Builder
}

func startProgram(t *testing.T, path string) *running {
	t.Helper()
	p := &running{cmd: exec.Command(path, "children", "tcp", "8", "5", "0")}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// end has the program do its work, and waits for it.
func (p *running) end(t *testing.T) {
	t.Helper()
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, p.out.String())
	}
}
