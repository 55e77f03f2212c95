package bpf

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A namespace goes between edges and full while messages pass: each is recorded once, and nothing is lost.
func TestDepthIsSwitchedUnderLoad(t *testing.T) {
	for name, tc := range map[string]bool{"tracepoints": false, "tcx": true} {
		t.Run(name, func(t *testing.T) { switchDepth(t, tc) })
	}
}

func switchDepth(t *testing.T, tc bool) {
	s := DefaultSizes()
	s.Flights = 1 << 18 // a fast machine has more than 1 << 16 in the time
	r := startEdges(t, Options{Sizes: s, TC: tc})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan int)
	go func() { sent <- pingPong(ctx, client, server) }()
	begins := func(deep bool) { // until a message begins in that depth
		t.Helper()
		from := r.Ring().Last() + 4 // those that may be under way are over
		for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			var f Flight
			r.Ring().Copy(&f, r.Ring().Last())
			if f.Id > from && uint32(f.Flags)&FlagDeep != 0 == deep && f.Nstamps > 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no message begins in full depth: %v", deep)
			}
		}
	}
	const times = 20
	for range times {
		nf, err := r.Netfilter.Attach()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Deep(true); err != nil {
			t.Fatal(err)
		}
		begins(true)
		if err := nf.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Deep(false); err != nil {
			t.Fatal(err)
		}
		begins(false)
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
	full, edges := []int{1, 2, 3, 4, 6, 7}, []int{1, 3, 7}
	for i := range flights {
		switch hooks := hooksOf(flights[i]); {
		case slices.Equal(hooks, full):
			kinds["full"]++
		case slices.Equal(hooks, edges):
			kinds["edges"]++
		case len(hooks) >= 2 && hooks[0] == 1 && slices.IsSorted(hooks): // hooks come and go one by one
			kinds["between"]++
		default:
			t.Errorf("flight %d met the hooks %v", i, hooks)
		}
	}
	t.Logf("%d messages, %v", n, kinds)
	if kinds["full"] < times || kinds["edges"] < times {
		t.Errorf("of %d messages: %v", n, kinds)
	}
	nothingLost(t, r)
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

// What was sent while recording was off is not recorded, and what comes next is, whatever is known of its connection.
func TestOnAgain(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	ask, answer := "GET /%d HTTP/1.1\r\n\r\n", "HTTP/1.1 20%d OK\r\n\r\n"
	var want []string
	for i := range 5 {
		say(t, client, server, fmt.Sprintf(ask, i))
		say(t, server, client, fmt.Sprintf(answer, i))
		want = append(want, fmt.Sprintf(ask, i), fmt.Sprintf(answer, i))
		r.Ring().Enable(false)
		for range i { // the first time nothing is missed; the client's next message may also be the first thing that it sends
			say(t, client, server, fmt.Sprintf(ask, 9))
			say(t, server, client, fmt.Sprintf(answer, 9))
		}
		r.Ring().Enable(true)
	}
	var got []string
	for _, f := range recorded(t, r, port, len(want)) {
		head, _ := r.Ring().Head(nil, &f)
		got = append(got, string(head))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
	nothingLost(t, r)
}

// Where no flight may start, none does; what is sent from elsewhere is recorded.
func TestExclude(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	say(t, client, server, "GET /seen HTTP/1.1\r\n\r\n")
	recorded(t, r, port, 1)
	own := ownNetns(t)
	r.Ring().Exclude([]uint32{own})
	say(t, server, client, "HTTP/1.1 204 No Content\r\n\r\n")
	r.Ring().Exclude(allBut(own))
	say(t, client, server, "GET /seen HTTP/1.1\r\n\r\n")
	if got := recorded(t, r, port, 2); len(got) != 2 || got[0].SendPeer != port || got[1].SendPeer != port {
		t.Errorf("recorded %d, not the two that were not excluded", len(got))
	}
}

func nothingLost(t *testing.T, r *Recorder) {
	t.Helper()
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
