package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/meshwatch/meshwatch/test/cluster"
)

// The load on a cluster: a number of clients, each with a connection to the gateway, and one request at a time on it.
const (
	meshRequests = 20_000
	meshClients  = 8
)

// meshLoad is what was sent.
type meshLoad struct {
	Run      string        `json:"run"` // begins every truth id
	Requests int           `json:"requests"`
	Clients  int           `json:"clients"`
	Answered int           `json:"answered"` // by 200
	Took     time.Duration `json:"took_ns"`
}

// ours is a truth id of this load, "" for the ids of others.
func (l *meshLoad) ours(id string) string {
	if !strings.HasPrefix(id, l.Run+"-") {
		return ""
	}
	return id
}

// sendMesh sends all requests from the first node, where no sidecar is. Each has a truth id, and as clients have that take part in tracing
// a request id, which a gateway replaces by its own, and a trace context, which it hands on.
func sendMesh(ctx context.Context, c *cluster.Cluster) (meshLoad, error) {
	var run [4]byte
	if _, err := rand.Read(run[:]); err != nil {
		return meshLoad{}, fmt.Errorf("make the run's id: %w", err)
	}
	l := meshLoad{Run: hex.EncodeToString(run[:]), Requests: meshRequests, Clients: meshClients}
	var next, answered atomic.Int64
	errs := make([]error, l.Clients)
	var all sync.WaitGroup
	begun := time.Now()
	for i := range l.Clients {
		all.Go(func() {
			client := c.GatewayClient()
			defer client.CloseIdleConnections()
			for n := next.Add(1); n <= int64(l.Requests) && errs[i] == nil; n = next.Add(1) {
				var ok bool
				if ok, errs[i] = l.ask(ctx, client, c.GatewayURL(), int(n)); ok {
					answered.Add(1)
				}
			}
		})
	}
	all.Wait()
	l.Took, l.Answered = time.Since(begun), int(answered.Load())
	if err := errors.Join(errs...); err != nil {
		return l, fmt.Errorf("send load: %w", err)
	}
	return l, nil
}

// ask sends the nth request, and says whether it was answered by 200.
func (l *meshLoad) ask(ctx context.Context, client *http.Client, gateway string, n int) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+clusterPaths[n%len(clusterPaths)], nil)
	if err != nil {
		return false, err
	}
	req.Header.Set(truthHeader, fmt.Sprintf("%s-%d", l.Run, n))
	trace := uuid.New()
	req.Header.Set("x-request-id", trace.String())
	req.Header.Set("traceparent", fmt.Sprintf("00-%x-%016x-01", trace[:], n))
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == okay, errors.Join(err, resp.Body.Close())
}
