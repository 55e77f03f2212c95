package check

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
)

// injection gives a request an id, in the thread's network namespace. The agent can do without.
func injection() Result {
	r := Result{Feature: "request ids for requests without (inject)", State: Works, Why: "a request was given one, in one segment with the rest of it"}
	if err := tryInjection(); err != nil {
		r.State, r.Why = Degraded, err.Error()
		r.Do = "leave `inject` off, as it is by default; else use a kernel with CONFIG_NET_SOCK_MSG and CONFIG_CGROUP_BPF, and mount cgroup2"
	}
	return r
}

func tryInjection() (err error) {
	r, err := bpf.Load(bpf.Options{Sizes: bpf.Sizes{Flights: 1024, Index: 512, Sockets: 256}, Inject: []string{}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var here unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return fmt.Errorf("find out in which network namespace this is: %w", err)
	}
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return fmt.Errorf("listen in the namespace: %w", err)
	}
	defer l.Close()                              //nolint:errcheck // served its purpose
	port := uint16(l.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
	inum := uint32(here.Ino)                     //nolint:gosec // inode numbers of namespaces have 32 bits
	to := map[uint32][]uint16{inum: {port}}      // as if rules redirected to it
	if err := errors.Join(r.Inject.Select(to), r.Inject.Attach()); err != nil {
		return err
	}
	return request(l)
}

// request sends one to a listener of its own, and looks whether it has an id when it comes.
func request(l *net.TCPListener) error {
	c, err := net.DialTimeout("tcp4", l.Addr().String(), patience)
	if err != nil {
		return fmt.Errorf("connect in the namespace: %w", err)
	}
	defer c.Close() //nolint:errcheck // as above
	deadline := time.Now().Add(patience)
	if err := errors.Join(l.SetDeadline(deadline), c.SetDeadline(deadline)); err != nil {
		return err
	}
	s, err := l.Accept()
	if err != nil {
		return fmt.Errorf("accept in the namespace: %w", err)
	}
	defer s.Close() //nolint:errcheck // as above
	text := "GET /meshwatch-check HTTP/1.1\r\nHost: check\r\n\r\n"
	if _, err := io.WriteString(c, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	buf := make([]byte, 1024)
	n, err := s.Read(buf)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if n != len(text)+bpf.InjectedBytes || !bytes.Contains(buf[:n], []byte("\r\n"+bpf.RequestIDHeader+": ")) {
		return fmt.Errorf("the programs are attached, but a request that should have been given an id came as %q", buf[:n])
	}
	return nil
}
