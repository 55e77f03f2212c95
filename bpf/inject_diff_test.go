package bpf

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var differences = flag.Int("requests", 20000, "how many requests TestInjectChangesNothingElse sends with and without")

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

// heard is what both ends of a connection saw.
type heard struct {
	writes   [][]byte // that the client was told were taken
	received []byte   // by the server
	answers  []byte   // received by the client
	errs     []string // that the client met
}

// hold does what a talk says.
func (k *talk) hold(t *testing.T, s *sidecar) (h heard) {
	client, server := s.dialSized(t, k.small)
	defer client.Close()
	defer server.Close()
	received := make(chan []byte, 1)
	go func() { received <- readAll(server, k.small) }()
	steps := k.steps
	if k.end == isReset {
		steps = steps[:len(steps)-1]
	}
	for i := range steps {
		writes, err := steps[i].write(t, client)
		if err != nil {
			t.Fatalf("write: %v", err)
		}
		h.writes = append(h.writes, writes...)
		h.answers = append(h.answers, exchangeAnswer(t, client, server, steps[i].response)...)
	}
	switch k.end {
	case resets:
		reset(t, client)
	case isReset:
		reset(t, server)
		known(t, client)
		_, first := k.steps[len(k.steps)-1].write(t, client)
		_, second := k.steps[len(k.steps)-1].write(t, client) // says that it was reset once more, in place of a broken pipe
		h.errs = append(h.errs, fmt.Sprint(errors.Is(first, unix.ECONNRESET)), fmt.Sprint(second != nil))
	default:
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		h.received = <-received
		h.answers = append(h.answers, exchangeAnswer(t, client, server, 3000)...)
		return h
	}
	h.received = <-received
	return h
}

// dialSized is dial, perhaps with a buffer that is soon full.
func (s *sidecar) dialSized(t *testing.T, small bool) (client, server *net.TCPConn) {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		if !small {
			return nil
		}
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4608) })
	}}
	c, err := d.Dial("tcp4", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

// readAll takes everything until the connection ends, slowly where buffers are small.
func readAll(c net.Conn, small bool) (all []byte) {
	buf := make([]byte, 1<<16)
	if small {
		buf = buf[:777]
	}
	for {
		n, err := c.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return all
		}
	}
}

// exchangeAnswer has the server send n bytes and the client read them.
func exchangeAnswer(t *testing.T, client, server net.Conn, n int) []byte {
	if n == 0 {
		return nil
	}
	if _, err := server.Write(bytes.Repeat([]byte("answer "), n)[:n]); err != nil {
		t.Fatal(err)
	}
	return []byte(read(t, client, n))
}

func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
}

// known waits until a socket knows that it was reset.
func known(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw(t, c, func(fd int) {
		for deadline := time.Now().Add(5 * time.Second); ; {
			fds := []unix.PollFd{{Fd: int32(fd)}}
			if n, err := unix.Poll(fds, 100); n > 0 && err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("the client does not hear that it was reset")
			}
		}
	})
}

func raw(t *testing.T, c *net.TCPConn, f func(fd int)) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// write writes the step's bytes, and says what of it each call took.
func (s *step) write(t *testing.T, c *net.TCPConn) (writes [][]byte, err error) {
	t.Helper()
	switch s.how {
	case byVector:
		half := len(s.bytes) / 2
		_, err := (&net.Buffers{s.bytes[:half:half], s.bytes[half:]}).WriteTo(c)
		return [][]byte{s.bytes}, err
	case byMore:
		return s.each(c, func(fd int, b []byte) (int, error) {
			return unix.SendmsgN(fd, b, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
		})
	case bySend:
		file := memory(t, s.bytes)
		defer file.Close()
		return s.each(c, func(fd int, b []byte) (int, error) { return unix.Sendfile(fd, int(file.Fd()), nil, len(b)) })
	case byPieces:
		return s.each(c, func(fd int, b []byte) (int, error) { return unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL) })
	default:
		_, err := c.Write(s.bytes)
		return [][]byte{s.bytes}, err
	}
}

// each calls until all is taken.
func (s *step) each(c *net.TCPConn, call func(fd int, b []byte) (int, error)) (writes [][]byte, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	left := s.bytes
	var callErr error
	err = rc.Write(func(fd uintptr) bool {
		for len(left) > 0 {
			n, err := call(int(fd), left)
			if errors.Is(err, unix.EAGAIN) {
				return false
			}
			if err != nil {
				callErr = os.NewSyscallError("send", err)
				return true
			}
			writes = append(writes, left[:n:n])
			left = left[n:]
		}
		return true
	})
	return writes, errors.Join(err, callErr)
}

// memory is a file with these bytes.
func memory(t *testing.T, b []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("bytes", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "bytes")
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

var (
	requestHead = regexp.MustCompile(`^(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) ([!-~]+) HTTP/1\.[01]\r\n((?:[!#$%&'*+\-.^_\x60|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*)\r\n`)
	fieldOf     = func(name string) *regexp.Regexp { return regexp.MustCompile(`(?mi)^` + name + `:[ \t]*(.*?)[ \t]*\r$`) }
	idField     = fieldOf("x-(?:request|correlation)-id")
	lengthField = fieldOf("content-length")
	codingField = fieldOf("transfer-encoding")
	upgradeTo   = fieldOf("upgrade")
	number      = regexp.MustCompile(`^[0-9]{1,10}$`)
)

// latin makes each byte a rune: regular expressions are about runes.
func latin(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

// expected says which writes are to get a line: another telling of the rules than the programs'.
func expected(writes [][]byte) []bool {
	out, at, next, sure := make([]bool, len(writes)), 0, 0, true
	for i, w := range writes {
		begins := at == next
		at += len(w)
		if !begins {
			sure = sure && at-len(w) < next
		}
		if !begins || !sure {
			continue
		}
		head := latin(w[:min(len(w), HeadLimit)])
		m := requestHead.FindStringSubmatch(head)
		if m == nil {
			sure = false
			continue
		}
		fields := m[2]
		length, lengths := 0, lengthField.FindAllStringSubmatch(fields, -1)
		if len(lengths) > 1 || codingField.MatchString(fields) || len(lengths) == 1 && !number.MatchString(lengths[0][1]) {
			sure = false
			continue
		}
		if len(lengths) == 1 {
			length, _ = strconv.Atoi(lengths[0][1])
		}
		if length > 1<<30 {
			sure = false
			continue
		}
		next = at - len(w) + len([]rune(m[0])) + length
		out[i] = !idField.MatchString(fields) && strings.IndexByte(head, '\n') < 3072
		sure = !upgradeTo.MatchString(fields) && at <= next
	}
	return out
}

// HeadLimit is HEAD_LIMIT in inject.bpf.c.
const HeadLimit = 8192

// strip takes lines out of what was received where they may be, and says which writes had one. whole: all that was written has come.
func strip(h *heard, may []bool, whole bool) (had int, err error) {
	left := h.received
	for i, w := range h.writes {
		if bytes.HasPrefix(left, w) {
			left = left[len(w):]
			continue
		}
		if !whole && len(left) < len(w)+InjectedBytes { // cut off by a reset
			return had, nil
		}
		first := bytes.Index(w, []byte("\r\n")) + 2
		if !may[i] || len(left) < len(w)+InjectedBytes || !bytes.Equal(left[:first], w[:first]) || !injectedLine.Match(left[first:first+InjectedBytes]) ||
			!bytes.HasPrefix(left[first+InjectedBytes:], w[first:]) {
			return had, fmt.Errorf("write %d of %d, may have a line: %v, %.300q, came as %.400q", i, len(h.writes), may[i], w, left)
		}
		left = left[len(w)+InjectedBytes:]
		had++
	}
	if len(left) > 0 {
		return had, fmt.Errorf("%.100q came though nobody wrote it", left)
	}
	return had, nil
}

// release lets go of what is left alone all the time: while it is written to.
func release(r *Recorder, done chan struct{}) error {
	tick := time.NewTicker(time.Millisecond / 4)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
		if err := r.Inject.Release(); err != nil {
			return err
		}
	}
}

// Requests of all kinds, whole and broken, written in all ways, on connections with and without: what is written, what comes, what is
// answered and what fails is the same, but for the lines.
func TestInjectChangesNothingElse(t *testing.T) {
	r, with := startInject(t)
	without := newSidecar(t, "tcp4", "127.0.0.1:0")
	seed := uint64(time.Now().UnixNano())
	d := rand.New(rand.NewPCG(seed, 0))
	var sent, had, may int
	done, releasing := make(chan struct{}), make(chan error)
	go func() { releasing <- release(r, done) }()
	for sent < *differences {
		k := drawTalk(d)
		a, b := k.hold(t, with), k.hold(t, without)
		sent += k.requests
		wanted := expected(a.writes)
		n, err := strip(&a, wanted, k.end == closes)
		had, may = had+n, may+n
		for _, w := range wanted {
			if w && k.end == closes {
				may++
			}
		}
		if k.end == closes {
			may -= n
		}
		if err != nil {
			t.Fatalf("seed %d, after %d requests: %v", seed, sent, err)
		}
		if _, err := strip(&b, make([]bool, len(b.writes)), k.end == closes); err != nil {
			t.Fatalf("seed %d: without: %v", seed, err)
		}
		if x, y := bytes.Join(a.writes, nil), bytes.Join(b.writes, nil); !bytes.Equal(x, y) || !bytes.Equal(a.answers, b.answers) || fmt.Sprint(a.errs) != fmt.Sprint(b.errs) {
			t.Fatalf("seed %d: with: %d bytes written, %d answered, %v; without: %d, %d, %v", seed, len(x), len(a.answers), a.errs, len(y), len(b.answers), b.errs)
		}
	}
	close(done)
	if err := <-releasing; err != nil {
		t.Error(err)
	}
	o, err := r.Inject.Outcomes()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests: %d were given a line, of %d that could be; %+v", sent, had, may, o)
	if missed := uint64(may - had); missed > o.Missed["busy"] || had == 0 || o.Missed["no-memory"] != 0 {
		t.Errorf("%d requests should have a line and have none", missed)
	}
}
