package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"golang.org/x/sys/unix"
)

// webSockets upgrades, and then sends frames that come back.
func webSockets(t *talker) error {
	return t.each(func(conn net.Conn, in *bufio.Reader) error {
		target := t.target()
		const lines = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
		if _, err := io.WriteString(conn, headOf("GET", target, "", "1.1", lines)); err != nil {
			return err
		}
		resp, err := t.answer(in, target)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("%s was answered by %s", target, resp.Status)
		}
		const frame = "\x81\x84\x00\x00\x00\x00GET " // a text that could begin a request
		for range 3 {
			if _, err := io.WriteString(conn, frame); err != nil {
				return err
			}
			if _, err := io.ReadFull(in, make([]byte, len(frame))); err != nil {
				return fmt.Errorf("read a frame back: %w", err)
			}
		}
		return nil
	})
}

// serverSentEvents reads answers that have no length and come in pieces, two on each connection.
func serverSentEvents(t *talker) error {
	return t.each(func(conn net.Conn, in *bufio.Reader) error {
		for range 2 {
			target := t.target()
			if err := t.ask(conn, in, target, headOf("GET", target, "events=5", "1.1", "")); err != nil {
				return err
			}
		}
		return nil
	})
}

// continues sends a body once it is told to.
func continues(t *talker) error {
	return t.each(func(conn net.Conn, in *bufio.Reader) error {
		target := t.target()
		if _, err := io.WriteString(conn, headOf("POST", target, "", "1.1", "Expect: 100-continue\r\nContent-Length: 4\r\n")); err != nil {
			return err
		}
		line, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			return fmt.Errorf("%s: %q instead of 100: %w", target, line, err)
		}
		if _, err := in.ReadString('\n'); err != nil {
			return err
		}
		return t.ask(conn, in, target, "body")
	})
}

// pipelines sends four requests before it reads an answer: in one write, and in four.
func pipelines(t *talker) error {
	const depth = 4
	return t.each(func(conn net.Conn, in *bufio.Reader) error {
		for _, apart := range []bool{false, true} {
			var targets []string
			var text string
			for i := range depth {
				targets = append(targets, fmt.Sprintf("%s-%d", t.target(), i))
				text += headOf("GET", targets[i], "", "1.1", "")
				if apart || i == depth-1 {
					if _, err := io.WriteString(conn, text); err != nil {
						return err
					}
					text = ""
				}
			}
			for _, target := range targets {
				if _, err := t.answer(in, target); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// http10 has answers that end with the connection.
func http10(t *talker) error {
	return t.each(func(conn net.Conn, in *bufio.Reader) error {
		target := t.target()
		return t.ask(conn, in, target, headOf("GET", target, "", "1.0", ""))
	})
}

// trailers has chunks and trailers both ways, two requests on each connection.
func trailers(t *talker) error {
	return t.each(func(conn net.Conn, in *bufio.Reader) error {
		for range 2 {
			target := t.target()
			head := headOf("POST", target, "trailer=1", "1.1", "Transfer-Encoding: chunked\r\nTrailer: X-End\r\n")
			if _, err := io.WriteString(conn, head); err != nil {
				return err
			}
			if err := t.ask(conn, in, target, "4\r\nbody\r\n4\r\nmore\r\n0\r\nX-End: here\r\n\r\n"); err != nil {
				return err
			}
		}
		return nil
	})
}

// openConnections opens some and uses them once: the agent does not know what was before it.
func openConnections(t *talker) error {
	for i := range attempts {
		conn, err := t.connect()
		if err != nil {
			return err
		}
		early := fmt.Sprintf("/early-%s-%d", t.name, i)
		if err := t.ask(conn, bufio.NewReader(conn), early, headOf("GET", early, "", "1.1", "")); err != nil {
			return err
		}
		delete(t.asked, early) // no agent has seen it
	}
	return nil
}

// useConnections uses them again, several times.
func useConnections(t *talker) error {
	for range 3 {
		for _, conn := range t.open {
			if err := t.get(conn); err != nil {
				return err
			}
		}
	}
	return nil
}

// samePort connects from one port again and again: each connection ends by a reset, so that the port is free at once.
func samePort(t *talker) error {
	const port = 23456 // below those that the kernel gives
	d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Control: reuseAddress}
	d.SetMultipathTCP(false)
	for range attempts {
		conn, err := t.dial(&d)
		if err != nil {
			return err
		}
		if err := t.get(conn); err != nil {
			return err
		}
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn() // closed without TLS's last word
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetLinger(0)
		}
		if err := errors.Join(err, conn.Close()); err != nil {
			return err
		}
	}
	return nil
}

// multipath uses MPTCP sockets; servers in the lab do not speak it, so the connections fall back.
func multipath(t *talker) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		t.note = fmt.Sprintf("not tried, this kernel has no MPTCP: %v  ", err)
		return nil
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	var d net.Dialer
	d.SetMultipathTCP(true)
	for range attempts {
		conn, err := t.dial(&d)
		if err != nil {
			return err
		}
		if err := t.get(conn); err != nil {
			return err
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}

// get asks once on a connection.
func (t *talker) get(conn net.Conn) error {
	target := t.target()
	return t.ask(conn, bufio.NewReader(conn), target, headOf("GET", target, "", "1.1", ""))
}
