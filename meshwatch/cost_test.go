package meshwatch

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
)

// traffic makes flights as a mesh does: requests through six legs, 64 at a time, 2,000 a second.
type traffic struct {
	now, id  uint64
	requests uint64
	legs     [64][6]tcp
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

// BenchmarkRequest is what the agent computes per request: 12 flights joined, 132 hops measured, one in twenty rendered. It is user
// space without the reading of the ring.
func BenchmarkRequest(b *testing.B) {
	cfg := Default()
	cfg.Keep.PerSecond = 100
	a := &Agent{cfg: cfg, losses: &loss.Set{}, names: observe.NewNames(cfg.Proxies), keep: newKeeper(cfg.Keep), recent: newRecent(cfg.Retain)}
	a.observer = observe.New(a.names, nil)
	jc := join.DefaultConfig(head.New(head.Config{RequestIDHeaders: cfg.RequestIDHeaders}))
	jc.Proxy = func(pid uint32) bool { return pid >= 100 }
	a.joiner = join.New(jc, a.losses, a.tree)
	t := newTraffic()
	id := []byte("00000000-33a4-4c0e-9d6e-0000000000000000")[:36]
	get := []byte("GET / HTTP/1.1\r\nHost: 10.12.1.3:8080\r\nUser-Agent: x\r\nX-Forwarded-For: 10.12.1.2\r\nX-Forwarded-Proto: http\r\nX-Request-ID: " + string(id) + "\r\n\r\n")
	ok := []byte("HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 20:00:00 GMT\r\nContent-Length: 12\r\nX-Request-ID: " + string(id) + "\r\n\r\nfrontend ok\n")
	one := func() {
		copy(get[len(get)-40:], fmt.Appendf(nil, "%08x", binary.BigEndian.Uint32(binary.BigEndian.AppendUint32(nil, uint32(t.requests)))))
		for leg := range 6 {
			f := t.flight(leg, 0, len(get))
			a.joiner.Flight(&f, get)
		}
		for leg := 5; leg >= 0; leg-- {
			f := t.flight(leg, 1, len(ok))
			a.joiner.Flight(&f, ok)
		}
		t.now += 260_000
		if t.requests++; t.requests%8 == 0 {
			a.joiner.Tick(t.now)
		}
	}
	for range 2000 { // as many as are in memory at a time, and more
		one()
	}
	before := a.joiner.Stats.Trees
	b.ResetTimer()
	for range b.N {
		one()
	}
	b.StopTimer()
	b.ReportMetric(float64(a.joiner.Stats.Trees-before)/float64(b.N), "trees/op")
	b.ReportMetric(float64(a.joiner.Stats.Relays)/float64(t.requests), "relays/op")
}
