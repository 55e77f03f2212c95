package proxylog

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// HAProxy's rings send lines over a stream, each behind its length (RFC 6587, octet counting). Unlike a datagram none is lost for want of
// room: HAProxy keeps what the agent has not read, and drops its oldest where that does not come to it.

const (
	mostDigits  = 5                // of a length: what is skipped is not free either
	frameWithin = 30 * time.Second // that a line may take to come once it began
)

// errFraming says that what came is no length: where the next line begins is not known.
var errFraming = errors.New("not a line behind its length")

// serveRing begins to listen for lines over a stream.
func (s *Server) serveRing(address string) error {
	l, err := listenStream(address)
	if err != nil {
		return err
	}
	g := newGuard(l, s.lost.connections)
	ctx, stop := context.WithCancel(context.Background())
	s.serving.Go(func() {
		for {
			c, err := g.Accept()
			if err == nil {
				s.serving.Go(func() { s.ring(ctx, c) })
				continue
			}
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, net.ErrClosed) {
				s.opts.Log.Error("no longer listening for HAProxy's log", "address", address, "error", err)
				return
			}
			wait(ctx, slowDown) // out of descriptors
		}
	})
	s.closers = append(s.closers, func() error { stop(); return l.Close() })
	return nil
}

// ring takes what comes on a connection, until it or the server ends.
func (s *Server) ring(ctx context.Context, c net.Conn) {
	end := func() { _ = c.Close() } // again does no harm
	defer context.AfterFunc(ctx, end)()
	defer end()
	defer wait(ctx, slowDown) // who comes again and again does so as often
	by := s.speakerOn(c)
	r := bufio.NewReaderSize(c, mostLine)
	for ctx.Err() == nil {
		if _, err := r.Peek(1); err != nil { // it may have nothing to say for long
			return
		}
		if err := c.SetReadDeadline(time.Now().Add(frameWithin)); err != nil {
			return
		}
		line, err := frame(r)
		switch {
		case err == nil:
			if s.line(line, by, time.Now()) {
				wait(ctx, slowDown)
			}
		case errors.Is(err, bufio.ErrBufferFull):
			s.lost.tooLong.Add(1)
			wait(ctx, slowDown)
		case errors.Is(err, errFraming), errors.Is(err, os.ErrDeadlineExceeded):
			s.lost.malformed.Add(1)
			return
		default:
			return
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			return
		}
	}
}

// speakerOn is who is at the other end of a connection, by its process if that is found.
func (s *Server) speakerOn(c net.Conn) journey.Speaker {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return s.owners.speaker("tcp", a.AddrPort(), time.Now())
	}
	return callerOf(c)
}

// frame reads the next line, which is valid until the next one is read. bufio.ErrBufferFull: it was longer than the reader's buffer, and is
// skipped; errFraming: it has no length.
func frame(r *bufio.Reader) ([]byte, error) {
	length := 0
	for digits := 0; ; digits++ {
		b, err := r.ReadByte()
		switch {
		case err != nil:
			return nil, err
		case b == ' ' && length > 0:
			return body(r, length)
		case b < '0' || b > '9' || digits == mostDigits || b == '0' && digits == 0:
			return nil, errFraming
		}
		length = 10*length + int(b-'0')
	}
}

// body reads what a length is said of.
func body(r *bufio.Reader, length int) ([]byte, error) {
	line, err := r.Peek(min(length, r.Size()))
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if _, err := r.Discard(length); err != nil {
		return nil, err
	}
	if length > r.Size() {
		return nil, bufio.ErrBufferFull
	}
	return line, nil // its bytes stay until the next read
}
