package bpf

import (
	"errors"
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// An MPTCP socket's program reads and writes what TCP sockets below it carry. Go's servers listen with one: what they accept of a client
// without is TCP as ever, and all of it is recorded. Of others nothing is, also not what comes to them, and each is counted once.
func TestMPTCP(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("this kernel has no MPTCP")
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		listener, dialer bool
		flights          int // with the SYN
		ignored          uint64
	}{
		"nobody's":     {flights: 1 + 6},
		"the server's": {listener: true, flights: 1 + 6},
		"the client's": {dialer: true, ignored: 1},
		"both":         {listener: true, dialer: true, ignored: 2},
	} {
		for how, start := range map[string]func(*testing.T, Options) *Recorder{"edges": startEdges, "full": startRecorder} {
			t.Run(name+", "+how, func(t *testing.T) {
				r := start(t, Options{Sizes: DefaultSizes()})
				client, server, port := multipathPair(t, c.listener, c.dialer)
				for range 3 {
					say(t, client, server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					say(t, server, client, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
				if got := begun(r, port); len(got) != c.flights || slices.ContainsFunc(got, func(f Flight) bool { return f.SendNs == 0 || f.RecvNs == 0 }) {
					t.Errorf("%d flights were recorded, want %d, all sent and read: %+v", len(got), c.flights, got)
				}
				losses, err := r.Losses()
				if err != nil || losses["mptcp-connection"] != c.ignored {
					t.Errorf("%d were counted, want %d: %v", losses["mptcp-connection"], c.ignored, err)
				}
			})
		}
	}
}

// multipathPair is pair with sockets of MPTCP.
func multipathPair(t *testing.T, listener, dialer bool) (client, server net.Conn, port uint16) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(listener)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var d net.Dialer
	d.SetMultipathTCP(dialer)
	client, err = d.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	if is, err := server.(*net.TCPConn).MultipathTCP(); err != nil || is != (listener && dialer) {
		t.Fatalf("MPTCP is spoken: %t, %v", is, err)
	}
	return client, server, uint16(ln.Addr().(*net.TCPAddr).Port)
}

// begun are the flights on a port, read or not.
func begun(r *Recorder, port uint16) (all []Flight) {
	for id := uint64(1); id <= r.Ring().Last(); id++ {
		var f Flight
		r.Ring().Copy(&f, id)
		if f.Id == id && (f.SendPort == port || f.SendPeer == port) && uint32(f.Flags)&FlagClose == 0 {
			all = append(all, f)
		}
	}
	return all
}
