package bpf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// how bytes are written.
type how int

const (
	byWrite how = iota
	byVector
	byMore   // MSG_MORE: more will follow at once
	bySend   // sendfile
	byPieces // without waiting, into a small buffer: as much as there is room for
	hows
)

// step is one thing that a client does.
type step struct {
	bytes    []byte
	how      how
	response int // bytes that the server sends then, and the client reads
}

// ending is how a connection ends.
type ending int

const (
	closes  ending = iota // the client says that it sends no more, and reads what comes
	resets                // the client resets the connection
	isReset               // the server does, and the client finds out when it writes
)

// talk is what a client does on a connection.
type talk struct {
	steps    []step
	end      ending
	requests int
	small    bool // buffers
}

// drawTalk makes one.
func drawTalk(d *rand.Rand) (t talk) {
	t.end = ending(max(0, d.IntN(10)-7))
	t.small = d.IntN(8) == 0
	for range 1 + d.IntN(6) {
		b := drawRequest(d)
		t.requests++
		for d.IntN(12) == 0 { // pipelined
			b = append(b, drawRequest(d)...)
			t.requests++
		}
		for len(b) > 0 {
			n := len(b)
			switch d.IntN(8) {
			case 0: // anywhere
				n = 1 + d.IntN(n)
			case 1: // behind the head
				if at := bytes.Index(b, []byte("\r\n\r\n")); at >= 0 {
					n = at + 4
				}
			}
			s := step{bytes: b[:n:n]}
			if d.IntN(4) == 0 {
				s.how = how(d.IntN(int(hows)))
			}
			if t.small {
				s.how = byPieces
			}
			if b = b[n:]; len(b) == 0 && d.IntN(2) == 0 {
				s.response = 1 + d.IntN(2000)
			}
			t.steps = append(t.steps, s)
		}
	}
	return t
}

// drawRequest makes a request, mostly one as it should be.
func drawRequest(d *rand.Rand) []byte {
	methods := []string{"GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "CONNECT", "TRACE", "get", ""}
	method := methods[d.IntN(7)]
	if d.IntN(50) == 0 {
		method = methods[d.IntN(len(methods))]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s /%s HTTP/1.%d\r\n", method, letters(d, d.IntN(60)), 1-d.IntN(8)/7)
	fields := []string{
		"Host: " + letters(d, 5), "Accept: */*", "User-Agent: " + letters(d, 40), "X-Request-Id2: 1", "Cookie: " + letters(d, d.IntN(300)),
		"X-B: caf\xc3\xa9", "Connection: keep-alive", "Empty:", "A:\tb\t",
	}
	for range d.IntN(9) {
		b.WriteString(fields[d.IntN(len(fields))] + "\r\n")
	}
	switch d.IntN(40) {
	case 0, 1, 2, 3:
		b.WriteString([]string{"X-Request-ID: 1", "x-request-id:2", "X-REQUEST-ID:  ", "x-correlation-id: 3"}[d.IntN(4)] + "\r\n")
	case 4:
		b.WriteString([]string{"X-Request-ID : 1", " X-Request-ID: 1", "X-Request-ID: 1\n", "Upgrade: websocket", "A: b\x00c", "Trailer"}[d.IntN(6)] + "\r\n")
	case 5:
		b.WriteString("Long: " + letters(d, d.IntN(10000)) + "\r\n")
	}
	body := drawBody(d, &b)
	out := []byte(b.String())
	if d.IntN(40) == 0 { // anything anywhere
		out[d.IntN(len(out))] = byte(d.IntN(256))
	}
	return append(out, body...)
}

// drawBody ends a head, and makes the body that it announces.
func drawBody(d *rand.Rand, head *strings.Builder) (body string) {
	switch d.IntN(12) {
	case 0, 1, 2:
		body = letters(d, d.IntN(500))
		fmt.Fprintf(head, "Content-Length: %d\r\n", len(body))
	case 3:
		body = letters(d, d.IntN(100000))
		fmt.Fprintf(head, "content-length:%d\r\n", len(body))
	case 4:
		if d.IntN(3) == 0 {
			head.WriteString("Transfer-Encoding: chunked\r\n")
			body = "5\r\nhello\r\n0\r\n\r\n"
		}
	case 5: // of another length than it says
		if d.IntN(5) == 0 {
			body = letters(d, d.IntN(50))
			fmt.Fprintf(head, "Content-Length: %d\r\n", d.IntN(50))
		}
	case 6: // that looks like a head
		body = "GET /inside HTTP/1.1\r\nHost: x\r\n\r\n"
		fmt.Fprintf(head, "Content-Length: %d\r\n", len(body))
	}
	head.WriteString("\r\n")
	return body
}

func letters(d *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(d.IntN(26))
	}
	return string(b)
}
