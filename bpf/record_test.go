package bpf

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestSettle(t *testing.T) {
	v4 := [16]byte{10, 0, 0, 1}
	v6 := [16]byte{0xfd, 15: 1}
	for name, tt := range map[string]struct {
		received   bool
		have, want Flight
	}{
		"unread: the receiver is that of an older flight": {
			have: Flight{Id: 7, RecvNs: 1, RecvEndNs: 2, RecvSk: 3, RecvPid: 4, RecvTid: 5, RecvNetns: 6, RecvPort: 7, RecvPeer: 8, RecvAddr4: 9,
				RecvPaddr4: 10, RecvAddr: v6, RecvPaddr: v6, Flags: netfilterFlightFlagFLIGHT_RECV_IPV6},
			want: Flight{Id: 7},
		},
		"IPv4": {
			received: true,
			have: Flight{SendAddr4: 0x0100000a, RecvNs: 1, RecvSk: 2, RecvPaddr4: 0x0100000a, SendAddr: v6, SendPaddr: v6, RecvAddr: v6,
				RecvPaddr: v6},
			want: Flight{SendAddr4: 0x0100000a, RecvNs: 1, RecvSk: 2, RecvPaddr4: 0x0100000a, SendAddr: v4, RecvPaddr: v4},
		},
		"IPv6": {
			received: true,
			have: Flight{SendAddr4: 5, RecvNs: 1, SendAddr: v6, RecvPaddr: v6,
				Flags: netfilterFlightFlagFLIGHT_IPV6 | netfilterFlightFlagFLIGHT_RECV_IPV6},
			want: Flight{SendAddr4: 5, RecvNs: 1, SendAddr: v6, RecvPaddr: v6,
				Flags: netfilterFlightFlagFLIGHT_IPV6 | netfilterFlightFlagFLIGHT_RECV_IPV6},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := tt.have
			got.settle(tt.received)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("settled (-want +got):\n%s", diff)
			}
		})
	}
}

// What Copy leaves out of a record says nothing.
func TestCopyTakesWhatIsValid(t *testing.T) {
	for n := range uint32(MaxStamps + 3) {
		for flags := range netfilterFlightFlag(1 << 13) {
			for _, received := range []uint64{0, 5} {
				r := &Ring{flights: make([]Flight, 1)}
				at := r.At(0)
				raw := unsafe.Slice((*byte)(unsafe.Pointer(at)), unsafe.Sizeof(*at))
				for i := range raw {
					raw[i] = byte(i*7 + 1)
				}
				at.Nstamps, at.Flags, at.RecvNs = n, flags, received
				want := *at
				want.settle(received != 0)
				var got Flight
				r.Copy(&got, 0)
				for i := min(n, uint32(MaxStamps)); i < uint32(MaxStamps); i++ {
					want.Stamps[i], got.Stamps[i] = Stamp{}, Stamp{}
				}
				if got != want {
					t.Fatalf("%d stamps, flags %#x, received %v (-want +got):\n%s", n, flags, received != 0, cmp.Diff(want, got))
				}
			}
		}
	}
}

// A record that is used again says nothing of who read the message before.
func TestUnreadHasNoReceiver(t *testing.T) {
	s := DefaultSizes()
	s.Flights = 1024
	r := startRecorder(t, Options{Sizes: s})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	for range s.Flights {
		say(t, client, server, "GET / HTTP/1.1\r\n\r\n")
		say(t, server, client, "HTTP/1.1 200 OK\r\n\r\n")
	}
	last := recorded(t, r, port, s.Flights-10)
	if id := last[len(last)-1].Id; id < 2*uint64(s.Flights) {
		t.Fatalf("the last serial is %d: no record was used again", id)
	}
	if _, err := io.WriteString(client, "GET /unread HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	var f Flight
	r.Ring().Copy(&f, r.Ring().Last())
	if head, _ := r.Ring().Head(nil, &f); string(head) != "GET /unread HTTP/1.1\r\n\r\n" {
		t.Fatalf("the last flight is %q", head)
	}
	got := []uint64{f.RecvNs, f.RecvEndNs, f.RecvSk, uint64(f.RecvPid), uint64(f.RecvTid), uint64(f.RecvNetns), uint64(f.RecvPort), uint64(f.RecvPeer)}
	if diff := cmp.Diff(make([]uint64, len(got)), got); diff != "" || f.RecvAddr != [16]byte{} || f.RecvPaddr != [16]byte{} {
		t.Errorf("an unread message has a receiver:\n%s%v %v", diff, f.RecvAddr, f.RecvPaddr)
	}
	if r.Ring().At(f.Id).RecvSk == 0 {
		t.Error("the record itself has no old receiver: this test shows nothing")
	}
}

// IPv4 on an IPv6 socket, as servers have it that listen on both, is IPv4.
func TestMappedAddressesAreIPv4(t *testing.T) {
	r := startRecorder(t, Options{Sizes: DefaultSizes()})
	client, server, port := pairOf(t, &net.ListenConfig{}, "tcp", "[::]:0", func(to net.Addr) (net.Conn, error) {
		return net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: to.(*net.TCPAddr).Port})
	})
	say(t, client, server, "GET / HTTP/1.1\r\n\r\n")
	say(t, server, client, "HTTP/1.1 200 OK\r\n\r\n")
	lo := [16]byte{127, 0, 0, 1}
	for _, f := range recorded(t, r, port, 2) {
		if uint32(f.Flags)&(FlagIPv6|FlagRecvIPv6) != 0 || f.SendAddr != lo || f.SendPaddr != lo || f.RecvAddr != lo || f.RecvPaddr != lo {
			t.Errorf("flags %#x, %v to %v, read by %v from %v", f.Flags, f.SendAddr, f.SendPaddr, f.RecvAddr, f.RecvPaddr)
		}
	}
}

// However reads cut the stream, each flight ends where its message does.
func TestReadsAcrossMessages(t *testing.T) {
	one := "POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100)
	for name, sizes := range map[string][]int{
		"one read each":             {len(one), len(one), len(one)},
		"one read for all":          {3 * len(one)},
		"parts":                     {10, 20, len(one) - 30, len(one), 1, len(one) - 1},
		"the rest and the next two": {10, 3*len(one) - 10},
		"into the next":             {len(one) + 10, len(one) - 10, len(one)},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRecorder(t, Options{Sizes: DefaultSizes()})
			client, server, port := pair(t, "tcp", "127.0.0.1:0")
			for range 3 {
				if _, err := io.WriteString(client, one); err != nil {
					t.Fatal(err)
				}
			}
			for _, n := range sizes {
				if _, err := io.ReadFull(server, make([]byte, n)); err != nil {
					t.Fatal(err)
				}
			}
			flights := recorded(t, r, port, 3)
			if len(flights) != 3 {
				t.Fatalf("%d flights for 3 messages", len(flights))
			}
			for i, f := range flights {
				if f.End-f.Seq != uint32(len(one)) || int32(f.RecvUpto-f.End) < 0 || f.RecvEndNs < f.RecvNs || i > 0 && f.Seq != flights[i-1].End {
					t.Errorf("flight %d: %d to %d, read to %d, from %d to %d", i, f.Seq, f.End, f.RecvUpto, f.RecvNs, f.RecvEndNs)
				}
			}
		})
	}
}

// A response that is read together with the end of its connection is read, and is as long as it is.
func TestReadWithTheEnd(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	say(t, client, server, "GET / HTTP/1.1\r\n\r\n")
	response := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(server, response); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	ended(t, client)
	if got, err := io.ReadAll(client); err != nil || string(got) != response {
		t.Fatalf("read %q, %v", got, err)
	}
	got := recorded(t, r, port, 2)
	if f := got[1]; f.RecvUpto != f.End || f.End-f.Seq != uint32(len(response)) {
		t.Errorf("of %d bytes %d were read", f.End-f.Seq, f.RecvUpto-f.Seq)
	}
}

// A record of a connection that opened, or closed, may be used again at once: none is passed over.
func TestManyConnections(t *testing.T) {
	s := DefaultSizes()
	s.Flights = 1024
	r := startEdges(t, Options{Sizes: s})
	for range s.Flights {
		client, server, _ := pair(t, "tcp", "127.0.0.1:0")
		if err := errors.Join(client.Close(), server.Close()); err != nil {
			t.Fatal(err)
		}
	}
	const each = 2 // the SYN, and the end of the socket that sent it
	if got, want := r.Ring().Last(), each*r.Ring().Len(); got < want || got > want+want/100 {
		t.Errorf("%d serials for %d records", got, want)
	}
	nothingLost(t, r)
}

// A connection's first packet says which thread opened it.
func TestOpener(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		_, _, port := pair(t, "tcp", address)
		opened := 0
		for id := uint64(1); id <= r.Ring().Last(); id++ {
			var f Flight
			if r.Ring().Copy(&f, id); f.Id != id || uint32(f.Flags)&FlagSYN == 0 || f.SendPeer != port {
				continue
			}
			opened++
			if f.SendPid != uint32(os.Getpid()) || f.Thread() != uint32(unix.Gettid()) { //nolint:gosec // both are positive
				t.Errorf("%s was opened by thread %d of %d, not %d of %d", address, f.Thread(), f.SendPid, unix.Gettid(), os.Getpid())
			}
		}
		if opened != 1 {
			t.Errorf("%s: %d connections were opened", address, opened)
		}
	}
}

// ended waits until the other side's FIN has come.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		var info *unix.TCPInfo
		var e error
		if err := errors.Join(raw.Control(func(fd uintptr) { info, e = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }), e); err != nil {
			t.Fatal(err)
		}
		if info.State == unix.BPF_TCP_CLOSE_WAIT {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no FIN came, the state is %d", info.State)
		}
	}
}

// Messages that are neither HTTP nor TLS: 16 in a row on a socket, then one in 10 ms. An HTTP message between begins it anew.
func TestRawMessagesHaveABudget(t *testing.T) {
	r := startRecorder(t, Options{Sizes: DefaultSizes()})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	raw := func(n int) {
		for range n {
			say(t, client, server, "raw!")
			say(t, server, client, "raw?")
		}
	}
	for range 2 {
		for range 5 {
			say(t, client, server, "GET / HTTP/1.1\r\n\r\n")
			say(t, server, client, "HTTP/1.1 200 OK\r\n\r\n")
		}
		raw(16)
	}
	const within = 2 * 2 * (5 + 16)
	if got := len(recorded(t, r, port, within)); got != within {
		t.Errorf("%d flights for %d messages within the budget", got, within)
	}
	began := time.Now()
	raw(500)
	most := within + 2*(2+int(time.Since(began)/(10*time.Millisecond)))
	if got := len(recorded(t, r, port, within)); got > most {
		t.Errorf("%d flights after 1000 messages beyond the budget, want at most %d", got, most)
	}
	losses, err := r.Losses()
	if err != nil {
		t.Fatal(err)
	}
	if losses["raw-budget"] < 500 {
		t.Errorf("lost by the budget: %d of some 1000", losses["raw-budget"])
	}
}
