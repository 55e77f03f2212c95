package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heard is what both ends of a connection saw.
type heard struct {
	writes   [][]byte // that the client was told were taken
	received []byte   // by the server
	answers  []byte   // received by the client
	errs     []string // that the client met
}

// hold does what a talk says.
func (k *talk) hold(t *testing.T, s *sidecar) (h heard) {
	client, server := s.dialSized(t, k.small)
	defer client.Close()
	defer server.Close()
	received := make(chan []byte, 1)
	go func() { received <- readAll(server, k.small) }()
	steps := k.steps
	if k.end == isReset {
		steps = steps[:len(steps)-1]
	}
	for i := range steps {
		writes, err := steps[i].write(t, client)
		if err != nil {
			t.Fatalf("write: %v", err)
		}
		h.writes = append(h.writes, writes...)
		h.answers = append(h.answers, exchangeAnswer(t, client, server, steps[i].response)...)
	}
	switch k.end {
	case resets:
		reset(t, client)
	case isReset:
		reset(t, server)
		known(t, client)
		_, first := k.steps[len(k.steps)-1].write(t, client)
		_, second := k.steps[len(k.steps)-1].write(t, client) // says that it was reset once more, in place of a broken pipe
		h.errs = append(h.errs, fmt.Sprint(errors.Is(first, unix.ECONNRESET)), fmt.Sprint(second != nil))
	default:
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		h.received = <-received
		h.answers = append(h.answers, exchangeAnswer(t, client, server, 3000)...)
		return h
	}
	h.received = <-received
	return h
}

// dialSized is dial, perhaps with a buffer that is soon full.
func (s *sidecar) dialSized(t *testing.T, small bool) (client, server *net.TCPConn) {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		if !small {
			return nil
		}
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4608) })
	}}
	c, err := d.Dial("tcp4", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

// readAll takes everything until the connection ends, slowly where buffers are small.
func readAll(c net.Conn, small bool) (all []byte) {
	buf := make([]byte, 1<<16)
	if small {
		buf = buf[:777]
	}
	for {
		n, err := c.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return all
		}
	}
}

// exchangeAnswer has the server send n bytes and the client read them.
func exchangeAnswer(t *testing.T, client, server net.Conn, n int) []byte {
	if n == 0 {
		return nil
	}
	if _, err := server.Write(bytes.Repeat([]byte("answer "), n)[:n]); err != nil {
		t.Fatal(err)
	}
	return []byte(read(t, client, n))
}

func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
}

// known waits until a socket knows that it was reset.
func known(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw(t, c, func(fd int) {
		for deadline := time.Now().Add(5 * time.Second); ; {
			fds := []unix.PollFd{{Fd: int32(fd)}}
			if n, err := unix.Poll(fds, 100); n > 0 && err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("the client does not hear that it was reset")
			}
		}
	})
}

func raw(t *testing.T, c *net.TCPConn, f func(fd int)) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// write writes the step's bytes, and says what of it each call took.
func (s *step) write(t *testing.T, c *net.TCPConn) (writes [][]byte, err error) {
	t.Helper()
	switch s.how {
	case byVector:
		half := len(s.bytes) / 2
		_, err := (&net.Buffers{s.bytes[:half:half], s.bytes[half:]}).WriteTo(c)
		return [][]byte{s.bytes}, err
	case byMore:
		return s.each(c, func(fd int, b []byte) (int, error) {
			return unix.SendmsgN(fd, b, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
		})
	case bySend:
		file := memory(t, s.bytes)
		defer file.Close()
		return s.each(c, func(fd int, b []byte) (int, error) { return unix.Sendfile(fd, int(file.Fd()), nil, len(b)) })
	case byPieces:
		return s.each(c, func(fd int, b []byte) (int, error) { return unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL) })
	default:
		_, err := c.Write(s.bytes)
		return [][]byte{s.bytes}, err
	}
}

// each calls until all is taken.
func (s *step) each(c *net.TCPConn, call func(fd int, b []byte) (int, error)) (writes [][]byte, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	left := s.bytes
	var callErr error
	err = rc.Write(func(fd uintptr) bool {
		for len(left) > 0 {
			n, err := call(int(fd), left)
			if errors.Is(err, unix.EAGAIN) {
				return false
			}
			if err != nil {
				callErr = os.NewSyscallError("send", err)
				return true
			}
			writes = append(writes, left[:n:n])
			left = left[n:]
		}
		return true
	})
	return writes, errors.Join(err, callErr)
}

// memory is a file with these bytes.
func memory(t *testing.T, b []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("bytes", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "bytes")
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}
