package control

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
)

func TestSocketIsPrivate(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	socket, s := serve(t, &fake{})
	for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o755} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

func TestSecondAgent(t *testing.T) {
	socket, _ := serve(t, &fake{})
	_, err := Claim(socket)
	var running *RunningError
	if !errors.As(err, &running) || running.Pid != os.Getpid() {
		t.Fatalf("got %v", err)
	}
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Errorf("the first one suffered: %v", err)
	}
}

// Of many agents that start at once one gets the socket, also where a dead one left its file.
func TestOneOfMany(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "mw.sock")
	leaveStale(t, socket)
	var wg sync.WaitGroup
	won := make(chan *Server, 20)
	for range 20 {
		wg.Go(func() {
			if s, err := Claim(socket); err == nil {
				s.Serve(&fake{}, journeytest.Epoch, slog.New(slog.DiscardHandler))
				won <- s
			} else if running := (*RunningError)(nil); !errors.As(err, &running) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(won)
	if len(won) != 1 {
		t.Errorf("%d agents have the socket", len(won))
	}
	for s := range won {
		_ = s.Close()
	}
}

// leaveStale makes a socket file that nobody answers at, as a killed agent does.
func leaveStale(t *testing.T, socket string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestInTheWay(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "mw.sock")
	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(socket); err == nil || !strings.Contains(err.Error(), "not a socket itself") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(socket); err != nil || string(b) != "precious" {
		t.Errorf("the file suffered: %q, %v", b, err)
	}
}
