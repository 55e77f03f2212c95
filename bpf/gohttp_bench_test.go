package bpf

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkSend is what mw_send costs in a write of a small HTTP message, by the kernel's count (ns/run): without probes on Go's net/http,
// with probes that are on another program, and in a program that they know.
func BenchmarkSend(b *testing.B) {
	for name, known := range map[string]int{"no probes": -1, "another program": 1 << 21, "known": os.Getpid()} {
		b.Run(name, func(b *testing.B) {
			r := benchEdges(b)
			if known >= 0 {
				r.ring.control.Go = 1
				at := uint32(known) * 0x9e3779b1 >> 12 & 127 * 8                     //nolint:gosec // a process; its set, go_set_of in c/gohttp.h
				r.GoHTTP.known[at] = gohttpGoProcess{Tgid: uint32(known), Goid: 152} //nolint:gosec // as above
			}
			counting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				b.Fatal(err)
			}
			defer counting.Close()
			before := sendStats(b, r)
			thereAndBack(b)
			after := sendStats(b, r)
			b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount), "ns/run")
		})
	}
}

// benchEdges records all namespaces.
func benchEdges(b *testing.B) *Recorder {
	b.Helper()
	privileged(b)
	r, err := Load(Options{Sizes: DefaultSizes()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := r.Attach(); err != nil {
		b.Fatal(err)
	}
	r.Ring().Enable(true)
	return r
}

func sendStats(b *testing.B, r *Recorder) *ebpf.ProgramStats {
	b.Helper()
	s, err := r.Sockets.objs.MwSend.Stats()
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// thereAndBack sends messages there and back on loopback while the benchmark lasts.
func thereAndBack(b *testing.B) {
	b.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	c, err := net.DialTimeout("tcp", ln.Addr().String(), time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	request, response := []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), []byte("HTTP/1.1 204 No Content\r\n\r\n")
	buf := make([]byte, 100)
	for b.Loop() {
		for _, m := range []struct {
			from, to net.Conn
			b        []byte
		}{{c, s, request}, {s, c, response}} {
			if _, err := m.from.Write(m.b); err != nil {
				b.Fatal(err)
			}
			if _, err := m.to.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}
