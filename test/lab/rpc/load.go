package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/meshwatch/meshwatch/test/lab/record"
)

// Load says what Send sends.
type Load struct {
	Dial        func() (*grpc.ClientConn, error)
	Connections int // at a time, at least 1
	Calls       int // under way at a time, over all connections
	Methods     []string
	Duration    time.Duration // no call begins after it; those under way are waited for
	Run         string        // what truth ids begin with: RUN-CALLER-COUNTER
	Records     *record.Writer

	PerConnection int // calls, 0: any number
}

// Result is what the load measured.
type Result struct {
	Calls     int
	Broken    int // with an Error in their record
	Duration  time.Duration
	Latencies []time.Duration // sorted
}

const (
	maxMessages = 9                // of a streaming call, in a direction
	longestCall = 30 * time.Second // one that takes longer is broken
)

// Send calls until the duration is over, or ctx is done.
func Send(ctx context.Context, w Load) (Result, error) {
	conns := make([]*Conn, w.Connections)
	for i := range conns {
		conns[i] = NewConn(w.Dial, w.PerConnection)
		defer func() { _ = conns[i].Close() }() // all calls are over
	}
	begin := time.Now()
	results, errs := make([]Result, w.Calls), make([]error, w.Calls)
	var callers sync.WaitGroup
	for i := range w.Calls {
		callers.Go(func() { errs[i] = w.caller(ctx, i, begin.Add(w.Duration), conns[i%len(conns)], &results[i]) })
	}
	callers.Wait()
	out := Result{Duration: time.Since(begin)}
	for _, r := range results {
		out.Calls += r.Calls
		out.Broken += r.Broken
		out.Latencies = append(out.Latencies, r.Latencies...)
	}
	slices.Sort(out.Latencies)
	return out, errors.Join(errs...)
}

// caller makes one call after the other.
func (w *Load) caller(ctx context.Context, number int, until time.Time, conn *Conn, out *Result) error {
	for n := 1; time.Now().Before(until) && ctx.Err() == nil; n++ {
		method, truth := w.Methods[(number+n)%len(w.Methods)], fmt.Sprintf("%s-%d-%d", w.Run, number, n)
		began := time.Now()
		r := one(conn, method, truth, 1+(number+n)%maxMessages)
		out.Latencies = append(out.Latencies, time.Since(began))
		out.Calls++
		if r.Error != "" {
			out.Broken++
		}
		if err := w.Records.Add(r); err != nil {
			return err
		}
	}
	return nil
}

// one makes a call. One that has begun is not stopped with the load: it is waited for.
func one(conn *Conn, method, truth string, messages int) record.Record {
	ctx, cancel := context.WithTimeout(context.Background(), longestCall)
	defer cancel()
	return Call(ctx, conn, method, truth, messages)
}

// Summary is a result as programs read it. Times are in ns.
type Summary struct {
	Calls    int           `json:"calls"`
	Broken   int           `json:"broken"`
	Duration time.Duration `json:"duration_ns"`
	P50      time.Duration `json:"p50_ns"`
	P90      time.Duration `json:"p90_ns"`
	P99      time.Duration `json:"p99_ns"`
	P999     time.Duration `json:"p999_ns"`
	Max      time.Duration `json:"max_ns"`
}

// Summary sums it up.
func (r *Result) Summary() Summary {
	at := func(share float64) time.Duration {
		if len(r.Latencies) == 0 {
			return 0
		}
		return r.Latencies[int(share*float64(len(r.Latencies)-1))]
	}
	return Summary{r.Calls, r.Broken, r.Duration, at(0.5), at(0.9), at(0.99), at(0.999), at(1)}
}
