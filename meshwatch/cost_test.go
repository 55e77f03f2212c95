package meshwatch

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
	"github.com/meshwatch/meshwatch/meshwatch/reader"
)

// traffic makes flights as a mesh does: requests through six legs, 64 at a time, 2,000 a second.
type traffic struct {
	now, id  uint64
	requests uint64
	legs     [64][6]tcp
	get, ok  []byte // the latest messages
}

// tcp is one connection: what each end has sent, and the id of its latest flight.
type tcp struct {
	sock uint64
	seq  [2]uint32
	prev [2]uint32
}

func newTraffic() *traffic {
	t := &traffic{now: uint64(time.Hour)}
	sock := uint64(64)
	for i := range t.legs {
		for k := range t.legs[i] {
			t.legs[i][k] = tcp{sock: sock, seq: [2]uint32{1, 1}}
			sock += 128
		}
	}
	return t
}

// pids of client, gateway, sidecar, app, the same sidecar, another one, the last app: who asks whom on each leg.
var chain = [7]uint32{1, 100, 101, 2, 101, 102, 3}

const stampsPerFlight = 10 // client to server through two pods and a bridge

// flight is the next message on a leg: of the client (0) or the server (1).
func (t *traffic) flight(leg int, side int, size int) bpf.Flight {
	c := &t.legs[t.requests%64][leg]
	t.id++
	t.now += 20_000
	f := bpf.Flight{
		Id: t.id, StartNs: t.now, SendNs: t.now + 5000, RecvNs: t.now + 15_000, RecvEndNs: t.now + 15_000,
		Seq: c.seq[side], End: c.seq[side] + uint32(size), Ack: c.seq[1-side], Prev: c.prev[side], HeadLen: uint16(size),
		SendSk: c.sock + 64*uint64(side), RecvSk: c.sock + 64*uint64(1-side), SendPid: chain[leg+side], RecvPid: chain[leg+1-side],
		SendPort: uint16(1000*(leg+1) + side), SendPeer: uint16(1000*(leg+1) + 1 - side), RecvPort: uint16(1000*(leg+1) + 1 - side), RecvPeer: uint16(1000*(leg+1) + side),
		Nstamps: stampsPerFlight,
	}
	f.RecvUpto = f.End
	for i := range stampsPerFlight {
		f.Stamps[i].Place, f.Stamps[i].Delta = uint32(1+i%7)<<28|uint32(leg<<14|i), uint32(1000*i+int(t.id%900))
	}
	c.seq[side], c.prev[side] = f.End, uint32(t.id)
	return f
}

// newBench is an agent without recorder, datapath and output, whose pids from 100 on are proxies.
func newBench() *Agent {
	cfg := Default()
	a := &Agent{cfg: cfg, losses: &loss.Set{}, names: observe.NewNames(cfg.Proxies), keep: newKeeper(cfg.Keep), recent: newRecent(cfg.Retain)}
	a.observer = observe.New(a.names, nil)
	jc := join.DefaultConfig(head.New(head.Config{RequestIDHeaders: cfg.RequestIDHeaders}))
	jc.Proxy = func(pid uint32) bool { return pid >= 100 }
	jc.Measure = a.observer.MeasureMessage
	a.joiner = join.New(jc, a.losses, a.tree)
	return a
}

// request gives the flights of one request, and of its responses, to put. It takes 500 µs.
func (t *traffic) request(put func(f *bpf.Flight, b []byte)) {
	const id = "00000000-33a4-4c0e-9d6e-000000000000"
	get := fmt.Appendf(t.get[:0], "GET / HTTP/1.1\r\nHost: 10.12.1.3:8080\r\nUser-Agent: x\r\nX-Forwarded-For: 10.12.1.2\r\nX-Forwarded-Proto: http\r\nX-Request-ID: %08x%s\r\n\r\n", uint32(t.requests), id[8:])
	ok := fmt.Appendf(t.ok[:0], "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 20:00:00 GMT\r\nContent-Length: 12\r\nX-Request-ID: %s\r\n\r\nfrontend ok\n", id)
	t.get, t.ok = get, ok
	for leg := range 6 {
		f := t.flight(leg, 0, len(get))
		put(&f, get)
	}
	for leg := 5; leg >= 0; leg-- {
		f := t.flight(leg, 1, len(ok))
		put(&f, ok)
	}
	t.now += 260_000
	t.requests++
}

// BenchmarkRequest is what the agent computes per request when all it touches is in the CPU's caches: 12 flights joined, 132 hops
// measured, one in twenty rendered. It is user space without the reading of the ring.
func BenchmarkRequest(b *testing.B) {
	a, t := newBench(), newTraffic()
	one := func() {
		t.request(func(f *bpf.Flight, head []byte) { a.joiner.Flight(f, head) })
		if t.requests%8 == 0 {
			a.joiner.Tick(t.now)
			a.now = t.now
		}
	}
	for range 2000 { // as many as are in memory at a time, and more
		one()
	}
	before := a.joiner.Stats.Trees
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		one()
	}
	b.StopTimer()
	b.ReportMetric(float64(a.joiner.Stats.Trees-before)/float64(b.N), "trees/op")
	b.ReportMetric(float64(a.joiner.Stats.Relays)/float64(t.requests), "relays/op")
}

// ring is the recorder's memory, without a recorder.
type ring struct {
	last    uint64
	flights [8192]bpf.Flight
	heads   [4 << 20]byte
	headPos int
}

func (r *ring) Len() uint64                        { return uint64(len(r.flights)) }
func (r *ring) Last() uint64                       { return r.last }
func (r *ring) At(serial uint64) *bpf.Flight       { return &r.flights[serial%uint64(len(r.flights))] }
func (r *ring) ID(serial uint64) uint64            { return r.At(serial).Id }
func (r *ring) Watch(uint64, bool)                 {}
func (r *ring) Copy(to *bpf.Flight, serial uint64) { *to = *r.At(serial) }
func (r *ring) Head(buf []byte, f *bpf.Flight) ([]byte, bool) {
	return append(buf, r.heads[f.HeadPos:f.HeadPos+uint32(f.HeadLen)]...), true
}

func (r *ring) put(f *bpf.Flight, b []byte) {
	if r.headPos+len(b) > len(r.heads) {
		r.headPos = 0
	}
	f.HeadPos, f.HeadLen = uint32(r.headPos), uint16(len(b))
	r.headPos += copy(r.heads[r.headPos:], b)
	r.last = f.Id
	*r.At(f.Id) = *f
}

// BenchmarkRequestCold is what the agent computes per request in life, from the ring to the distributions: 900 requests a second on 64
// connections are read every 80 ms, and between two reads everything has gone from the CPU's caches, as others have had it: here one
// that walks through 64 MB, whose time does not count. A tree is given out 100 ms after its messages came. Of these requests none
// is kept, or as many as by default. cpu-ns/op is the CPU time of the median read: others on the machine disturb it less than ns/op.
func BenchmarkRequestCold(b *testing.B) {
	for _, perSecond := range []int{0, Default().Keep.PerSecond} {
		b.Run(fmt.Sprintf("kept=%d", perSecond), func(b *testing.B) {
			a, t, r := newBench(), newTraffic(), &ring{}
			if a.keep.cfg.PerSecond = perSecond; perSecond == 0 {
				a.keep.cfg.Ratio = 0
			}
			in := reader.New(r, a.losses, a.joiner)
			others := make([]byte, 64<<20)
			const perRead = 72
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			round := func() float64 {
				b.StopTimer()
				for range perRead {
					t.request(r.put)
					t.now += 611_111
				}
				for i := 0; i < len(others); i += 64 {
					others[i]++
				}
				b.StartTimer()
				from := threadTime()
				a.now = t.now
				in.Poll(t.now)
				a.joiner.Tick(t.now)
				return float64(threadTime()-from) / perRead
			}
			for range 30 {
				round()
			}
			before := a.joiner.Stats.Trees
			var took []float64
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += perRead {
				took = append(took, round())
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2], "cpu-ns/op")
			if n := a.joiner.Stats.Trees - before; int(n) < b.N {
				b.Fatalf("%d trees of %d requests", n, b.N)
			}
		})
	}
}

// threadTime is the CPU time that this thread has had, in ns.
func threadTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}
