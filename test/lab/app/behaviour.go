package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type app struct {
	name      string
	page      *page
	upstreams upstreams
	client    *http.Client
	calls     []string // upstreams called when the query names none
	forwarded []string // headers handed on

	perConnection int // a connection to an upstream ends after each request with a probability of one in this, 0: never
}

// query is what a request asks for, see the package's comment.
type query struct {
	sleep, burn time.Duration
	calls       []string
	parallel    bool
	forward     bool
	relay       bool
	echo        bool
	body        int64
	events      int
	trailer     bool
	status      int
	session     bool
	bare        bool
	close       bool
	reset       string
	values      url.Values
}

// parse reads the query. A value that cannot be parsed is an error: a typo must not pass for a fast request.
func (a *app) parse(raw string) (*query, error) {
	q := &query{calls: a.calls, status: http.StatusOK, body: -1}
	if raw == "" {
		return q, nil
	}
	var err error
	if q.values, err = url.ParseQuery(raw); err != nil {
		return nil, fmt.Errorf("parse query: %w", err)
	}
	for key := range q.values {
		if err := q.set(key, q.values.Get(key)); err != nil {
			return nil, fmt.Errorf("parse query %s: %w", key, err)
		}
	}
	return q, nil
}

func (q *query) set(key, value string) (err error) {
	switch key {
	case "sleep":
		q.sleep, err = time.ParseDuration(value)
	case "burn":
		q.burn, err = time.ParseDuration(value)
	case "call":
		q.calls = split(value)
	case "mode":
		q.parallel = value == "par"
	case "forward":
		q.forward = value == "1"
	case "relay":
		q.relay = value == "1"
	case "echo":
		q.echo = value == "1"
	case "body":
		q.body, err = strconv.ParseInt(value, 10, 64)
	case "events":
		q.events, err = strconv.Atoi(value)
	case "trailer":
		q.trailer = value == "1"
	case "status":
		q.status, err = strconv.Atoi(value)
	case "session":
		q.session = value == "1"
	case "bare":
		q.bare = value == "1"
	case "close":
		q.close = value == "1"
	case "reset":
		q.reset = value
	default: // for an upstream, or only there to make the target unique
	}
	return err
}

// forUpstream is the query for one upstream: the parameters that carry its name, or "up".
func (q *query) forUpstream(name string) string {
	if len(q.values) == 0 {
		return ""
	}
	out := make(url.Values)
	for key, values := range q.values {
		to, rest, ok := strings.Cut(key, ".")
		if ok && (to == name || to == "up") {
			out[rest] = values
		}
	}
	return out.Encode()
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.page.requests.Add(1)
	a.page.sleep()
	q, err := a.parse(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	time.Sleep(q.sleep)
	burn(q.burn)
	if q.session {
		w.Header().Set("Set-Cookie", r.Header.Get("Cookie"))
	}
	if q.close {
		w.Header().Set("Connection", "close")
	}
	if q.relay || q.echo {
		a.stream(w, r, q)
		return
	}
	if !q.forward {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	if err := a.callAll(r, q.calls, q, io.Discard); err != nil {
		if !gone(r.Context()) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
		return
	}
	switch {
	case q.reset != "":
		reset(w, q.reset == "mid")
	case r.Header.Get("Upgrade") == "websocket":
		webSocket(w, r)
	case q.events > 0:
		events(w, q.events)
	default:
		a.answer(w, q)
	}
}

// stream answers with a body that arrives while it is sent.
func (a *app) stream(w http.ResponseWriter, r *http.Request, q *query) {
	var err error
	if q.echo {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, err = io.Copy(w, r.Body)
	} else {
		err = a.callAll(r, q.calls, q, w)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the head may be out: a broken connection is the only honest answer
	}
}

func (a *app) answer(w http.ResponseWriter, q *query) {
	if q.trailer {
		w.Header().Set("Trailer", "X-Lab-Trailer")
		defer w.Header().Set("X-Lab-Trailer", a.name)
	}
	if q.body < 0 {
		w.WriteHeader(q.status)
		_, _ = io.WriteString(w, a.name+" ok\n")
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(q.body, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(q.status)
	_, _ = io.CopyN(w, filler{}, q.body)
}

// reset ends the connection by a reset, before the answer or in the middle of it.
func reset(w http.ResponseWriter, mid bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if mid {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+strings.Repeat("x", 500))
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// burn keeps one CPU busy for d of wall time.
func burn(d time.Duration) {
	for end := time.Now().Add(d); d > 0 && time.Now().Before(end); {
	}
}

// filler is an endless body.
type filler struct{}

func (filler) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'm'
	}
	return len(p), nil
}
