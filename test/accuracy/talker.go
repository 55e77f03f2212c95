package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/nets"
)

// talker is the client of one oddity, to one address. Every request has a target of its own, which apps hand on.
type talker struct {
	ctx     context.Context
	lab     *lab.Lab
	oddity  oddity
	name    string
	address string
	legs    int            // of each request
	asked   map[string]int // target → status, of what was answered
	note    string
	open    []net.Conn // for close
}

// talkers are two for each oddity.
func talkers(ctx context.Context, l *lab.Lab) (all []*talker) {
	odd, _ := l.Pod("odd")
	_, gateway, _ := strings.Cut(l.GatewayURL(), "://")
	ip := odd.V4
	if l.Options.IPv6 {
		ip = odd.V6
	}
	for _, o := range theOddities() {
		for _, way := range []struct {
			name, address string
			legs          int
		}{
			{"", netip.AddrPortFrom(ip, 8080).String(), 1},
			{"_mesh", gateway, 3}, // to the gateway, the sidecar, the app, which calls nobody
		} {
			all = append(all, &talker{ctx: ctx, lab: l, oddity: o, name: o.name + way.name, address: way.address, legs: way.legs, asked: map[string]int{}})
		}
	}
	return all
}

func (t *talker) close() {
	for _, c := range t.open {
		_ = c.Close()
	}
}

// target is a new one.
func (t *talker) target() string { return fmt.Sprintf("/%s-%d", t.name, len(t.asked)) }

// dial connects, by TLS where the lab speaks it, until close at the latest.
func (t *talker) dial(d *net.Dialer) (net.Conn, error) {
	client, _ := t.lab.Pod("client")
	var conn net.Conn
	err := nets.Named(client.Netns).Do(func() (err error) {
		conn, err = d.DialContext(t.ctx, "tcp", t.address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.address, err)
	}
	if config := t.lab.ClientTLS(); config != nil {
		if config.ServerName, _, err = net.SplitHostPort(t.address); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		conn = tls.Client(conn, config)
	}
	t.open = append(t.open, conn)
	return conn, conn.SetDeadline(time.Now().Add(time.Minute))
}

// connect is dial with a plain TCP socket.
func (t *talker) connect() (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return t.dial(&d)
}

// headOf is that of a request for a target, with more header lines and a query: the app calls nobody.
func headOf(method, target, query, version, lines string) string {
	return fmt.Sprintf("%s %s?call=&%s HTTP/%s\r\nHost: odd.demo\r\n%s\r\n", method, target, query, version, lines)
}

// answer reads one, and notes it for the target.
func (t *talker) answer(in *bufio.Reader, target string) (*http.Response, error) {
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", target, err)
	}
	t.asked[target] = resp.StatusCode
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", target, err)
	}
	return resp, nil
}

// ask sends text, which asks for a target, and reads the answer.
func (t *talker) ask(conn net.Conn, in *bufio.Reader, target, text string) error {
	if _, err := io.WriteString(conn, text); err != nil {
		return fmt.Errorf("ask for %s: %w", target, err)
	}
	resp, err := t.answer(in, target)
	if err == nil && resp.StatusCode != okay {
		err = fmt.Errorf("%s was answered by %s", target, resp.Status)
	}
	return err
}

const attempts = 50 // connections of each oddity

// each gives fn a connection of its own, several times.
func (t *talker) each(fn func(conn net.Conn, in *bufio.Reader) error) error {
	for range attempts {
		conn, err := t.connect()
		if err != nil {
			return err
		}
		if err := errors.Join(fn(conn, bufio.NewReader(conn)), conn.Close()); err != nil {
			return err
		}
	}
	return nil
}

// reuseAddress allows a local address that was just in use.
func reuseAddress(_, _ string, raw syscall.RawConn) error {
	var err error
	return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
}
