package bpf

import (
	"context"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startInject records the test's own namespace, in which requests to a port are given ids.
func startInject(t *testing.T) (*Recorder, *sidecar) {
	t.Helper()
	r := startEdges(t, Options{Sizes: DefaultSizes(), Inject: []string{"X-Correlation-ID"}})
	s := newSidecar(t, "tcp4", "127.0.0.1:0")
	if err := r.Inject.Select(map[uint32][]uint16{ownNetns(t): {s.port}}); err != nil {
		t.Fatal(err)
	}
	if err := r.Inject.Attach(); err != nil {
		t.Fatal(err)
	}
	return r, s
}

// sidecar is a listener whose connections are read as they come.
type sidecar struct {
	net.Listener
	port uint16
}

func newSidecar(t testing.TB, network, addr string) *sidecar {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &sidecar{ln, uint16(ln.Addr().(*net.TCPAddr).Port)}
}

// dial opens a connection to it, in the test's namespace, and both ends of it.
func (s *sidecar) dial(t testing.TB) (client, server net.Conn) {
	t.Helper()
	return s.dialTo(t, s.Addr().String())
}

var injectedLine = regexp.MustCompile(`^X-Request-ID: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\r\n$`)

// without takes the line out that was put into what came, behind its first line.
func without(t *testing.T, got string) string {
	t.Helper()
	first := strings.Index(got, "\r\n") + 2
	if len(got) < first+InjectedBytes || !injectedLine.MatchString(got[first:first+InjectedBytes]) {
		t.Fatalf("no line was put behind the first one of %q", got)
	}
	return got[:first] + got[first+InjectedBytes:]
}

// read is what came within a while that is n bytes long, or all before the other end closed.
func read(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, n)
	got, err := io.ReadFull(c, buf)
	if err != nil {
		t.Fatalf("%v after %q", err, buf[:got])
	}
	return string(buf)
}

func outcomes(t *testing.T, r *Recorder) map[string]uint64 {
	t.Helper()
	o, err := r.Inject.Outcomes()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{"injected": o.Injected, "had-id": o.HadID}
	for k, n := range o.Missed {
		out[k] = n
	}
	for k, n := range out {
		if n == 0 {
			delete(out, k)
		}
	}
	return out
}

// What is written, in writes, and what becomes of it.
func TestInjectWhere(t *testing.T) {
	r, s := startInject(t)
	get, post := "GET /one?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
	for name, c := range map[string]struct {
		writes []string
		lines  string // of each write: + it gets a line, - it stays as it is
		want   map[string]uint64
	}{
		"one":                  {[]string{get}, "+", map[string]uint64{"injected": 1}},
		"many":                 {[]string{get, get, get}, "+++", map[string]uint64{"injected": 3}},
		"HTTP/1.0":             {[]string{"GET / HTTP/1.0\r\n\r\n"}, "+", map[string]uint64{"injected": 1}},
		"body in one write":    {[]string{post + "12345", get}, "++", map[string]uint64{"injected": 2}},
		"body apart":           {[]string{post, "12345", get}, "+-+", map[string]uint64{"injected": 2}},
		"body in pieces":       {[]string{post + "1", "2", "345", get}, "+--+", map[string]uint64{"injected": 2}},
		"body like a head":     {[]string{fmt.Sprintf("PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", 2*len(get)), get, get, get}, "+--+", map[string]uint64{"injected": 2}},
		"has one":              {[]string{"GET / HTTP/1.1\r\nx-request-id: 1\r\n\r\n", get}, "-+", map[string]uint64{"injected": 1, "had-id": 1}},
		"has one, capitals":    {[]string{"GET / HTTP/1.1\r\nHost: x\r\nX-REQUEST-ID:1\r\nA: b\r\n\r\n"}, "-", map[string]uint64{"had-id": 1}},
		"has an empty one":     {[]string{"GET / HTTP/1.1\r\nX-Request-Id:\r\n\r\n"}, "-", map[string]uint64{"had-id": 1}},
		"has one by a name":    {[]string{"GET / HTTP/1.1\r\nX-Correlation-ID: 1\r\n\r\n"}, "-", map[string]uint64{"had-id": 1}},
		"nearly":               {[]string{"GET / HTTP/1.1\r\nX-Request-I: 1\r\nX-Request-IDs: 1\r\nA: X-Request-ID: 1\r\n\r\n"}, "+", map[string]uint64{"injected": 1}},
		"blank before colon":   {[]string{"GET / HTTP/1.1\r\nX-Request-ID : 1\r\n\r\n", get}, "--", map[string]uint64{"odd-head": 1}},
		"folded":               {[]string{"GET / HTTP/1.1\r\nA: b\r\n X-Request-ID: 1\r\n\r\n", get}, "--", map[string]uint64{"odd-head": 1}},
		"bare LF":              {[]string{"GET / HTTP/1.1\nHost: x\n\n", get}, "--", map[string]uint64{"odd-head": 1}},
		"bare LF in a field":   {[]string{"GET / HTTP/1.1\r\nA: b\nX-Request-ID: 1\r\n\r\n", get}, "--", map[string]uint64{"odd-head": 1}},
		"bare CR":              {[]string{"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", get}, "--", map[string]uint64{"odd-head": 1}},
		"zero byte":            {[]string{"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n", get}, "--", map[string]uint64{"odd-head": 1}},
		"text beyond ASCII":    {[]string{"GET / HTTP/1.1\r\nA: b\xc3\xa9\r\n\r\n"}, "+", map[string]uint64{"injected": 1}},
		"two lengths":          {[]string{"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n12345", get}, "--", map[string]uint64{"odd-head": 1}},
		"length is a list":     {[]string{"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n12345", get}, "--", map[string]uint64{"odd-head": 1}},
		"length is signed":     {[]string{"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n12345", get}, "--", map[string]uint64{"odd-head": 1}},
		"length is empty":      {[]string{"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", get}, "--", map[string]uint64{"odd-head": 1}},
		"length with blanks":   {[]string{"POST / HTTP/1.1\r\nContent-Length:\t 5 \t\r\n\r\n12345", get}, "++", map[string]uint64{"injected": 2}},
		"length is huge":       {[]string{"POST / HTTP/1.1\r\nContent-Length: 4294967301\r\n\r\n12345", get}, "--", map[string]uint64{"body-unknown": 1}},
		"chunked":              {[]string{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", get}, "--", map[string]uint64{"body-unknown": 1}},
		"CONNECT":              {[]string{"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", get}, "--", map[string]uint64{"tunnel": 1}},
		"upgrade":              {[]string{"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", get}, "+-", map[string]uint64{"injected": 1, "tunnel": 1}},
		"pipelined in a write": {[]string{get + get, get}, "+-", map[string]uint64{"injected": 1, "pipelined": 1}},
		"pipelined with part":  {[]string{get + get[:9], get[9:], get}, "+--", map[string]uint64{"injected": 1, "pipelined": 1}},
		"past the body":        {[]string{post, "12345" + get, get}, "+--", map[string]uint64{"injected": 1, "lost-track": 1}},
		"split head":           {[]string{get[:20], get[20:], get}, "---", map[string]uint64{"split-head": 1}},
		"split empty line":     {[]string{get[:len(get)-1], get[len(get)-1:], get}, "---", map[string]uint64{"split-head": 1}},
		"TLS":                  {[]string{"\x16\x03\x01\x02\x00\x01\x00", get}, "--", map[string]uint64{"not-http": 1}},
		"HTTP/2":               {[]string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", get}, "--", map[string]uint64{"not-http": 1}},
		"other method":         {[]string{"BREW / HTTP/1.1\r\n\r\n", get}, "--", map[string]uint64{"not-http": 1}},
		"small letters":        {[]string{"get / HTTP/1.1\r\n\r\n"}, "-", map[string]uint64{"not-http": 1}},
		"other version":        {[]string{"GET / HTTP/1.2\r\n\r\n"}, "-", map[string]uint64{"not-http": 1}},
		"no version":           {[]string{"GET /\r\n"}, "-", map[string]uint64{"odd-head": 1}},
		"two blanks":           {[]string{"GET  / HTTP/1.1\r\n\r\n"}, "-", map[string]uint64{"odd-head": 1}},
		"empty line first":     {[]string{"\r\n" + get}, "-", map[string]uint64{"not-http": 1}},
		"response":             {[]string{"HTTP/1.1 200 OK\r\n\r\n"}, "-", map[string]uint64{"not-http": 1}},
		"longest line":         {[]string{"GET /" + strings.Repeat("a", 3072-16) + " HTTP/1.1\r\n\r\n", get}, "++", map[string]uint64{"injected": 2}},
		"longer line":          {[]string{"GET /" + strings.Repeat("a", 3073-16) + " HTTP/1.1\r\n\r\n", get}, "-+", map[string]uint64{"injected": 1, "long-line": 1}},
		"longest head":         {[]string{padded(8192), get}, "++", map[string]uint64{"injected": 2}},
		"longer head":          {[]string{padded(8193), get}, "--", map[string]uint64{"long-head": 1}},
		"large body":           {[]string{fmt.Sprintf("POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", 1<<20) + strings.Repeat("x", 1<<20), get}, "++", map[string]uint64{"injected": 2}},
	} {
		before := outcomes(t, r) // no subtest: that would be another thread, elsewhere
		client, server := s.dial(t)
		for i, w := range c.writes {
			done := make(chan error, 1)
			go func() {
				_, err := io.WriteString(client, w)
				done <- err
			}()
			n := len(w)
			if c.lines[i] == '+' {
				n += InjectedBytes
			}
			got := read(t, server, n)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if c.lines[i] == '+' {
				got = without(t, got)
			}
			if got != w {
				t.Errorf("%s, write %d: %.200q came as %.200q", name, i, w, got)
			}
		}
		got := outcomes(t, r)
		for k, n := range before {
			if got[k] -= n; got[k] == 0 {
				delete(got, k)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: outcomes (-want +got):\n%s", name, diff)
		}
	}
}

// padded is a request whose head has n bytes.
func padded(n int) string {
	s := "GET / HTTP/1.1\r\nA: " + "\r\n\r\n"
	return s[:19] + strings.Repeat("b", n-len(s)) + s[19:]
}
