package bpf

import (
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const plainGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func segments(t *testing.T, c net.Conn) (n uint32) {
	t.Helper()
	raw(t, c.(*net.TCPConn), func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		n = info.Data_segs_out
	})
	return n
}

// A message with a line is one segment, and one flight that begins and ends where it does.
func TestInjectedFlight(t *testing.T) {
	r, s := startInject(t)
	client, server := s.dial(t)
	const response = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, request := range []string{plainGet, "POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000), plainGet} {
		before := segments(t, client)
		if _, err := io.WriteString(client, request); err != nil {
			t.Fatal(err)
		}
		if without(t, read(t, server, len(request)+InjectedBytes)) != request {
			t.Error("another request came")
		}
		if n := segments(t, client) - before; n != 1 {
			t.Errorf("%d bytes and a line left in %d segments", len(request), n)
		}
		say(t, server, client, response)
	}
	flights := recorded(t, r, s.port, 6)
	if len(flights) != 6 {
		t.Fatalf("%d flights for 6 messages", len(flights))
	}
	for i, f := range flights {
		head, ok := r.Ring().Head(nil, &f)
		if ok = ok && (i%2 == 1 || strings.Contains(string(head), "\r\nX-Request-ID: ")); !ok || f.Nstamps != 3 || f.RecvUpto != f.End || f.SendPid == 0 {
			t.Errorf("flight %d: %d to %d, read to %d, %d stamps, sent by %d: %.100q", i, f.Seq, f.End, f.RecvUpto, f.Nstamps, f.SendPid, head)
		}
		if i >= 2 && f.Seq != flights[i-2].End {
			t.Errorf("flight %d begins at %d, the one before ends at %d", i, f.Seq, flights[i-2].End)
		}
	}
}

// A message that waits in the socket when its write returns is recorded from where it begins, line and all.
func TestInjectedFlightThatWaits(t *testing.T) {
	r, s := startInject(t)
	client, server := s.dial(t)
	say(t, server, client, "x")
	cork := func(on int) {
		raw(t, client.(*net.TCPConn), func(fd int) {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_CORK, on); err != nil {
				t.Fatal(err)
			}
		})
	}
	for range 3 {
		cork(1)
		if _, err := io.WriteString(client, plainGet); err != nil {
			t.Fatal(err)
		}
		cork(0)
		without(t, read(t, server, len(plainGet)+InjectedBytes))
		say(t, server, client, "y")
	}
	var got int
	for id := uint64(1); id <= r.Ring().Last(); id++ { // what was read is recorded; who wrote it is not said of what waited
		var f Flight
		r.Ring().Copy(&f, id)
		if f.SendPeer == s.port && uint32(f.Flags)&FlagSYN == 0 && f.End-f.Seq == uint32(len(plainGet)+InjectedBytes) && f.RecvUpto == f.End {
			got++
		}
	}
	if got != 3 {
		t.Errorf("%d of 3 requests were recorded", got)
	}
}

// untouched sends a request that is to come as it is.
func untouched(t *testing.T, client, server net.Conn) {
	t.Helper()
	if _, err := io.WriteString(client, plainGet); err != nil {
		t.Fatal(err)
	}
	if got := read(t, server, len(plainGet)); got != plainGet {
		t.Errorf("%q came", got)
	}
}

// Only what the rules of the namespace itself redirect is touched, by whatever way, and nothing where no ids are wanted.
func TestInjectOwnSidecarOnly(t *testing.T) {
	r, s := startInject(t)
	elsewhere := newSidecar(t, "tcp4", "127.0.0.1:0")
	client, server := elsewhere.dial(t)
	untouched(t, client, server)

	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct{ network, listen, iptables, to string }{
		{"tcp4", "127.0.0.1:0", "iptables", "10.99.0.1"}, {"tcp6", "[::1]:0", "ip6tables", "fd99::1"}, {"tcp", "[::]:0", "iptables", "10.99.0.2"},
	} {
		s := newSidecar(t, way.network, way.listen)
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: prefix(way.to), Scope: netlink.SCOPE_LINK}); err != nil {
			t.Fatal(err)
		}
		to := net.JoinHostPort(way.to, "80")
		_, port, _ := net.SplitHostPort(s.Addr().String())
		out, err := exec.Command(way.iptables, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", way.to, "-j", "REDIRECT", "--to-ports", port).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", way.iptables, err, out)
		}
		for _, chosen := range []bool{false, true} {
			ports := map[uint32][]uint16{ownNetns(t) + 1: {s.port}}
			if chosen {
				ports[ownNetns(t)] = []uint16{9, s.port}
			}
			if err := r.Inject.Select(ports); err != nil {
				t.Fatal(err)
			}
			client, server := s.dialTo(t, to)
			if _, err := io.WriteString(client, plainGet); err != nil {
				t.Fatal(err)
			}
			if !chosen {
				if got := read(t, server, len(plainGet)); got != plainGet {
					t.Errorf("%s: %q came", to, got)
				}
				continue
			}
			without(t, read(t, server, len(plainGet)+InjectedBytes))
			if err := r.Inject.Select(nil); err != nil { // no longer, also on connections that there are
				t.Fatal(err)
			}
			untouched(t, client, server)
		}
	}
	if err := r.Inject.Select(map[uint32][]uint16{ownNetns(t): {s.port}}); err != nil {
		t.Fatal(err)
	}
	r.Inject.Switch(false)
	client, server = s.dial(t)
	untouched(t, client, server)
	r.Inject.Switch(true)
	untouched(t, client, server) // it was opened before
	client, server = s.dial(t)
	if _, err := io.WriteString(client, plainGet); err != nil {
		t.Fatal(err)
	}
	without(t, read(t, server, len(plainGet)+InjectedBytes))
}

func prefix(addr string) *net.IPNet {
	a := netip.MustParseAddr(addr)
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// dialTo opens a connection to an address from which it is redirected here.
func (s *sidecar) dialTo(t testing.TB, to string) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	server, err = s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// queued is what a socket says it has to be read, once it has some; none in a sockhash.
func queued(t *testing.T, fd int) (n int) {
	t.Helper()
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A connection that is left alone is as if it had never been looked at, soon. That says how much there is to read, which one that is
// looked at does not.
func TestInjectLetsGo(t *testing.T) {
	r, s := startInject(t)
	client, server := s.dial(t)
	if _, err := io.WriteString(client, plainGet); err != nil {
		t.Fatal(err)
	}
	without(t, read(t, server, len(plainGet)+InjectedBytes))
	for _, step := range []struct {
		say  string
		want int
	}{{"", 0}, {"\x16\x03\x01", 3}} {
		if step.say != "" {
			say(t, client, server, step.say)
		}
		if err := r.Inject.Release(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(server, "abc"); err != nil {
			t.Fatal(err)
		}
		raw(t, client.(*net.TCPConn), func(fd int) {
			if n := queued(t, fd); n != step.want {
				t.Errorf("after %q: %d bytes to read, want %d", step.say, n, step.want)
			}
		})
		if got := read(t, client, 3); got != "abc" {
			t.Errorf("%q", got)
		}
	}
	untouched(t, client, server)
}

// A socket whose reads wait in the kernel is left alone: there a signal would end them with an error that such a reader does not know.
func TestInjectNotBlocking(t *testing.T) {
	r, s := startInject(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(s.port), Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	server, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := unix.Write(fd, []byte(plainGet)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, server, len(plainGet)); got != plainGet {
		t.Errorf("%q came", got)
	}
	if got := outcomes(t, r); got["blocking-socket"] != 1 || got["injected"] != 0 {
		t.Errorf("%v", got)
	}
}

// Where the kernel might not take all of a request, or none, it gets no line: the writer would be told a wrong number of bytes, or
// another error.
func TestInjectBusyOrClosed(t *testing.T) {
	r, s := startInject(t)
	client, server := s.dial(t)
	send := func(flags int) (err error) {
		raw(t, client.(*net.TCPConn), func(fd int) { _, err = unix.SendmsgN(fd, []byte(plainGet), nil, nil, unix.MSG_NOSIGNAL|flags) })
		return err
	}
	if err := send(unix.MSG_MORE); err != nil { // stays in the socket
		t.Fatal(err)
	}
	if err := send(0); err != nil {
		t.Fatal(err)
	}
	if got := without(t, read(t, server, 2*len(plainGet)+InjectedBytes)); got != plainGet+plainGet {
		t.Errorf("%q came", got)
	}
	if got := outcomes(t, r); got["busy"] != 1 || got["injected"] != 1 {
		t.Errorf("%v", got)
	}
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := send(0); err != unix.EPIPE {
		t.Errorf("after a shutdown: %v, want %v", err, unix.EPIPE)
	}
}
