package proxylog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

func listenStream(address string) (net.Listener, error) {
	if !filepath.IsAbs(address) {
		return net.Listen("tcp", address)
	}
	if err := clear("unix", address); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", address)
	return l, forAll(address, l, err)
}

func listenPacket(address string) (net.PacketConn, error) {
	if !filepath.IsAbs(address) {
		return net.ListenPacket("udp", address)
	}
	if err := clear("unixgram", address); err != nil {
		return nil, err
	}
	l, err := net.ListenPacket("unixgram", address)
	return l, forAll(address, l, err)
}

// forAll lets proxies write to a socket that was made, whatever their user is.
func forAll(path string, made io.Closer, err error) error {
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // see above
		return errors.Join(err, made.Close())
	}
	return nil
}

// clear removes a socket file that nobody has any more, and makes its directory.
func clear(network, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // proxies must come in
		return err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is no socket: remove it, or give another path", path)
	}
	if c, err := net.DialTimeout(network, path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("somebody listens at %s already: is another agent running? Give this one another path", path)
	}
	return os.Remove(path)
}

// callerOf is who is at the other end of a connection.
func callerOf(c net.Conn) journey.Speaker {
	if g, ok := c.(*guarded); ok {
		return g.by
	}
	switch c := c.(type) {
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		if err != nil {
			return journey.Speaker{}
		}
		by := journey.Speaker{}
		_ = raw.Control(func(fd uintptr) { // closed: nobody
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil { //nolint:gosec // a descriptor
				by.Pid = int(cred.Pid)
			}
		})
		return by
	case *net.TCPConn:
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			return journey.Speaker{Addr: a.AddrPort().Addr().Unmap()}
		}
	}
	return journey.Speaker{}
}

// How many connections there may be at once. Each may hold a window and two messages: 1,024 of them, 300 MB at the very worst, for which 16
// speakers must want it.
const (
	mostConnections = 1024
	mostOfPeer      = 64
)

// guard refuses connections beyond what there may be.
type guard struct {
	net.Listener
	refused *loss.Counter
	mu      sync.Mutex
	all     int
	of      map[journey.Speaker]int
}

func newGuard(l net.Listener, refused *loss.Counter) *guard {
	return &guard{Listener: l, refused: refused, of: map[journey.Speaker]int{}}
}

// guarded is a connection that counts.
type guarded struct {
	net.Conn
	by   journey.Speaker
	once sync.Once
	done func()
}

// Accept gives the next one that may be.
func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		by := callerOf(c)
		if g.enter(by) {
			return &guarded{Conn: c, by: by, done: func() { g.leave(by) }}, nil
		}
		g.refused.Add(1)
		_ = c.Close()
	}
}

func (g *guard) enter(by journey.Speaker) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= mostConnections || g.of[by] >= mostOfPeer {
		return false
	}
	g.all++
	g.of[by]++
	return true
}

func (g *guard) leave(by journey.Speaker) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.of[by]--; g.of[by] == 0 {
		delete(g.of, by)
	}
}

// Close lets the next one in.
func (c *guarded) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}
