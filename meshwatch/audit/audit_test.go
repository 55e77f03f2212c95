package audit

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

const (
	ms       = uint64(time.Millisecond)
	app      = 11
	proxy    = 21
	neighbor = 22 // another proxy
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// leg is one over which client asks server, from a port of the pod's address.
func leg(client, server int, from, to string) journey.Leg {
	return journey.Leg{
		Client: journey.End{Local: at(from), Peer: at(to), Pid: client, Known: true},
		Server: journey.End{Local: at(to), Peer: at(from), Pid: server, Known: true},
	}
}

func message(l journey.Leg, parent int, id string, start, took uint64) *journey.Exchange {
	return &journey.Exchange{
		Leg: l, Parent: parent, RequestID: id, Method: "GET", Target: "/", Status: 200, Request: journey.Flight{Start: start, Recv: start + ms/10},
		Response: &journey.Flight{Start: start + took - ms/10, Recv: start + took},
	}
}

const (
	appPort = "10.0.0.1:40000"
	peer    = "10.0.0.2:8080"
	inside  = "127.0.0.1:15001"
	goesOut = "10.0.0.1:50000"
)

// relayed is a request of an app that iptables redirected to its sidecar, which asked a peer.
func relayed(start uint64, id string, method journey.Method) *journey.Journey {
	in := message(leg(app, proxy, appPort, peer), -1, id, start, 10*ms)
	in.Leg.Server.Local = at(inside)
	out := message(leg(proxy, 0, goesOut, peer), 0, id, start+2*ms, 6*ms)
	return &journey.Journey{Exchanges: []*journey.Exchange{in, out}, Relays: []journey.Relay{{To: 1, Method: method, Confidence: 1}}}
}

// said is what the sidecar says of that.
func said(start uint64, id string) *journey.Said {
	return &journey.Said{
		By: journey.Speaker{Pid: proxy}, Downstream: journey.Connection{Local: at(peer), Remote: at(appPort)},
		Upstream: journey.Connection{Local: at(goesOut), Remote: at(peer)}, RequestID: id, Method: "GET", Path: "/", Status: 200,
		Start: start + ms/5, Duration: 10 * time.Millisecond, Error: time.Millisecond,
	}
}

func apart(j *journey.Journey, why string) []*journey.Journey {
	in, out := j.Exchanges[0], *j.Exchanges[1]
	out.Parent = -1
	return []*journey.Journey{{Exchanges: []*journey.Exchange{in}}, {Exchanges: []*journey.Exchange{&out}, Unjoined: why}}
}

// outcome is what a report says, without shares.
type outcome struct {
	Right, Wrong, Own, Again uint64
	Missing, Unknown         map[string]uint64
}

func outcomeOf(r *Report) outcome {
	o := outcome{Right: r.All.Right, Wrong: r.All.Wrong, Own: r.Own, Again: r.Again, Missing: map[string]uint64{}, Unknown: map[string]uint64{}}
	for _, c := range r.Missing {
		o.Missing[c.Reason] = c.Count
	}
	for _, c := range r.Unknown {
		o.Unknown[c.Reason] = c.Count
	}
	return o
}

func TestOutcomes(t *testing.T) {
	const start = 1000 * ms
	with := func(change func(*journey.Said)) *journey.Said {
		s := said(start, "")
		change(s)
		return s
	}
	one := []*journey.Journey{relayed(start, "", journey.MethodTrace)}
	foreign := relayed(start, "", journey.MethodTrace) // of which another exchange is said to be the cause
	foreign.Exchanges = append(foreign.Exchanges, message(leg(app, proxy, "10.0.0.1:40001", peer), -1, "", start, 10*ms))
	foreign.Exchanges[1].Parent = 2
	other := message(leg(app, proxy, "10.0.0.1:40001", peer), -1, "", start, 10*ms)
	far := relayed(start, "", journey.MethodTrace)
	far.Exchanges[1].Leg.Client.Pid = neighbor
	unseen := relayed(start, "", journey.MethodTrace)
	unseen.Exchanges[0].Leg.Server.Pid, unseen.Exchanges[1].Leg.Client.Pid = 0, 0
	twice := []*journey.Journey{relayed(start, "", journey.MethodTrace), relayed(start+ms/2, "", journey.MethodTrace)}
	two := []*journey.Journey{one[0], {Exchanges: []*journey.Exchange{other}}}
	elsewhere := with(func(s *journey.Said) { s.Downstream.Remote = at("10.0.0.1:40001") })
	for name, tt := range map[string]struct {
		journeys []*journey.Journey
		said     []*journey.Said
		want     outcome
	}{
		"right":                     {one, []*journey.Said{said(start, "")}, outcome{Right: 1}},
		"right, told by the socket": {one, []*journey.Said{with(func(s *journey.Said) { s.Downstream.Local = at(inside) })}, outcome{Right: 1}},
		"right, told over IP": {one, []*journey.Said{with(func(s *journey.Said) {
			s.By = journey.Speaker{Addr: netip.MustParseAddr("::ffff:10.0.0.1")}
		})}, outcome{Right: 1}},
		"right, written late":           {one, []*journey.Said{with(func(s *journey.Said) { s.Duration = 9 * time.Millisecond; s.Start -= ms })}, outcome{Right: 1}},
		"with another path":             {one, []*journey.Said{with(func(s *journey.Said) { s.Path = "/other" })}, outcome{Unknown: map[string]uint64{"connection-not-seen": 1}}},
		"wrong":                         {[]*journey.Journey{foreign}, []*journey.Said{said(start, "")}, outcome{Wrong: 1}},
		"missing":                       {apart(one[0], "no-id"), []*journey.Said{said(start, "")}, outcome{Missing: map[string]uint64{"no-id": 1}}},
		"in another journey":            {apart(one[0], ""), []*journey.Said{said(start, "")}, outcome{Missing: map[string]uint64{"root": 1}}},
		"answered by itself":            {one, []*journey.Said{with(func(s *journey.Said) { s.Upstream = journey.Connection{} })}, outcome{Own: 1}},
		"said twice":                    {one, []*journey.Said{said(start, ""), said(start, "")}, outcome{Right: 1, Again: 1}},
		"another process said it":       {one, []*journey.Said{with(func(s *journey.Said) { s.By.Pid = neighbor })}, outcome{Unknown: map[string]uint64{"not-the-speaker": 1}}},
		"another address said it":       {one, []*journey.Said{with(func(s *journey.Said) { s.By = journey.Speaker{Addr: netip.MustParseAddr("10.0.0.9")} })}, outcome{Unknown: map[string]uint64{"not-the-speaker": 1}}},
		"whom the client meant said it": {one, []*journey.Said{with(func(s *journey.Said) { s.By = journey.Speaker{Addr: at(peer).Addr()} })}, outcome{Unknown: map[string]uint64{"not-the-speaker": 1}}},
		"somebody on loopback said it":  {one, []*journey.Said{with(func(s *journey.Said) { s.By = journey.Speaker{Addr: at(inside).Addr()} })}, outcome{Unknown: map[string]uint64{"not-the-speaker": 1}}},
		"nobody knows who":              {one, []*journey.Said{with(func(s *journey.Said) { s.By = journey.Speaker{} })}, outcome{Unknown: map[string]uint64{"not-the-speaker": 1}}},
		"of two processes":              {[]*journey.Journey{far}, []*journey.Said{said(start, "")}, outcome{Unknown: map[string]uint64{"not-one-process": 1}}},
		"processes not seen":            {[]*journey.Journey{unseen}, []*journey.Said{said(start, "")}, outcome{Unknown: map[string]uint64{"not-one-process": 1}}},
		"connection not seen":           {one, []*journey.Said{with(func(s *journey.Said) { s.Upstream.Local = at("10.0.0.1:50001") })}, outcome{Unknown: map[string]uint64{"connection-not-seen": 1}}},
		"at another time":               {one, []*journey.Said{said(start+20*ms, "")}, outcome{Unknown: map[string]uint64{"connection-not-seen": 1}}},
		"with another status":           {one, []*journey.Said{with(func(s *journey.Said) { s.Status = 503 })}, outcome{Unknown: map[string]uint64{"connection-not-seen": 1}}},
		"with another method":           {one, []*journey.Said{with(func(s *journey.Said) { s.Method = "POST" })}, outcome{Unknown: map[string]uint64{"connection-not-seen": 1}}},
		"two that may be meant":         {twice, []*journey.Said{said(start, "")}, outcome{Unknown: map[string]uint64{"ambiguous": 1}}},
		"two parents are claimed":       {two, []*journey.Said{said(start, ""), elsewhere}, outcome{Unknown: map[string]uint64{"contradicted": 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.want.Missing = orNone(tt.want.Missing)
			tt.want.Unknown = orNone(tt.want.Unknown)
			for _, first := range []string{"journeys", "entries"} {
				a := New(DefaultConfig(), &loss.Set{})
				if first == "journeys" {
					give(a, tt.journeys)
				}
				for _, s := range tt.said {
					a.Say(s, start)
				}
				if first == "entries" {
					give(a, tt.journeys)
				}
				due := start + whole
				a.Tick(start + uint64(DefaultConfig().Wait) - 1)
				if diff := cmp.Diff(outcome{Own: tt.want.Own, Missing: orNone(nil), Unknown: orNone(nil)}, outcomeOf(a.Report())); diff != "" {
					t.Errorf("%s first: judged too early:\n%s", first, diff)
				}
				tick(a, due)
				r := a.Report()
				if diff := cmp.Diff(tt.want, outcomeOf(r)); diff != "" {
					t.Errorf("%s first (-want +got):\n%s", first, diff)
				}
				if r.Waiting != 0 {
					t.Errorf("%s first: %d wait", first, r.Waiting)
				}
			}
		})
	}
}

// Who comes when all is judged changes nothing, and is counted.
func TestLateLie(t *testing.T) {
	const start = 1000 * ms
	a := New(DefaultConfig(), &loss.Set{})
	other := message(leg(app, proxy, "10.0.0.1:40001", peer), -1, "", start, 10*ms)
	give(a, []*journey.Journey{relayed(start, "", journey.MethodTrace), {Exchanges: []*journey.Exchange{other}}})
	a.Say(said(start, ""), start)
	tick(a, start+whole)
	lie := said(start, "")
	lie.Downstream.Remote = at("10.0.0.1:40001")
	a.Say(lie, start+whole)
	tick(a, start+2*whole)
	want := outcome{Right: 1, Missing: orNone(nil), Unknown: map[string]uint64{"contradicted": 1}}
	if diff := cmp.Diff(want, outcomeOf(a.Report())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func orNone(m map[string]uint64) map[string]uint64 {
	if m == nil {
		return map[string]uint64{}
	}
	return m
}

// whole is how long an entry takes until it is judged.
const whole = uint64(6 * time.Second)

// tick lets time pass until now, as the agent does.
func tick(a *Audit, now uint64) {
	for at := now - whole; at <= now; at += uint64(time.Second / 2) {
		a.Tick(at)
	}
}

func give(a *Audit, list []*journey.Journey) {
	for _, j := range list {
		a.Journey(j)
	}
}

// A liar whose word is one of the process that owns both connections, and who names for a request another one than the proxy itself does,
// spoils what is said of both, and that is counted: it makes no join wrong.
func TestLiarIsSeen(t *testing.T) {
	const start = 1000 * ms
	a := New(DefaultConfig(), &loss.Set{})
	mine, yours := relayed(start, "", journey.MethodTrace), relayed(start, "", journey.MethodTrace)
	yours.Exchanges[0].Leg = leg(app, proxy, "10.0.0.1:40001", peer)
	yours.Exchanges[1].Leg = leg(proxy, 0, "10.0.0.1:50001", peer)
	give(a, []*journey.Journey{mine, yours})
	lie := said(start, "")
	lie.Upstream.Local = at("10.0.0.1:50001") // of the other request, of which the proxy's own word is not there
	a.Say(said(start, ""), start)
	a.Say(lie, start)
	tick(a, start+whole)
	want := outcome{Missing: map[string]uint64{}, Unknown: map[string]uint64{"contradicted": 2}}
	if diff := cmp.Diff(want, outcomeOf(a.Report())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// On a connection with one request after another the id tells which is meant, where times leave several.
func TestKeptAlive(t *testing.T) {
	a := New(DefaultConfig(), &loss.Set{})
	const n = 1000
	random := rand.New(rand.NewPCG(1, 2))
	now := 1000 * ms
	var entries []*journey.Said
	for i := range n {
		id := fmt.Sprintf("%08x-0000-4000-8000-%012x", random.Uint32(), i)
		start := now + uint64(i)*12*ms/10 // 1.2 ms apart
		j := relayed(start, id, journey.MethodRequestID)
		for k, e := range j.Exchanges {
			took := ms - uint64(k)*6*ms/10
			e.Request.Start = start + uint64(k)*ms/5
			e.Request.Recv = e.Request.Start + 10_000
			e.Response.Start, e.Response.Recv = e.Request.Start+took-20_000, e.Request.Start+took
		}
		a.Journey(j)
		s := said(start, id)
		s.Start, s.Duration = start+20_000, 960*time.Microsecond
		entries = append(entries, s)
	}
	random.Shuffle(n, func(i, k int) { entries[i], entries[k] = entries[k], entries[i] })
	for _, s := range entries {
		a.Say(s, now)
	}
	tick(a, now+whole)
	r := a.Report()
	if r.All.Right != n || r.All.Wrong != 0 || len(r.Unknown) != 0 {
		t.Errorf("%+v", r)
	}
	if m := r.Methods; len(m) != 1 || m[0].Method != journey.MethodRequestID || m[0].Precision.Share != 1 || m[0].Precision.Low < 0.996 || m[0].Recall.Of != n {
		t.Errorf("%+v", m)
	}
}

// Neither journeys nor entries without end take memory without end.
func TestBounded(t *testing.T) {
	cfg := Config{Wait: time.Second, Settle: time.Second, Exchanges: 64, Entries: 32}
	set := &loss.Set{}
	a := New(cfg, set)
	for i := range 1000 {
		j := relayed(uint64(i)*ms, "", journey.MethodTrace)
		j.Exchanges[0].Leg = leg(app, proxy, fmt.Sprintf("10.0.0.1:%d", 10000+i%500), peer)
		a.Journey(j)
		s := said(uint64(i)*ms, "")
		s.Downstream.Remote = at(fmt.Sprintf("10.0.0.1:%d", 10000+i))
		a.Say(s, 0)
	}
	known := 0 // each exchange by the connection of its client and of its server
	for _, i := range []index{a.asked, a.asking} {
		for _, list := range i {
			known += len(list)
		}
	}
	if known != 2*cfg.Exchanges || len(a.waiting) != cfg.Entries {
		t.Errorf("%d exchanges, %d entries", known, len(a.waiting))
	}
	if n := set.Counter("audit", "table-full").Value(); n != 1000-uint64(cfg.Entries) {
		t.Errorf("%d counted", n)
	}
	a.Tick(uint64(cfg.Wait))
	a.Tick(uint64(cfg.Wait + cfg.Settle))
	if len(a.waiting)+len(a.settling) != 0 {
		t.Errorf("%d and %d entries", len(a.waiting), len(a.settling))
	}
}

// A flood of entries about one connection, as full as the tables get, costs no more than the same number about many.
func TestFlood(t *testing.T) {
	cfg := DefaultConfig()
	set := &loss.Set{}
	a := New(cfg, set)
	began := time.Now()
	const start = 1000 * ms
	for range cfg.Exchanges / 2 {
		a.Journey(relayed(start, "", journey.MethodTrace))
	}
	for range cfg.Entries {
		a.Say(said(start, ""), start)
	}
	tick(a, start+whole)
	if n := set.Counter("audit", "ambiguous").Value(); n != uint64(cfg.Entries) {
		t.Errorf("%d of %d ambiguous", n, cfg.Entries)
	}
	t.Log(time.Since(began))
}

// Figures of Brown, Cai and DasGupta (2001) and of R's prop.test(…, correct = FALSE).
func TestWilson(t *testing.T) {
	for _, tt := range []struct {
		k, n      uint64
		low, high float64
	}{
		{0, 0, 0, 1}, {0, 10, 0, 0.2775}, {10, 10, 0.7225, 1}, {5, 10, 0.2366, 0.7634}, {2000, 2000, 0.9981, 1}, {1, 1000, 0.0002, 0.0056},
	} {
		i := Wilson(tt.k, tt.n)
		if d := max(i.Low-tt.low, tt.low-i.Low, i.High-tt.high, tt.high-i.High); d > 0.00005 {
			t.Errorf("%d of %d: from %.5f to %.5f, want %.4f to %.4f", tt.k, tt.n, i.Low, i.High, tt.low, tt.high)
		}
		if i.Of != tt.n || i.Low > i.Share || i.High < i.Share {
			t.Errorf("%d of %d: %+v", tt.k, tt.n, i)
		}
	}
}

// Of requests alike on one connection of HTTP/1, order tells which an entry means, however close they are, if the clocks are known well.
func TestOrderTells(t *testing.T) {
	const start, each, n = 1000 * ms, ms / 2, 20
	for name, c := range map[string]struct {
		off  time.Duration
		want outcome
	}{
		"HTTP/1":              {time.Microsecond, outcome{Right: n}},
		"a clock that is off": {time.Millisecond, outcome{Unknown: map[string]uint64{"ambiguous": n}}},
	} {
		a, told := New(DefaultConfig(), &loss.Set{}), []*journey.Said{}
		for i := range uint64(n) {
			j := relayed(start+i*each, "", journey.MethodRequestID)
			in, out := j.Exchanges[0], j.Exchanges[1]
			began := in.Request.Start
			in.Request.Recv, out.Request.Start, out.Request.Recv = began+10_000, began+50_000, began+60_000
			out.Response.Start, out.Response.Recv, in.Response.Start, in.Response.Recv = began+200_000, began+210_000, began+250_000, began+260_000
			a.Journey(j)
			s := said(began, "")
			s.Start, s.Upto, s.Answer, s.Duration, s.Error = began+11_000, 38_000, 200_000, 238_000, c.off
			told = append(told, s)
		}
		for _, s := range told {
			a.Say(s, start)
		}
		a.Tick(start + uint64(a.cfg.Wait+a.cfg.Settle))
		a.Tick(start + uint64(a.cfg.Wait+a.cfg.Settle))
		got := outcomeOf(a.Report())
		if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
