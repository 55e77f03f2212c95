package proxylog

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

const (
	mostLine = 8 << 10 // bytes; HAProxy's own limit is 1,024 unless `log … len` says more
	pause    = 10 * time.Millisecond
)

// packetConn is what datagrams come from.
type packetConn interface {
	net.PacketConn
	syscall.Conn
}

// serveHAProxy begins to listen for lines.
func (s *Server) serveHAProxy(address string) error {
	l, err := listenPacket(address)
	if err != nil {
		return err
	}
	c, ok := l.(packetConn)
	if !ok {
		return errors.Join(errors.New("no datagrams there"), l.Close())
	}
	d, err := newDatagrams(c)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	stop := make(chan struct{})
	s.serving.Go(func() {
		for s.datagram(d, stop) {
		}
	})
	s.closers = append(s.closers, func() error {
		close(stop)
		err := l.Close()
		if filepath.IsAbs(address) {
			err = errors.Join(err, os.Remove(address))
		}
		return err
	})
	return nil
}

// datagrams reads them, each with who sent it.
type datagrams struct {
	raw     syscall.RawConn
	buffer  [mostLine]byte
	control [256]byte
	dropped uint32 // by the kernel, as it said last
}

func newDatagrams(c packetConn) (*datagrams, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	d := &datagrams{raw: raw}
	e := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)) //nolint:gosec // a descriptor
		if errors.Is(err, unix.EOPNOTSUPP) {                                                                                                                    // only unix sockets have credentials
			err = nil
		}
	})
	return d, errors.Join(e, err)
}

// datagram takes one, and says whether there may be more.
func (s *Server) datagram(d *datagrams, stop <-chan struct{}) bool {
	n, by, long, err := d.read(s)
	switch {
	case err != nil:
		select {
		case <-stop:
		default:
			s.opts.Log.Error("no longer listening for HAProxy's log", "error", err)
		}
		return false
	case long:
		s.lost.tooLong.Add(1)
		return true
	}
	if s.line(d.buffer[:n], by, time.Now()) { // the kernel keeps or drops what comes meanwhile
		select {
		case <-stop:
			return false
		case <-time.After(pause):
		}
	}
	return true
}

// read waits for a datagram. long says that its end was cut off.
func (d *datagrams) read(s *Server) (n int, by journey.Speaker, long bool, err error) {
	var oobn, flags int
	var from unix.Sockaddr
	e := d.raw.Read(func(fd uintptr) bool {
		n, oobn, flags, from, err = unix.Recvmsg(int(fd), d.buffer[:], d.control[:], 0) //nolint:gosec // a descriptor
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err = errors.Join(e, err); err != nil {
		return 0, by, false, err
	}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		by = s.owners.again("udp", netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port)), time.Now()) //nolint:gosec // a port
	case *unix.SockaddrInet6:
		by = s.owners.again("udp", netip.AddrPortFrom(netip.AddrFrom16(from.Addr), uint16(from.Port)), time.Now()) //nolint:gosec // a port
	}
	overIP := by != (journey.Speaker{})
	messages, err := unix.ParseSocketControlMessage(d.control[:oobn])
	if err != nil {
		return 0, by, false, err
	}
	for i := range messages {
		m := &messages[i]
		if cred, err := unix.ParseUnixCredentials(m); err == nil && !overIP {
			by.Pid = int(cred.Pid)
		}
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4 {
			now := binary.NativeEndian.Uint32(m.Data)
			s.lost.kernel.Add(uint64(now - d.dropped))
			d.dropped = now
		}
	}
	return n, by, flags&unix.MSG_TRUNC != 0, nil
}
