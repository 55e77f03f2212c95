package bpf

import (
	"context"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"
)

// A namespace goes between edges (tc and sockets) and full (netfilter too) while messages pass: each is recorded once.
func TestDepthIsSwitchedUnderLoad(t *testing.T) {
	s := DefaultSizes()
	s.Flights = 1 << 16
	r := startRecorderOnly(t, Options{Sizes: s})
	tc, err := r.TC.Attach(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tc.Close() })
	if err := r.TC.StartFlights(tc, true); err != nil {
		t.Fatal(err)
	}
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan int)
	go func() { sent <- pingPong(ctx, client, server) }()
	begins := func(hook int) { // until a message of which that is the first hook
		t.Helper()
		from := r.Ring().Last() + 4 // those that may be under way are over
		for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			var f Flight
			r.Ring().Copy(&f, r.Ring().Last())
			if hooks := hooksOf(f); f.Id > from && len(hooks) > 0 && hooks[0] == hook {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no message begins at hook %d", hook)
			}
		}
	}
	const times = 20
	for range times {
		begins(3)
		nf, err := r.Netfilter.Attach()
		if err != nil {
			t.Fatal(err)
		}
		begins(1)
		if err := r.TC.StartFlights(tc, false); err != nil {
			t.Fatal(err)
		}
		begins(1)
		if err := r.TC.StartFlights(tc, true); err != nil {
			t.Fatal(err)
		}
		if err := nf.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	n := <-sent
	if uint64(n) > r.Ring().Len()-10 {
		t.Fatalf("%d messages: the ring is too small for this machine", n)
	}
	flights := recorded(t, r, port, n)
	if all := onPort(r, port); len(flights) != n || all != n {
		t.Errorf("%d flights, and %d that were read, for %d messages", all, len(flights), n)
	}
	kinds := map[string]int{}
	full, edges := []int{1, 2, 3, 4, 6, 7}, []int{3, 4}
	for i := range flights {
		switch hooks := hooksOf(flights[i]); {
		case slices.Equal(hooks, full):
			kinds["full"]++
		case slices.Equal(hooks, edges):
			kinds["edges"]++
		case len(hooks) >= 2 && (hooks[0] == 1 || hooks[0] == 3) && isSorted(hooks): // hooks come and go one by one
			kinds["between"]++
		default:
			t.Errorf("flight %d met the hooks %v", i, hooks)
		}
	}
	t.Logf("%d messages, %v", n, kinds)
	if kinds["full"] < times || kinds["edges"] < times {
		t.Errorf("of %d messages: %v", n, kinds)
	}
	losses, err := r.Losses()
	if err != nil {
		t.Fatal(err)
	}
	for reason, count := range losses {
		if count != 0 {
			t.Errorf("lost %d by %s", count, reason)
		}
	}
}

// onPort counts the messages recorded on a port, whether they were read or not.
func onPort(r *Recorder, port uint16) (n int) {
	for id := uint64(1); id <= r.Ring().Last(); id++ {
		f := r.Ring().At(id)
		if f.Id == id && uint32(f.Flags)&(FlagSYN|FlagClose) == 0 && (f.SendPort == port || f.SendPeer == port) {
			n++
		}
	}
	return n
}

// isSorted says whether no hook comes twice: on lo their numbers are in the order in which they are met.
func isSorted(hooks []int) bool {
	for i := 1; i < len(hooks); i++ {
		if hooks[i-1] >= hooks[i] {
			return false
		}
	}
	return true
}

// pingPong sends requests and responses until it is told to stop, and counts them.
func pingPong(ctx context.Context, client, server net.Conn) (n int) {
	request, response := "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	buf := make([]byte, 100)
	for ctx.Err() == nil {
		for _, m := range []struct {
			from, to net.Conn
			text     string
		}{{client, server, request}, {server, client, response}} {
			if _, err := io.WriteString(m.from, m.text); err != nil {
				return n
			}
			if _, err := io.ReadFull(m.to, buf[:len(m.text)]); err != nil {
				return n
			}
			n++
		}
	}
	return n
}
