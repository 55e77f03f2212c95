// Command traffic is the bench's own load: a server, and a client that keeps it busy in one of several ways. It is as cheap as
// Go can be, so that what is measured is the network between the two.
//
//	traffic -kind KIND -page FILE -listen ADDRESS
//	traffic -kind KIND -page FILE -to ADDRESS [-connections N] [-workers N] [-rate PER_SECOND]
//
// Kinds: http (requests on connections that stay), churn (a connection per request), bulk (bytes in one direction), raw (64 bytes
// there and back, which are no HTTP), idle (connections, and nothing on them).
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// page is shared with the bench through a file: it reads there what has happened, at no cost. ../page.go has the same.
type page struct {
	served    atomic.Uint64 // the server's: requests, messages, or bytes of a bulk transfer
	_         [56]byte
	failed    atomic.Uint64 // the client's: requests without the answer that they should have
	_         [56]byte
	connected atomic.Uint64 // the client's: connections that it has opened
}

func openPage(name string) (*page, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open shared page: %w", err)
	}
	defer f.Close() //nolint:errcheck // the mapping stays
	mem, err := syscall.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(page{})), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared page %s: %w", name, err)
	}
	return (*page)(unsafe.Pointer(&mem[0])), nil
}

type options struct {
	kind, page, listen, to string
	tls                    bool
	connections, workers   int
	rate                   float64
}

func main() {
	var o options
	flag.BoolVar(&o.tls, "tls", false, "speak TLS, and trust anyone")
	flag.StringVar(&o.kind, "kind", "http", "http, churn, bulk, raw or idle")
	flag.StringVar(&o.page, "page", "", "file of the shared page")
	flag.StringVar(&o.listen, "listen", "", "address to serve on")
	flag.StringVar(&o.to, "to", "", "address to send to")
	flag.IntVar(&o.connections, "connections", 1, "connections, which take turns")
	flag.IntVar(&o.workers, "workers", 0, "most requests at a time (default: one for each connection)")
	flag.Float64Var(&o.rate, "rate", 0, "requests a second of all workers together; 0: as fast as answers come")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	p, err := openPage(o.page)
	if err != nil {
		return err
	}
	if o.listen != "" {
		return serve(ctx, o, p)
	}
	return send(ctx, o, p)
}

func serve(ctx context.Context, o options, p *page) error {
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(false)
	lis, err := cfg.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = lis.Close() })()
	for {
		conn, err := lis.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close() //nolint:errcheck // nothing was promised
			switch o.kind {
			case "bulk":
				swallow(conn, p)
			case "raw":
				echo(conn, p)
			default:
				answer(conn, p)
			}
		}()
	}
}

func swallow(conn net.Conn, p *page) {
	buf := make([]byte, 256<<10)
	for {
		n, err := conn.Read(buf)
		p.served.Add(uint64(n)) //nolint:gosec // a length
		if err != nil {
			return
		}
	}
}

// message is what raw sends: nothing that starts as HTTP or TLS does.
var message = bytes.Repeat([]byte{0, 1, 2, 3, 0xfe, 0xff, 7, 8}, 8)

func echo(conn net.Conn, p *page) {
	buf := make([]byte, len(message))
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return
		}
		p.served.Add(1)
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

const (
	request   = "GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: traffic\r\n\r\n"
	requestTo = "GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: traffic\r\nConnection: close\r\n\r\n"
	response  = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
)

// small is a reader's buffer: ten thousand connections are to fit into memory.
const small = 512

// answer serves requests without a body. Who asks it to close gets that: the port in TIME_WAIT is then the server's, and the
// client does not run out of its own.
func answer(conn net.Conn, p *page) {
	in := bufio.NewReaderSize(conn, small)
	closing := false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		if bytes.HasPrefix(line, []byte("Connection: close")) {
			closing = true
		}
		if len(line) > 2 {
			continue
		}
		p.served.Add(1)
		if _, err := io.WriteString(conn, response); err != nil || closing {
			return
		}
	}
}

func send(ctx context.Context, o options, p *page) error {
	if o.workers == 0 {
		o.workers = o.connections
	}
	var wg sync.WaitGroup
	errs := make([]error, o.workers)
	for i := range o.workers {
		wg.Go(func() { errs[i] = (&worker{o: o, p: p, number: i}).run(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// worker sends one request after the other, on its share of the connections in turn.
type worker struct {
	o      options
	p      *page
	number int
	conns  []*connection
}

type connection struct {
	net.Conn
	in *bufio.Reader
}

func dial(ctx context.Context, to string, secure bool) (*connection, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	if secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // what is measured is not who answers
	}
	return &connection{c, bufio.NewReaderSize(c, small)}, nil
}

func (w *worker) run(ctx context.Context) error {
	defer func() {
		for _, c := range w.conns {
			_ = c.Close()
		}
	}()
	for i := w.number; i < w.o.connections && w.o.kind != "churn"; i += w.o.workers {
		c, err := dial(ctx, w.o.to, w.o.tls)
		if err != nil {
			return err
		}
		w.conns = append(w.conns, c)
		w.p.connected.Add(1)
	}
	defer context.AfterFunc(ctx, func() {
		for _, c := range w.conns {
			_ = c.SetDeadline(time.Now())
		}
	})()
	if w.o.kind == "idle" {
		<-ctx.Done()
		return nil
	}
	return w.loop(ctx)
}

func (w *worker) loop(ctx context.Context) error {
	pause := time.Duration(0)
	if w.o.rate > 0 {
		pause = time.Duration(float64(time.Second) * float64(w.o.workers) / w.o.rate)
	}
	next := time.Now().Add(pause * time.Duration(w.number) / time.Duration(w.o.workers)) // workers do not send together
	block := make([]byte, 128<<10)
	for i := 0; ctx.Err() == nil; i++ {
		if err := until(ctx, next); err != nil {
			return nil
		}
		if next = next.Add(pause); time.Since(next) > time.Second { // what is that late is not made up for
			next = time.Now()
		}
		if err := w.one(ctx, i, block); err != nil && ctx.Err() == nil {
			w.p.failed.Add(1)
			if w.o.kind != "churn" {
				return err // the connection is of no more use
			}
		}
	}
	return nil
}

func until(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (w *worker) one(ctx context.Context, i int, block []byte) error {
	if w.o.kind == "churn" {
		c, err := dial(ctx, w.o.to, w.o.tls)
		if err != nil {
			return err
		}
		defer c.Close() //nolint:errcheck // answered
		return c.ask(requestTo)
	}
	c := w.conns[i%len(w.conns)]
	switch w.o.kind {
	case "bulk":
		_, err := c.Write(block)
		return err
	case "raw":
		if _, err := c.Write(message); err != nil {
			return err
		}
		_, err := io.ReadFull(c.in, block[:len(message)])
		return err
	}
	return c.ask(request)
}

// ask sends a request and reads its answer to the end.
func (c *connection) ask(text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", r.StatusCode)
	}
	return r.Body.Close()
}
