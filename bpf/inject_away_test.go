package bpf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const helperPort = "MESHWATCH_TEST_INJECT_PORT"

// TestMain is also the process that gives requests ids in the network namespace it is started in, until its input ends.
func TestMain(m *testing.M) {
	port, err := strconv.ParseUint(os.Getenv(helperPort), 10, 16)
	if err != nil {
		os.Exit(m.Run())
	}
	if err := help(uint16(port)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func help(port uint16) error {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return err
	}
	r, err := Load(Options{Sizes: DefaultSizes(), Inject: []string{}})
	if err != nil {
		return err
	}
	if err := errors.Join(r.Inject.Select(map[uint32][]uint16{uint32(st.Ino): {port}}), r.Inject.Attach()); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, r.Close())
}

// helper starts one in the test's namespace, and returns once it works.
func helper(t *testing.T, port uint16) (cmd *exec.Cmd, stop io.Closer) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", helperPort, port))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("helper: %q, %v", line, err)
	}
	return cmd, in
}

// load sends requests on connections that live for a while each, and checks every answer.
type load struct {
	sent, withID atomic.Uint64
	failed       atomic.Pointer[error]
}

// ServeHTTP answers with what the request was, so that a byte too many or too few anywhere is seen.
func (l *load) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if ids := r.Header["X-Request-Id"]; len(ids) > 0 {
		l.withID.Add(1)
		if len(ids) != 1 || !injectedLine.MatchString("X-Request-ID: "+ids[0]+"\r\n") {
			err = fmt.Errorf("ids %q", ids)
		}
	}
	if len(r.Header) != 1+len(r.Header["X-Request-Id"])+len(r.Header["Content-Length"])+len(r.Header["Accept-Encoding"]) || err != nil {
		http.Error(w, fmt.Sprint(r.Header, err), http.StatusBadRequest)
		return
	}
	_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
}

// run sends until ctx ends.
func (l *load) run(ctx context.Context, dial func() (net.Conn, error), n int) error {
	for ctx.Err() == nil {
		c, err := dial()
		if err != nil {
			return err
		}
		answers := bufio.NewReader(c)
		for i := range 100 {
			body := strings.Repeat("b", (n*7919+i*104729)%4000)
			if i%10 == 9 {
				body = strings.Repeat("b", 150000)
			}
			path := fmt.Sprintf("/%d/%d", n, i)
			request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
			if _, err := io.WriteString(c, request); err != nil {
				return fmt.Errorf("write: %w", err)
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			got, err := io.ReadAll(resp.Body)
			if want := "POST " + path + " " + body; err != nil || string(got) != want {
				return fmt.Errorf("%d bytes for %d: %.100q, %v", len(got), len(want), got, err)
			}
			l.sent.Add(1)
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Whoever gives requests ids comes, goes and dies under load: no connection notices.
func TestInjectAway(t *testing.T) {
	privileged(t)
	inNewNetns(t)
	s := newSidecar(t, "tcp4", "127.0.0.1:0")
	l := &load{}
	server := &http.Server{Handler: l} //nolint:gosec // of a test
	go func() { _ = server.Serve(s) }()
	t.Cleanup(func() { server.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dials := make(chan chan net.Conn) // sockets are of this thread's namespace
	var running sync.WaitGroup
	const clients = 8
	for n := range clients {
		running.Go(func() {
			err := l.run(ctx, func() (net.Conn, error) {
				answer := make(chan net.Conn)
				dials <- answer
				if c := <-answer; c != nil {
					return c, nil
				}
				return nil, fmt.Errorf("connection %d was refused", n)
			}, n)
			if err != nil {
				l.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	// until serves dials until something holds.
	until := func(what string, holds func() bool) {
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !holds() {
			select {
			case answer := <-dials:
				c, err := net.Dial("tcp4", s.Addr().String())
				if err != nil {
					t.Error(err)
					c = nil
				}
				answer <- c
			case <-tick.C:
			case <-deadline:
				t.Fatalf("not in 20 s: %s", what)
			}
			if err := l.failed.Load(); err != nil {
				t.Fatalf("after %d requests, %d of them with an id: %v", l.sent.Load(), l.withID.Load(), *err)
			}
		}
	}
	for round := range 6 {
		cmd, stop := helper(t, s.port)
		ids := l.withID.Load()
		until("requests are given ids", func() bool { return l.withID.Load() > ids+1000 })
		if round%2 == 0 {
			stop.Close()
		} else if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		if round%2 == 0 && err != nil {
			t.Error(err)
		}
		sent := l.sent.Load()
		until("requests go on", func() bool { return l.sent.Load() > sent+1000 })
	}
	ids, sent := l.withID.Load(), l.sent.Load()
	until("requests go on without ids", func() bool { return l.sent.Load() > sent+1000 })
	if l.withID.Load() != ids {
		t.Errorf("%d requests were given ids, by whom?", l.withID.Load()-ids)
	}
	cancel()
	until("the load ends", func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	t.Logf("%d requests, %d with an id", l.sent.Load(), l.withID.Load())
}
