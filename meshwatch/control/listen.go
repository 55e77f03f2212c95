package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RunningError says that another agent has the socket.
type RunningError struct {
	Socket string
	Pid    int // 0: it did not say
}

func (e *RunningError) Error() string {
	who := "an agent"
	if e.Pid != 0 {
		who = fmt.Sprintf("an agent (pid %d)", e.Pid)
	}
	return fmt.Sprintf("%s already answers at %s: stop it first (a node needs only one), or give this one another socket with --control", who, e.Socket)
}

// listen makes the socket with mode 0600, in a directory that is made where missing. A socket file that nobody answers at is
// replaced; one that somebody does is a *RunningError. Closing the listener removes the file.
func listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // others may see that there is an agent
		return nil, fmt.Errorf("make the directory of the control socket: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clear(path); err != nil {
		return nil, err
	}
	// bind(2) gives the file the socket's own mode, so that at no moment others may connect.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		if err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) }); err != nil { //nolint:gosec // a descriptor
			return err
		}
		return chmod
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	return l, nil
}

// lock keeps two agents that start at once from clearing each other's socket. Whoever has it holds it for milliseconds.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, fmt.Errorf("open the directory of the control socket: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the directory of the control socket: %w", err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}

// clear removes a socket file that an agent left behind.
func clear(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the control socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way of the control socket and not a socket itself: remove it, or set control.socket", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return &RunningError{Socket: path, Pid: pidAt(path)}
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the control socket of an agent that is gone: %w", err)
	}
	return nil
}

func pidAt(path string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := NewClient(path).Status(ctx)
	if err != nil {
		return 0
	}
	return s.Pid
}
