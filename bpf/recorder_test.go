package bpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// privileged skips where the programs cannot be loaded, or fails where they must.
func privileged(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
		t.Fatal("not root, and MESHWATCH_TEST_PRIVILEGED=1 says that the privileged tests must run")
	}
	t.Skip("loading BPF programs needs root")
}

// inNewNetns moves the test's thread into a network namespace of its own, with lo up.
func inNewNetns(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: Go ends the thread with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	upLoopback(t)
}

// startRecorder records the test's own namespace in full depth.
func startRecorder(t *testing.T, o Options) *Recorder {
	t.Helper()
	r := startEdges(t, o)
	attach(t, r.Netfilter.Attach)
	if err := r.Deep(true); err != nil {
		t.Fatal(err)
	}
	return r
}

// startEdges records the test's own namespace.
func startEdges(t *testing.T, o Options) *Recorder {
	t.Helper()
	privileged(t)
	r, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	inNewNetns(t)
	r.Ring().Exclude(allBut(ownNetns(t)))
	if err := r.Attach(); err != nil {
		t.Fatal(err)
	}
	if r.TC != nil {
		attach(t, func() (*Links, error) { return r.TC.Attach(1) })
	}
	r.Ring().Enable(true)
	return r
}

// allBut are the numbers of all other namespaces: what else goes on on this machine is not recorded.
func allBut(netns uint32) (others []uint32) {
	for n := range uint32(excludedBits) {
		if n != netns%excludedBits {
			others = append(others, n)
		}
	}
	return others
}

func ownNetns(t testing.TB) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

func attach(t *testing.T, f func() (*Links, error)) {
	t.Helper()
	l, err := f()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// recorded are the flights on this port, oldest first, once there are n of them that were read.
func recorded(t *testing.T, r *Recorder, port uint16, n int) []Flight {
	t.Helper()
	var got []Flight
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		got = got[:0]
		for id := uint64(1); id <= r.Ring().Last(); id++ {
			var f Flight
			r.Ring().Copy(&f, id)
			if f.Id == id && uint32(f.Flags)&(FlagSYN|FlagClose) == 0 && (f.SendPort == port || f.SendPeer == port) && f.RecvNs != 0 && f.SendNs != 0 {
				got = append(got, f)
			}
		}
		if len(got) >= n {
			return got
		}
		runtime.Gosched()
	}
	t.Fatalf("recorded %d of %d flights: %+v", len(got), n, got)
	return nil
}

func hooksOf(f Flight) (hooks []int) {
	for _, s := range f.Stamps[:min(int(f.Nstamps), MaxStamps)] {
		hooks = append(hooks, int(s.Place>>28))
	}
	return hooks
}

// pair is a connected pair of TCP sockets on loopback in the test's namespace. Dialled on the test's thread.
func pair(t *testing.T, network, addr string) (client, server net.Conn, port uint16) {
	t.Helper()
	return pairOf(t, &net.ListenConfig{}, network, addr, func(to net.Addr) (net.Conn, error) { return net.Dial(network, to.String()) })
}

// pairOf is pair with a listener of one's own, and one's own way to it.
func pairOf(t *testing.T, lc *net.ListenConfig, network, addr string, dial func(to net.Addr) (net.Conn, error)) (client, server net.Conn, port uint16) {
	t.Helper()
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = dial(ln.Addr())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server, uint16(ln.Addr().(*net.TCPAddr).Port)
}

func say(t *testing.T, from, to net.Conn, msg string) {
	t.Helper()
	if _, err := io.WriteString(from, msg); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(msg))
	if _, err := io.ReadFull(to, buf); err != nil {
		t.Fatal(err)
	}
}

func TestFlightOnLoopback(t *testing.T) {
	edges, full := []int{1, 3, 7}, []int{1, 2, 3, 4, 6, 7}
	sizes := DefaultSizes()
	for name, o := range map[string]struct {
		start func(*testing.T, Options) *Recorder
		opts  Options
		addr  string
		hooks []int
	}{
		"ipv4":            {startEdges, Options{Sizes: sizes}, "127.0.0.1:0", edges},
		"ipv6":            {startEdges, Options{Sizes: sizes}, "[::1]:0", edges},
		"ipv4, full":      {startRecorder, Options{Sizes: sizes}, "127.0.0.1:0", full},
		"ipv6, full":      {startRecorder, Options{Sizes: sizes}, "[::1]:0", full},
		"ipv4, tcx":       {startEdges, Options{Sizes: sizes, TC: true}, "127.0.0.1:0", edges},
		"ipv6, tcx":       {startEdges, Options{Sizes: sizes, TC: true}, "[::1]:0", edges},
		"ipv4, tcx, full": {startRecorder, Options{Sizes: sizes, TC: true}, "127.0.0.1:0", full},
		"no netfilter":    {startEdges, Options{Sizes: sizes, NoNetfilter: true}, "127.0.0.1:0", edges},
	} {
		t.Run(name, func(t *testing.T) {
			r := o.start(t, o.opts)
			client, server, port := pair(t, "tcp", o.addr)
			request := "GET /one HTTP/1.1\r\nHost: x\r\nX-Request-ID: 1\r\n\r\n"
			response := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
			for range 3 {
				say(t, client, server, request)
				say(t, server, client, response)
			}
			flights := recorded(t, r, port, 6)
			if len(flights) != 6 {
				t.Fatalf("%d flights for 6 messages", len(flights))
			}
			for i, f := range flights {
				want := request
				if i%2 == 1 {
					want = response
				}
				head, ok := r.Ring().Head(nil, &f)
				if !ok || string(head) != want {
					t.Errorf("flight %d: head %q (valid %v), want %q", i, head, ok, want)
				}
				if got := hooksOf(f); !equal(got, o.hooks) {
					t.Errorf("flight %d: hooks %v, want %v", i, got, o.hooks)
				}
				if f.End-f.Seq != uint32(len(want)) || f.RecvUpto != f.End {
					t.Errorf("flight %d: range %d to %d, read to %d, want %d bytes", i, f.Seq, f.End, f.RecvUpto, len(want))
				}
				if int(f.SendPid) != os.Getpid() || int(f.RecvPid) != os.Getpid() || f.SendNetns != f.RecvNetns {
					t.Errorf("flight %d: sender %d in %d, receiver %d in %d", i, f.SendPid, f.SendNetns, f.RecvPid, f.RecvNetns)
				}
				if f.SendPort != f.RecvPeer || f.SendPeer != f.RecvPort || f.SendAddr != f.RecvPaddr {
					t.Errorf("flight %d: ends disagree: %+v", i, f)
				}
				if deep := uint32(f.Flags)&FlagDeep != 0; deep != (len(o.hooks) > 3) {
					t.Errorf("flight %d: in full depth: %v", i, deep)
				}
				at := f.Stamps[1].Delta // from TCP to the device, through netfilter
				if !(f.StartNs+uint64(f.Stamps[f.Nstamps-1].Delta) <= f.RecvNs && f.StartNs <= f.SendNs) || at == 0 {
					t.Errorf("flight %d: start %d, sent %d, read %d", i, f.StartNs, f.SendNs, f.RecvNs)
				}
				if i >= 2 && f.Prev != uint32(flights[i-2].Id) {
					t.Errorf("flight %d: previous on its socket is %d, want %d", i, f.Prev, flights[i-2].Id)
				}
			}
		})
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// A write burst is one flight; a bulk transfer both ways makes no flood.
func TestBulkIsFewFlights(t *testing.T) {
	r := startRecorder(t, Options{Sizes: DefaultSizes()})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	const size = 50 << 20
	go func() {
		_, _ = io.CopyN(io.Discard, server, size)
		_, _ = server.Write(bytes.Repeat([]byte("y"), size))
	}()
	if _, err := client.Write([]byte("POST / HTTP/1.1\r\nContent-Length: 52428800\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write(bytes.Repeat([]byte("x"), size)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, client, size-64); err != nil {
		t.Fatal(err)
	}
	got := recorded(t, r, port, 2)
	if len(got) > 10 {
		t.Errorf("%d flights for 50 MB each way, want a handful", len(got))
	}
}

func TestPipelinedAndSplitHeads(t *testing.T) {
	r := startRecorder(t, Options{Sizes: DefaultSizes()})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	one := "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"
	for range 3 { // three writes, nothing read back between
		if _, err := io.WriteString(client, one); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []string{"GET /split HTTP/1.1\r\n", "Host: x\r\n", "\r\n"} {
		if _, err := io.WriteString(client, part); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 3*len(one)+len("GET /split HTTP/1.1\r\nHost: x\r\n\r\n"))
	if _, err := io.ReadFull(server, buf); err != nil { // one read covers them all
		t.Fatal(err)
	}
	var heads []string
	for _, f := range recorded(t, r, port, 6) {
		head, _ := r.Ring().Head(nil, &f)
		heads = append(heads, string(head))
		if cont := uint32(f.Flags)&FlagCont != 0; cont != !strings.HasPrefix(string(head), "GET") {
			t.Errorf("head %q: continues another %v", head, cont)
		}
	}
	if got, want := strings.Join(heads, "|"), one+"|"+one+"|"+one+"|GET /split HTTP/1.1\r\n|Host: x\r\n|\r\n"; got != want {
		t.Errorf("heads %q, want %q", got, want)
	}
}

// Real servers and clients: keep-alive HTTP by net/http, every message recorded, none lost.
func TestHTTPKeepAlive(t *testing.T) {
	r := startRecorder(t, Options{Sizes: DefaultSizes()})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, q.URL.Path) })}
	go srv.Serve(ln) //nolint:errcheck // ends with Close
	defer srv.Close()
	conn, err := net.Dial("tcp", ln.Addr().String()) // on the test's thread, so in its namespace
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	const n = 500
	for range n {
		resp, err := client.Get("http://x/abc")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	// Go listens with MPTCP, whose struct sock is not read: no reader is seen there, unless the kernel has none
	losses, err := r.Losses()
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{"ring-full-of-unfinished", "index-set-full", "too-many-stamps", "ambiguous-sequence"} {
		if losses[reason] != 0 {
			t.Errorf("lost %d by %s", losses[reason], reason)
		}
	}
	if got := r.Ring().Last(); got < 2*n || got > 2*n+10 {
		t.Errorf("%d flights for %d messages", got, 2*n)
	}
}

// A connection of which NAT changes both ports, as it does where their pair is taken, is recorded like any other.
func TestBothPortsChanged(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	const service = 7777
	client, server, port := pairOf(t, &net.ListenConfig{}, "tcp", "127.0.0.1:0", func(to net.Addr) (net.Conn, error) {
		port := to.(*net.TCPAddr).Port
		cmd := exec.Command("nft", "-f", "-") // in this thread's namespace
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`table ip test {
			chain out { type nat hook output priority -100; tcp dport %d redirect to :%d; }
			chain post { type nat hook postrouting priority 100; tcp dport %d snat to 127.0.0.1:40000-40100; }
		}`, service, port, port))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("no NAT here: nft: %v: %s", err, out)
		}
		return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", service))
	})
	if from := server.RemoteAddr().(*net.TCPAddr).Port; from == client.LocalAddr().(*net.TCPAddr).Port {
		t.Fatalf("both ends have port %d: nothing was changed", from)
	}
	say(t, client, server, "GET / HTTP/1.1\r\n\r\n")
	say(t, server, client, "HTTP/1.1 200 OK\r\n\r\n")
	for _, f := range append(recorded(t, r, service, 1), recorded(t, r, port, 1)...) {
		if hooks := hooksOf(f); !slices.Equal(hooks, []int{1, 3, 7}) || f.RecvPid != uint32(os.Getpid()) { //nolint:gosec // positive
			t.Errorf("hooks %v, read by %d", hooks, f.RecvPid)
		}
	}
	losses, err := r.Losses()
	if n := losses["ambiguous-sequence"]; n != 0 || err != nil {
		t.Errorf("%d times ambiguous: %v", n, err)
	}
}

// HTTP/2 is captured whole though a write of it leaves in several packets, some of them after it returned, and the next write begins
// within a frame.
func TestFramesOverSegments(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	const segment = 600 // bytes: ten of them are the first window
	client, server, port := pairOf(t, &net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment) }), err)
	}}, "tcp", "127.0.0.1:0", func(to net.Addr) (net.Conn, error) { return net.Dial("tcp", to.String()) })
	var want []byte
	frame := func(kind byte, size int) {
		want = append(append(want, byte(size>>16), byte(size>>8), byte(size), kind, 0, 0, 0, 0, byte(len(want)|1)), bytes.Repeat([]byte{byte(len(want))}, size)...)
	}
	want = append(want, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...)
	for i := range 60 {
		frame(byte(i%2), 500+i) // DATA, HEADERS
	}
	buf := make([]byte, len(want))
	for rest, n := want, 15_000; len(rest) > 0; rest, n = rest[n:], min(14_001, len(rest)-n) {
		if _, err := client.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, buf[:n]); err != nil {
			t.Fatal(err)
		}
		if n == 15_000 {
			say(t, server, client, "turn") // a message of the other side does not matter
		}
	}
	var got []byte
	flights := recorded(t, r, port, 0)
	for _, f := range flights {
		if f.SendPeer != port {
			continue
		}
		b, ok := r.Ring().Head(nil, &f)
		if !ok || int(f.End-f.Seq) != len(b) || f.SendPid == 0 {
			t.Errorf("a flight of %d bytes by process %d has %d captured", f.End-f.Seq, f.SendPid, len(b))
		}
		got = append(got, b...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d flights with %d bytes captured, want %d", len(flights), len(got), len(want))
	}
	if len(flights) < 5 {
		t.Errorf("%d flights: no write left in several packets", len(flights))
	}
}

// A message that was written while the receiver's window was full leaves later. It has all its bytes, in how many writes it was.
func TestMessageBehindTheWindow(t *testing.T) {
	r := startRecorder(t, Options{Sizes: DefaultSizes()})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	if err := client.(*net.TCPConn).SetWriteBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	message := func(n int) string {
		head := fmt.Sprintf("POST / HTTP/1.1\r\nContent-Length: %06d\r\n\r\n", n)
		return head + strings.Repeat("x", max(n-len(head), 0))
	}
	sent := 0
	for deadline := time.Now().Add(5 * time.Second); ; {
		window := sendWindow(t, client)
		if window == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes fit into the window, and %d more", sent, window)
		}
		say(t, server, client, "turn")
		n, err := io.WriteString(client, message(window)[:window])
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	say(t, server, client, "turn")
	last := message(200000) // more than a segment
	for _, part := range []string{last[:100], last[100:]} {
		if _, err := io.WriteString(client, part); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.CopyN(io.Discard, server, int64(sent+len(last))); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		for id := r.Ring().Last(); id > 0; id-- {
			var f Flight
			if r.Ring().Copy(&f, id); f.SendPeer != port || f.RecvNs == 0 {
				continue
			}
			if f.End-f.Seq == uint32(len(last)) && f.RecvUpto == f.End {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the last message is %d of %d bytes, %d read", f.End-f.Seq, len(last), f.RecvUpto-f.Seq)
			}
			break
		}
	}
}

// sendWindow is how much a socket may send at once, when all that it sent is acknowledged.
func sendWindow(t *testing.T, c net.Conn) (n int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(err, raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
			if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || info.Unacked == 0 {
				break
			}
		}
		n = int(info.Snd_wnd)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
