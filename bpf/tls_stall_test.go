package bpf

import (
	"cmp"
	"crypto/tls"
	"errors"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// stalls sends a file to a port by TLS without blocking, in calls of some sizes. A call that the socket does not take is made again with what
// was to be sent next behind it, if it is not longer than grows, as asyncio does. It prints how many were.
const stalls = `
import random, select, socket, ssl, sys
random.seed(5)
data, stalled, at, end = open(sys.argv[2], 'rb').read(), 0, 0, 0
sizes, grows = [int(n) for n in sys.argv[3].split(',')], int(sys.argv[4])
raw = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
context = ssl._create_unverified_context()
conn = context.wrap_socket(raw)
conn.setblocking(False)
while at < len(data):
    end = min(len(data), max(at, end) + random.choice(sizes))
    while at < end:
        try:
            at += conn.send(data[at:end])
        except ssl.SSLWantWriteError:
            stalled += 1
            select.select([], [conn], [])
            if random.random() < 0.5 and end - at < grows:
                end = min(len(data), end + random.choice((50, 500)))
conn.setblocking(True)
conn.recv(1) # the other end has read all
print(stalled)
`

// stalled sends a stream to a server that reads slowly.
type stalled struct {
	port uint16
	wire []byte // what the server read of the connection
	lost uint64 // calls whose plaintext was not tied, as counted
}

// stall runs the above with OpenSSL's writes probed.
func stall(t *testing.T, r *Recorder, stream []byte, sizes string, grows int) *stalled {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	so, err := exec.Command(python, "-c", "import _ssl; print(_ssl.__file__)").Output()
	if err != nil {
		t.Skipf("python3 has no OpenSSL: %v", err)
	}
	lib, points := libssl(t, strings.TrimSpace(string(so)))
	p := probe(t, r, lib, points...)
	file := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(file, stream, 0o600); err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := &stalled{port: uint16(ln.Addr().(*net.TCPAddr).Port)} //nolint:gosec // a port
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, MinVersion: tls.VersionTLS13}
	read := make(chan error, 1)
	go func() { read <- s.readSlowly(ln, config, len(stream)) }()
	out, err := exec.Command(python, "-c", stalls, strconv.Itoa(int(s.port)), file, sizes, strconv.Itoa(grows)).Output()
	if err := errors.Join(err, <-read); err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || n < 20 {
		t.Errorf("%s calls stalled: too few to show anything", out)
	}
	losses, err := r.Losses()
	if err != nil {
		t.Fatal(err)
	}
	s.lost = losses["plaintext-without-message"]
	t.Logf("%s calls stalled, of %+v; %d not tied", strings.TrimSpace(string(out)), p.Calls(), s.lost)
	return s
}

// tap keeps what is read of a connection.
type tap struct {
	net.Conn
	to *[]byte
}

func (c tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	*c.to = append(*c.to, b[:n]...)
	return n, err
}

// readSlowly reads size bytes of the next connection with a small window, and closes it.
func (s *stalled) readSlowly(ln net.Listener, config *tls.Config, size int) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := errors.Join(conn.(*net.TCPConn).SetReadBuffer(1<<14), conn.SetDeadline(time.Now().Add(30*time.Second))); err != nil {
		return err
	}
	c := tls.Server(tap{conn, &s.wire}, config)
	defer c.Close()
	buf := make([]byte, 50)
	for size > 0 && err == nil {
		var n int
		n, err = c.Read(buf)
		size -= n
		runtime.Gosched()
	}
	return err
}

// Calls that stall are made again by their program: what was captured of them is neither lost nor taken twice.
func TestFramesOfCallsThatStall(t *testing.T) {
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	stream, body := frames(mrand.New(mrand.NewPCG(7, 8)), 2<<20, 14) //nolint:gosec // no secret
	s := stall(t, r, stream, "20,300,3000,15000", 15500)             // a record has 16 KB
	framesCaptured(t, r, s.port, stream, body)
	if missing := placed(t, r, s, stream); missing > 0 {
		t.Errorf("%d bytes are missing", missing)
	}
}

// Where a call of several records stalls and is made again with more, what is captured is said to be where it is in the stream, and of what
// is not, it is counted that it is missing.
func TestLongCallsThatStall(t *testing.T) {
	for name, sizes := range map[string]string{"long": "20000,40000,70000", "all": "20,3000,15000,20000,40000"} {
		t.Run(name, func(t *testing.T) {
			r := startEdges(t, Options{Sizes: DefaultSizes()})
			stream, _ := frames(mrand.New(mrand.NewPCG(9, 10)), 3<<20, 14) //nolint:gosec // no secret
			s := stall(t, r, stream, sizes, 1<<20)
			missing := placed(t, r, s, stream)
			t.Logf("%d of %d bytes are missing", missing, len(stream))
			if missing > 0 && s.lost == 0 {
				t.Errorf("%d of %d bytes are missing, which nothing counted", missing, len(stream))
			}
			if missing > len(stream)/2 {
				t.Errorf("%d of %d bytes are missing", missing, len(stream))
			}
		})
	}
}

// placed checks that what was captured of a stream is where it is said to be, each byte once. It returns how much is missing.
func placed(t *testing.T, r *Recorder, s *stalled, stream []byte) int {
	t.Helper()
	flights := begun(r, s.port)
	first := flights[slices.IndexFunc(flights, func(f Flight) bool { return uint32(f.Flags)&FlagSYN != 0 })].Seq + 1
	flights = slices.DeleteFunc(flights, func(f Flight) bool {
		flags := uint32(f.Flags)
		return flags&FlagPlain == 0 || f.SendPeer != s.port || flags&FlagJoined != 0 && f.HeadTotal == 0 // that one's is in texts
	})
	slices.SortFunc(flights, func(a, b Flight) int { return cmp.Compare(a.Seq-first, b.Seq-first) })
	places := recordPlaces(t, s.wire, len(stream))
	at, missing := 0, 0
	for _, f := range flights {
		head, ok := r.Ring().Head(nil, &f)
		if !ok {
			t.Fatal("head overwritten")
		}
		place, ok := places[f.Seq-first]
		if !ok || place+len(head) > len(stream) || string(stream[place:place+len(head)]) != string(head) {
			t.Fatalf("%d bytes are said to begin with byte %d of the stream (a record does: %t), and are others", f.PlainLen, place, ok)
		}
		if place < at {
			t.Fatalf("what is said to begin with byte %d of the stream begins within what is said to go to %d", place, at)
		}
		missing += place - at
		at = place + int(f.PlainLen)
	}
	return missing + len(stream) - at
}

// recordPlaces are where records of application data begin on the wire, and where what is in them is in the stream: TLS 1.3, with a client
// that has no certificate.
func recordPlaces(t *testing.T, wire []byte, size int) map[uint32]int {
	t.Helper()
	const header, rest = 5, 17 // the tag, and what kind it is
	places := map[uint32]int{}
	at, finished := 0, false
	for off := 0; off+header <= len(wire); {
		n := int(wire[off+3])<<8 | int(wire[off+4])
		switch {
		case wire[off] != 23:
		case !finished:
			finished = true
		default:
			places[uint32(off)] = at //nolint:gosec // some megabytes
			at += n - rest
		}
		off += header + n
	}
	if at != size {
		t.Fatalf("records have %d bytes of a stream of %d", at, size)
	}
	return places
}
