package bpf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// certificate is one for 127.0.0.1, which nobody signed.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// goWrite is where crypto/tls's Write is in the file of this test, once for each call: where it begins, it begins anew after the stack has
// grown or the goroutine was preempted.
func goWrite(t *testing.T) TLSPoint {
	t.Helper()
	_, at := prologue(t, (*tls.Conn).Write)
	return TLSPoint{TLSGoWrite, at}
}

// prologue is where a Go function begins in the file of this test, and where it is behind its check of the stack: push %rbp; mov %rsp,%rbp.
func prologue(t testing.TB, function any) (entry, push uint64) {
	t.Helper()
	entry = offsetOf(t, function)
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	code := make([]byte, 64)
	if _, err := file.ReadAt(code, int64(entry)); err != nil { //nolint:gosec // a file has less
		t.Fatal(err)
	}
	at := bytes.Index(code, []byte{0x55, 0x48, 0x89, 0xe5})
	if at <= 0 {
		t.Fatalf("it begins with % x", code)
	}
	return entry, entry + uint64(at) //nolint:gosec // not negative
}

// offsetOf is where a function is in the file of this test.
func offsetOf(t testing.TB, function any) uint64 {
	t.Helper()
	pc := runtime.FuncForPC(reflect.ValueOf(function).Pointer()).Entry()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(maps), "\n") {
		var from, to, off uint64
		var perms string
		if n, err := fmt.Sscanf(line, "%x-%x %s %x", &from, &to, &perms, &off); n == 4 && err == nil && uint64(pc) >= from && uint64(pc) < to {
			return uint64(pc) - from + off
		}
	}
	t.Fatalf("no mapping has %#x", pc)
	return 0
}

func probe(t *testing.T, r *Recorder, path string, points ...TLSPoint) *Probes {
	t.Helper()
	p, err := r.TLS.Attach(path, points)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// plaintexts are what was captured of those flights and writes that have plaintext.
func plaintexts(t *testing.T, r *Recorder, flights []Flight) (heads []string, lens []uint32) {
	t.Helper()
	for _, f := range flights {
		if flags := uint32(f.Flags); flags&FlagPlain == 0 || flags&FlagJoined != 0 && f.HeadTotal == 0 { // that one's is in texts
			continue
		}
		head, ok := r.Ring().Head(nil, &f)
		if !ok {
			t.Error("head overwritten")
		}
		heads, lens = append(heads, string(head)), append(lens, f.PlainLen)
	}
	return heads, lens
}

// Plaintext of Go's crypto/tls, in order, each write once, and none of the handshake.
func TestGoTLS(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	p := probe(t, r, "/proc/self/exe", goWrite(t))
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nobody signed it
	s := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	big := "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("b", 100_000)
	want := []string{"GET /1 HTTP/1.1\r\n\r\n", "GET /2 HTTP/1.1\r\n\r\n", "x", big}
	for _, m := range want[:3] {
		say(t, c, s, m)
	}
	go func() {
		_, err := io.CopyN(io.Discard, c, int64(len(big)))
		done <- err
	}()
	if _, err := io.WriteString(s, big); err != nil { // by this thread: others are in another namespace, which is left out
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got, lens := plaintexts(t, r, recorded(t, r, port, 0))
	if len(got) != len(want) {
		t.Fatalf("%d writes with plaintext, want %d: %q", len(got), len(want), got)
	}
	for i, m := range want {
		if got[i] != m[:min(len(m), HeadBytes)] || int(lens[i]) != len(m) {
			t.Errorf("write %d: %d bytes %.40q, want %d bytes %.40q", i, lens[i], got[i], len(m), m)
		}
	}
	if calls := p.Calls(); calls.Calls != 4 || calls.Tied != 4 {
		t.Errorf("%+v, want 4 calls, all tied", calls)
	}
}

// tlsPair is a connection of Go's crypto/tls whose writes are probed.
func tlsPair(t *testing.T, r *Recorder) (c, s *tls.Conn, port uint16) {
	t.Helper()
	probe(t, r, "/proc/self/exe", goWrite(t))
	c = tls.Client(&later{}, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nobody signed it
	s, port = connect(t, c)
	return c, s, port
}

// later is a connection that is made later.
type later struct{ net.Conn }

// connect makes a client's connection, with windows of some packets.
func connect(t *testing.T, c *tls.Conn) (s *tls.Conn, port uint16) {
	t.Helper()
	client, server, port := pair(t, "tcp", "127.0.0.1:0")
	for _, conn := range []net.Conn{client, server} {
		if err := errors.Join(conn.(*net.TCPConn).SetReadBuffer(1<<14), conn.(*net.TCPConn).SetWriteBuffer(1<<17)); err != nil {
			t.Fatal(err)
		}
	}
	c.NetConn().(*later).Conn = client
	s = tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return s, port
}

// samePlace are n connections, to be made, whose objects have the same hash.
func samePlace(t *testing.T, n int) []*tls.Conn {
	t.Helper()
	by := map[uint32][]*tls.Conn{}
	for range 1 << 16 {
		c := tls.Client(&later{}, &tls.Config{InsecureSkipVerify: true})                   //nolint:gosec // nobody signed it
		object := uint64(uintptr(unsafe.Pointer(c))) ^ uint64(os.Getpid())<<47             //nolint:gosec // as object_of
		place := (uint32(object>>4) ^ uint32(object>>40)) * 0x9e3779b1 >> 16 & (1<<13 - 1) //nolint:gosec // as object_hash
		if by[place] = append(by[place], c); len(by[place]) == n {
			return by[place]
		}
	}
	t.Fatalf("no %d objects have the same hash", n)
	return nil
}

// frames are HTTP/2, at least size bytes of it. body says of each byte that it is of a body.
func frames(rnd *mrand.Rand, size, most int) (stream []byte, body []bool) {
	stream = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	for len(stream) < size {
		kind, size := byte(1), 20+rnd.IntN(300) // HEADERS
		if rnd.IntN(2) == 0 {
			kind, size = 0, rnd.IntN(1<<rnd.IntN(most)) // DATA
		}
		frame := append([]byte{byte(size >> 16), byte(size >> 8), byte(size), kind, 0, 0, 0, 0, 1}, make([]byte, size)...)
		for i := range frame[9:] {
			frame[9+i] = byte(rnd.IntN(256))
		}
		body = append(body, make([]bool, len(stream)-len(body)+9+5)...)
		for range size - 5 {
			body = append(body, kind == 0)
		}
		body, stream = body[:min(len(body), len(stream)+len(frame))], append(stream, frame...)
	}
	return stream, body
}

// framesCaptured checks that of a stream all but bodies was captured, each byte once and in order. It returns how much of bodies was not.
func framesCaptured(t *testing.T, r *Recorder, port uint16, stream []byte, body []bool) (bodies int) {
	t.Helper()
	flights := recorded(t, r, port, 0)
	slices.SortFunc(flights, func(a, b Flight) int { return int(int32(a.Seq - b.Seq)) }) //nolint:gosec // a signed distance
	got, lens := plaintexts(t, r, flights)
	at := 0
	for i, b := range got {
		if at+len(b) > len(stream) || string(stream[at:at+len(b)]) != b {
			t.Fatalf("write %d of %d bytes: other bytes were captured than those at %d", i, lens[i], at)
		}
		for k := at + len(b); k < at+int(lens[i]); k++ {
			if !body[k] {
				t.Fatalf("write %d: %d of %d bytes captured, byte %d of the stream is of no body", i, len(b), lens[i], k)
			}
			bodies++
		}
		at += int(lens[i])
	}
	if at != len(stream) {
		t.Errorf("writes of %d bytes were seen, want %d", at, len(stream))
	}
	return bodies
}

// Of HTTP/2 all heads are captured however its frames lie in writes, and little of the bodies.
func TestFramesOverTLS(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	c, s, port := tlsPair(t, r)
	rnd := mrand.New(mrand.NewPCG(1, 2)) //nolint:gosec // no secret
	stream, body := frames(rnd, 3<<20, 18)
	buf := make([]byte, 1<<15)
	for rest := stream; len(rest) > 0; {
		n := min(len(rest), []int{1 + rnd.IntN(30), 1 + rnd.IntN(2000), 1 << 14, 1 + rnd.IntN(1<<15)}[rnd.IntN(4)])
		if _, err := c.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, buf[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if bodies := framesCaptured(t, r, port, stream, body); bodies < len(stream)/5 {
		t.Errorf("all but %d of %d bytes were copied", bodies, len(stream))
	}
}

// Writes that wait for the window leave together, behind the end of one of which a part has left: no packet begins with most of them. All
// are captured, while another connection whose object has the same hash writes, too.
func TestFramesThatWait(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	probe(t, r, "/proc/self/exe", goWrite(t))
	same := samePlace(t, 2)
	c, other := same[0], same[1]
	s, port := connect(t, c)
	peer, _ := connect(t, other)
	rnd := mrand.New(mrand.NewPCG(3, 4)) //nolint:gosec // no secret
	stream, body := frames(rnd, 1<<20, 11)
	say(t, other, peer, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	wrote, told := 0, make(chan int, 1<<16)
	done := make(chan error, 1)
	go func() {
		buf, at := make([]byte, 1<<14), 0
		for n := range told { // reads when 40 KB wait, and then some
			for n-at > 40<<10 || n == len(stream) && at < n {
				k, err := s.Read(buf)
				if err != nil {
					done <- err
					return
				}
				at += k
			}
		}
		done <- nil
	}()
	for wrote < len(stream) {
		n, err := c.Write(stream[wrote:min(len(stream), wrote+1+rnd.IntN(1500))])
		if err != nil {
			t.Fatal(err)
		}
		wrote += n
		told <- wrote
		say(t, other, peer, "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x01\x00")
	}
	close(told)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	framesCaptured(t, r, port, stream, body)
	inside := 0
	flights := recorded(t, r, port, 0)
	for _, f := range flights {
		if uint32(f.Flags)&FlagText != 0 && !slices.ContainsFunc(flights, func(g Flight) bool { return g.Seq == f.Seq && g.SendSk == f.SendSk && g.Id != f.Id }) {
			inside++
		}
	}
	if inside < 10 {
		t.Errorf("%d writes left within a packet: too few to show anything", inside)
	}
	t.Logf("%d of %d records are of writes that left within a packet", inside, len(flights))
}

// An OpenSSL program as client: probes on its library by symbol.
func TestOpenSSL(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	lib, points := libssl(t, "/usr/bin/curl")
	p := probe(t, r, lib, points...)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	const requests = 5
	served := make(chan error, 1)
	go func() { served <- answer(ln, requests) }()
	curl(t, uint16(port), requests) //nolint:gosec // a port
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	heads, _ := plaintexts(t, r, recorded(t, r, uint16(port), 0)) //nolint:gosec // a port
	posts := 0
	for _, h := range heads {
		if strings.HasPrefix(h, "POST /x HTTP/1.1\r\n") {
			posts++
		}
	}
	if posts != requests {
		t.Errorf("%d requests, want %d: %q", posts, requests, heads)
	}
	if c := p.Calls(); c.Calls == 0 || c.Tied != c.Calls {
		t.Errorf("%+v: not all tied", c)
	}
}

// curl posts n times on one connection.
func curl(t *testing.T, port uint16, n int) {
	t.Helper()
	args := append([]string{"-sk", "--http1.1", "-H", "Cookie: c", "-d", "body"},
		strings.Fields(strings.Repeat(fmt.Sprintf("https://127.0.0.1:%d/x ", port), n))...)
	if out, err := exec.Command("/usr/bin/curl", args...).CombinedOutput(); err != nil {
		t.Fatalf("curl: %v: %s", err, out)
	}
}

const answered = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// answer answers n requests with a body of 4 bytes on one connection.
func answer(ln net.Listener, n int) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	var got []byte
	buf := make([]byte, 4096)
	for range n {
		for !bytes.HasSuffix(got, []byte("\r\n\r\nbody")) {
			k, err := conn.Read(buf)
			if err != nil {
				return err
			}
			got = append(got, buf[:k]...)
		}
		got = got[:0]
		if _, err := io.WriteString(conn, answered); err != nil {
			return err
		}
	}
	return nil
}

// libssl is a program's, and where its writes and reads are.
func libssl(t *testing.T, program string) (path string, points []TLSPoint) {
	t.Helper()
	out, err := exec.Command("ldd", program).Output()
	m := regexp.MustCompile(`libssl\S* => (\S+)`).FindSubmatch(out)
	if err != nil || m == nil {
		t.Skipf("%s has no OpenSSL of its own: %v", program, err)
	}
	if path, err = filepath.EvalSymlinks(string(m[1])); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	syms, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]TLSKind{"SSL_write": TLSWrite, "SSL_write_ex": TLSWriteEx, "SSL_read": TLSRead, "SSL_read_ex": TLSReadEx}
	for _, s := range syms {
		if kind, ok := kinds[s.Name]; ok && s.Value != 0 {
			points = append(points, TLSPoint{kind, s.Value}) // its text is mapped where it is in the file
		}
	}
	return path, points
}

// What comes from a program that has no probes is read where it is read.
func TestOpenSSLReads(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	lib, points := libssl(t, "/usr/bin/curl")
	probe(t, r, lib, points...)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := uint16(ln.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
	const requests = 5
	served := make(chan error, 1)
	go func() { served <- answer(ln, requests) }()
	curl(t, port, requests)
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, f := range recorded(t, r, port, 0) {
		if uint32(f.Flags)&FlagText == 0 {
			continue
		}
		head, _ := r.Ring().Head(nil, &f)
		texts = append(texts, string(head))
		var of Flight
		r.Ring().Copy(&of, uint64(f.Prev))
		if uint32(of.Flags)&(FlagAwaits|FlagPlain) != FlagAwaits || of.SendSk != f.SendSk || of.SendPort != port || int(f.PlainLen) != len(answered) {
			t.Errorf("%+v is not of %+v", f, of)
		}
	}
	if want := slices.Repeat([]string{answered}, requests); !slices.Equal(texts, want) {
		t.Errorf("read %q, want %q", texts, want)
	}
}
