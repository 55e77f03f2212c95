package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
)

// steady is a load of one request after the other, at most a hundred in a second.
type steady struct {
	phase    atomic.Value // string
	answered atomic.Int64 // by 200
	failed   atomic.Int64
	end      func(*testing.T)
}

func (c *Cluster) loadSteadily(t *testing.T) *steady {
	t.Helper()
	l := &steady{}
	l.phase.Store(phaseBefore)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		client := c.GatewayClient()
		defer client.CloseIdleConnections()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			switch got := c.ask(client, c.GatewayURL()+"/away", "", http.MethodGet, map[string]string{"x-truth-id": l.phase.Load().(string)}); got {
			case http.StatusOK:
				l.answered.Add(1)
			default:
				l.failed.Add(1)
			}
		}
	})
	l.end = func(t *testing.T) {
		t.Helper()
		cancel()
		running.Wait()
		t.Logf("%d requests were answered, %d were not", l.answered.Load(), l.failed.Load())
		if l.failed.Load() > l.answered.Load()/100 {
			t.Error("too many were not")
		}
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return l
}

// awaitAnswers waits for a number of answers more.
func (l *steady) awaitAnswers(t *testing.T, more int64) {
	t.Helper()
	want := l.answered.Load() + more
	if err := await.Until(ctxWithin(t, time.Minute), func() bool { return l.answered.Load() >= want }); err != nil {
		t.Fatalf("%v: the load has %d answers, want %d", err, l.answered.Load(), want)
	}
}

// stay lets the load go on for a time, in which it must be answered.
func (l *steady) stay(t *testing.T, d time.Duration) {
	t.Helper()
	before, until := l.answered.Load(), time.Now().Add(d)
	if err := await.Until(t.Context(), func() bool { return time.Now().After(until) }); err != nil {
		t.Fatal(err)
	}
	if got := l.answered.Load() - before; float64(got) < 5*d.Seconds() {
		t.Errorf("in %s only %d requests were answered", d, got)
	}
}

// usage is what the agent says that it uses.
type usage struct{ goroutines, descriptors, memory, heap float64 }

func (u usage) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f descriptors, %.1f MB resident, %.1f MB of heap in use", u.goroutines, u.descriptors, u.memory/(1<<20), u.heap/(1<<20))
}

func (c *Cluster) usage(t *testing.T) usage {
	t.Helper()
	client := c.GatewayClient() // from the node
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + AgentMetrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) float64 {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name+" "); ok {
				v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
				if err == nil {
					return v
				}
			}
		}
		t.Fatalf("the agent's metrics have no %s", name)
		return 0
	}
	return usage{value("go_goroutines"), value("process_open_fds"), value("process_resident_memory_bytes"), value("go_memstats_heap_inuse_bytes")}
}
