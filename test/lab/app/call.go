package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// upstream is an app that this one may call.
type upstream struct {
	host    string // Host header: the mesh's name for the service
	address string // where to connect: the pod's address and port
}

type upstreams map[string]upstream

// add parses NAME=HOST=ADDRESS:PORT.
func (u upstreams) add(flag string) error {
	part := strings.SplitN(flag, "=", 3)
	if len(part) != 3 {
		return errors.New("want NAME=HOST=ADDRESS:PORT")
	}
	u[part[0]] = upstream{host: part[1], address: part[2]}
	return nil
}

// forwarded are the headers that an app which takes part in tracing hands on; the rest stays behind.
var forwarded = []string{
	"X-Request-Id", "X-Truth-Id", "Traceparent", "Tracestate", "Baggage", "B3", "X-B3-Traceid", "X-B3-Spanid",
	"X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags", "X-Ot-Span-Context", "Uber-Trace-Id", "Sw8",
}

// ofSession are the headers that an app hands on which calls others in its user's name.
var ofSession = []string{"Authorization", "Cookie", "X-Shown"}

func handOn(to, from http.Header, names []string) {
	for _, h := range names {
		if v, ok := from[h]; ok {
			to[h] = v
		}
	}
}

// newClient keeps every connection: under load the pool holds as many as there are requests at once.
func newClient() *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	dialer.SetMultipathTCP(false)
	return &http.Client{Transport: &http.Transport{
		DialContext:         dialer.DialContext,
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     5 * time.Minute,
		DisableCompression:  true,
	}}
}

// call requests the upstream and reads its answer to the end, or copies it to into.
func (a *app) call(r *http.Request, name string, q *query, into io.Writer) error {
	up, ok := a.upstreams[name]
	if !ok {
		return fmt.Errorf("call %s: no such upstream", name)
	}
	req := (&http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "http", Host: up.address, Path: r.URL.Path, RawQuery: q.forUpstream(name)},
		Host:   up.host,
		Header: make(http.Header, 4),
	}).WithContext(r.Context())
	if q.forward {
		req.Method, req.Body, req.ContentLength = r.Method, r.Body, r.ContentLength
	}
	req.Close = a.perConnection > 0 && rand.IntN(a.perConnection) == 0 //nolint:gosec // no secret
	if !q.bare {
		handOn(req.Header, r.Header, a.forwarded)
	}
	if q.session {
		handOn(req.Header, r.Header, ofSession)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(into, resp.Body); err != nil {
		return fmt.Errorf("read answer of %s: %w", name, err)
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("call %s: status %d", name, resp.StatusCode)
	}
	return nil
}

// callAll calls the upstreams one after the other, or all at once.
func (a *app) callAll(r *http.Request, names []string, q *query, into io.Writer) error {
	if !q.parallel || len(names) < 2 {
		for _, n := range names {
			if err := a.call(r, n, q, into); err != nil {
				return err
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, n := range names {
		wg.Go(func() { errs[i] = a.call(r, n, q, into) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// gone says that nobody waits for the answer any more.
func gone(ctx context.Context) bool { return ctx.Err() != nil }
