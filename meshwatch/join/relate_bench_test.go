package join

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// BenchmarkRelate is what all of joining costs a flight with 1,000 requests in flight at a sidecar, which carry no id: identical ones,
// and such that each ask for another target.
func BenchmarkRelate(b *testing.B) {
	for _, varied := range []bool{false, true} {
		name := "identical"
		if varied {
			name = "varied"
		}
		b.Run(name, func(b *testing.B) { benchmarkRelate(b, varied) })
	}
}

const inFlight = 1000

func benchmarkRelate(b *testing.B, varied bool) {
	var lost loss.Set
	cfg := DefaultConfig(head.New(head.Config{}))
	cfg.SelfID = 1 << 31
	cfg.Proxy = func(pid uint32) bool { return pid == 101 }
	j := New(cfg, &lost, func(*Tree) {})
	s := &bench{j: j, now: uint64(1e9)}
	j.Tick(s.now)
	for i := range inFlight {
		s.legs = append(s.legs, &benchLegs{in: s.leg(1, 101, i), out: s.leg(101, 102, i)})
	}
	b.ReportAllocs()
	b.ResetTimer()
	began := cpuTime()
	for n := 0; n < b.N; n += 4 {
		s.step(varied)
	}
	b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op") // others may use the CPUs
	b.ReportMetric(float64(j.Stats.Relays)/float64(max(j.Stats.Trees, 1)), "relays/tree")
}

// cpuTime is what this process has used, in ns.
func cpuTime() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// bench is a sidecar under load: each step one request is answered and another one comes.
type bench struct {
	j      *Joiner
	now    uint64
	id     uint64
	sock   uint64
	at     int
	legs   []*benchLegs
	text   []byte
	answer []byte
}

type benchLegs struct {
	in, out benchLeg
	open    bool
}

type benchLeg struct {
	pids  [2]uint32
	socks [2]uint64
	port  uint16
	seq   [2]uint32
	prev  [2]uint32
}

func (s *bench) leg(client, server uint32, i int) benchLeg {
	s.sock += 2
	return benchLeg{pids: [2]uint32{client, server}, socks: [2]uint64{s.sock, s.sock + 1}, port: uint16(20000 + i)} //nolint:gosec // a port
}

func (s *bench) say(l *benchLeg, side int, msg []byte) {
	s.id++
	s.now += 25_000 / 4 // 160,000 a second: each is there for some 25 ms
	f := bpf.Flight{
		Id: s.id, StartNs: s.now, SendNs: s.now + 1000, RecvNs: s.now + 2000, RecvEndNs: s.now + 2000,
		Seq: l.seq[side], End: l.seq[side] + uint32(len(msg)), Ack: l.seq[1-side], Prev: l.prev[side],
		SendSk: l.socks[side], RecvSk: l.socks[1-side], SendPid: l.pids[side], RecvPid: l.pids[1-side],
		SendTid: l.pids[side], RecvTid: l.pids[1-side],
	}
	f.SendPort, f.SendPeer, f.RecvPort, f.RecvPeer = l.port, 8080, 8080, l.port
	if side == 1 {
		f.SendPort, f.SendPeer, f.RecvPort, f.RecvPeer = 8080, l.port, l.port, 8080
	}
	f.RecvUpto, f.HeadLen = f.End, uint16(len(msg)) //nolint:gosec // short
	l.seq[side], l.prev[side] = f.End, uint32(s.id) //nolint:gosec // low half, as Flight.Prev
	s.j.Flight(&f, msg)
	if s.id%500 == 0 {
		s.j.Tick(s.now)
	}
}

func (s *bench) step(varied bool) {
	l := s.legs[s.at%len(s.legs)]
	s.at++
	if l.open {
		s.say(&l.out, 1, benchAnswer)
		s.say(&l.in, 1, benchAnswer)
	}
	target := 0
	if varied {
		target = s.at
	}
	s.text = fmt.Appendf(s.text[:0], "GET /item/%d HTTP/1.1\r\nHost: backend.demo:8080\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n", target)
	s.say(&l.in, 0, s.text)
	s.say(&l.out, 0, s.text)
	l.open = true
}

var benchAnswer = []byte("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nserver: envoy\r\ndate: Fri, 27 Nov 2026 22:51:49 GMT\r\n\r\n")
