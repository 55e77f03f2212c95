package xds

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

func plain(p *plane) Settings { return Settings{Address: p.address, Security: Plaintext} }

func TestFollow(t *testing.T) {
	p := newPlane(t, nil)
	p.set(map[string][]byte{"a": pod("a", "10.0.0.1"), "b": pod("b", "10.0.0.2")})
	f := follow(t, plain(p))
	f.is("10.0.0.1", "a")
	f.is("10.0.0.2", "b")
	p.set(map[string][]byte{"a": pod("a", "10.0.0.3")})
	f.is("10.0.0.3", "a")
	f.is("10.0.0.1", "")
	p.remove("b")
	f.is("10.0.0.2", "")
	if s := f.Status(); !s.Connected || s.Resources != 1 || s.Accepted != 3 || s.Refused != 0 || s.Problem != "" || s.Updated.IsZero() {
		t.Errorf("%+v", s)
	}
	f.await("three ACKs", func() bool { requests, _ := p.seen(); return len(requests) == 4 })
	requests, _ := p.seen()
	for i, r := range requests {
		if (i > 0) != (r.ResponseNonce != "") || r.ErrorDetail != nil || r.TypeUrl != addressType {
			t.Errorf("request %d: %v", i, r)
		}
	}
	if n := requests[0].Node; !strings.HasPrefix(n.Id, "sidecar~127.0.0.1~meshwatch-node-1.default~") {
		t.Errorf("node %v", n)
	}
}

// A bad resource is refused by name; the last good state of it stays, others of the same response are taken, and the next response, too.
func TestMalformed(t *testing.T) {
	p := newPlane(t, nil)
	p.set(map[string][]byte{"a": pod("a", "10.0.0.1"), "b": pod("b", "10.0.0.2")})
	f := follow(t, plain(p))
	f.is("10.0.0.2", "b")
	p.set(map[string][]byte{"a": {0x0a, 0xff}, "b": pod("b", "10.0.0.9")})
	f.is("10.0.0.9", "b")
	f.is("10.0.0.1", "a")
	refusals := func() (n int, text string) {
		requests, _ := p.seen()
		for _, r := range requests {
			if r.ErrorDetail != nil {
				n, text = n+1, r.ErrorDetail.Message
			}
		}
		return n, text
	}
	f.await("NACK", func() bool { n, _ := refusals(); return n == 1 })
	if _, text := refusals(); !strings.Contains(text, `1 resources cannot be read: "a"`) || f.Status().Problem != text || f.Status().Refused != 1 {
		t.Errorf("%q, %+v", text, f.Status())
	}
	f.await("the loss", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.refused == 1 })
	p.set(map[string][]byte{"a": pod("a", "10.0.0.5")})
	f.is("10.0.0.5", "a")
	if n, _ := refusals(); n != 1 {
		t.Errorf("%d refusals", n)
	}
}

// The control plane goes away: what is known stays. It comes back: it is told what is held, so it sends what changed only.
func TestAwayAndBack(t *testing.T) {
	p := newPlane(t, nil)
	p.set(map[string][]byte{"a": pod("a", "10.0.0.1"), "b": pod("b", "10.0.0.2"), "c": pod("c", "10.0.0.3")})
	f := follow(t, plain(p))
	f.is("10.0.0.1", "a")
	p.down()
	f.await("lost", func() bool { s := f.Status(); return !s.Connected && s.Problem != "" })
	f.is("10.0.0.1", "a")
	p.remove("b")
	p.set(map[string][]byte{"c": pod("c2", "10.0.0.3"), "d": pod("d", "10.0.0.4")})
	before, _ := p.seen()
	p.up()
	f.is("10.0.0.4", "d")
	f.is("10.0.0.3", "c2")
	f.is("10.0.0.2", "")
	f.is("10.0.0.1", "a")
	requests, sent := p.seen()
	if held := requests[len(before)].InitialResourceVersions; len(held) != 3 || held["a"] == "" {
		t.Errorf("held: %v", held)
	}
	if sent[len(sent)-1] != 2 {
		t.Errorf("sent %v: the last must be c and d", sent)
	}
	if s := f.Status(); !s.Connected || s.Problem != "" || s.Resources != 3 {
		t.Errorf("%+v", s)
	}
}

// 10,000 workloads at once, and the control plane away and back again and again: nothing stays behind.
func TestManyAndFlat(t *testing.T) {
	p := newPlane(t, nil)
	all := map[string][]byte{}
	for i := range 10_000 {
		name := fmt.Sprintf("w%d", i)
		all[name] = pod(name, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	p.set(all)
	goroutines := runtime.NumGoroutine()
	start := time.Now()
	f := follow(t, plain(p))
	f.is("10.0.39.15", "w9999")
	ready := time.Since(start)
	var heap [2]uint64
	for round := range heap {
		for range 5 {
			p.down()
			f.await("lost", func() bool { return !f.Status().Connected })
			p.up()
			f.await("back", func() bool { return f.Status().Connected || f.Status().Problem == "" })
			name := fmt.Sprintf("w%d", round)
			p.set(map[string][]byte{name: all[name]}) // a version of its own: the same state is sent again
			accepted := f.Status().Accepted
			p.set(map[string][]byte{"again": pod("again", fmt.Sprintf("10.9.0.%d", accepted%250))})
			f.await("an update", func() bool { return f.Status().Accepted > accepted && f.Status().Connected })
		}
		p.forget()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		heap[round] = m.HeapAlloc
	}
	f.stop()
	p.down()
	f.await("as few goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines })
	t.Logf("10,000 workloads ready in %v; heap %.1f MB after 5 reconnects, %.1f MB after 10; %d goroutines before, %d after", ready.Round(time.Millisecond), float64(heap[0])/1e6, float64(heap[1])/1e6, goroutines, runtime.NumGoroutine())
	if ready > 5*time.Second || float64(heap[1]) > 1.2*float64(heap[0]) {
		t.Errorf("ready in %v, heap %v", ready, heap)
	}
	if _, sent := p.seen(); sent[0] != 10_000 || sent[1] > 2 {
		t.Errorf("sent %v: all, then what changed", sent)
	}
}

func TestPause(t *testing.T) {
	for attempt, most := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 3: 8 * time.Second, 4: maxAway, 1 << 40: maxAway} {
		seen := map[time.Duration]bool{}
		for range 20 {
			d := pause(attempt, maxAway)
			if d < most/2 || d >= most {
				t.Errorf("attempt %d: %v, want from %v to %v", attempt, d, most/2, most)
			}
			seen[d] = true
		}
		if len(seen) < 2 {
			t.Errorf("attempt %d: always %v", attempt, seen)
		}
	}
}
