package xds

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
)

// pauses are those that a link took, with their attempts.
type pauses struct {
	mu      sync.Mutex
	away    []int
	refused []int
}

func (p *pauses) pause(attempt int, longest time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if longest == maxRefused {
		p.refused = append(p.refused, attempt)
	} else {
		p.away = append(p.away, attempt)
	}
	return 20 * time.Millisecond
}

// attempts are those of pauses while the control plane was away, and of those where it refused.
func (p *pauses) attempts() (away, refused []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(away, p.away...), append(refused, p.refused...)
}

// rising says whether attempts are 0, 1, 2 and so on.
func rising(attempts []int) bool {
	for i, a := range attempts {
		if a != i {
			return false
		}
	}
	return true
}

// All streams of a connection wait for one attempt to make it; the first one after a loss comes soon.
func TestOneAttempt(t *testing.T) {
	const pods = 20
	snapshots := cache.NewSnapshotCache(true, same{}, nil)
	if err := snapshots.SetSnapshot(context.Background(), "all", snapshot(t, "1", "r", "first")); err != nil {
		t.Fatal(err)
	}
	p := newPlaneOf(t, snapshots, nil)
	var took pauses
	f := followAfter(t, plain(p), took.pause)
	var all []Proxy
	for i := range pods {
		one, _ := onePod(fmt.Sprintf("p%d", i))
		all = append(all, one)
	}
	f.Follow(all)
	connected := func(want bool) bool {
		n := 0
		for _, s := range f.Proxies() {
			if s.Connected == want && (s.Problem == "") == want {
				n++
			}
		}
		return n == pods
	}
	f.await("all connected", func() bool { return connected(true) })
	for round := range 2 {
		before, _ := took.attempts()
		p.down()
		l, err := net.Listen("tcp", p.address) // whoever comes is turned away
		if err != nil {
			t.Fatal(err)
		}
		var came atomic.Int64
		var turning sync.WaitGroup
		turning.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				came.Add(1)
				_ = conn.Close()
			}
		})
		f.await("ten attempts", func() bool { return came.Load() >= 10 })
		f.await("all to know", func() bool { return connected(false) })
		_ = l.Close()
		turning.Wait()
		all, _ := took.attempts()
		now := all[len(before):]
		if n := int(came.Load()); n > len(now)+1 || !rising(now) {
			t.Errorf("round %d: %d connections of %d streams, with pauses after attempts %v", round, n, pods+1, now)
		}
		p.up()
		f.await("all back", func() bool { return connected(true) })
	}
	if _, refused := took.attempts(); len(refused) > 0 {
		t.Errorf("none is refused, and yet there are attempts %v: %+v %+v", refused, f.Status(), f.Proxies())
	}
}

// One that a control plane refuses asks again less and less often, and disturbs nobody else.
func TestRefusedAttempts(t *testing.T) {
	s := &script{t: t}
	var took pauses
	f := followAfter(t, s.serve(), took.pause)
	refused, _ := onePod("refused")
	f.Follow([]Proxy{refused})
	f.await("five refusals", func() bool { _, n := took.attempts(); return len(n) == 5 })
	if away, n := took.attempts(); len(away) > 0 || !rising(n) {
		t.Errorf("attempts %v while it is away, %v refused", away, n)
	}
}
