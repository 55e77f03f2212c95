package observe

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/topology/proxy"
)

// Observer measures every tree and renders the ones that are kept. One goroutine observes; the distributions may be read from any.
type Observer struct {
	names    *Names
	captures []string                             // lower case, as configured
	governor Governor                             // nil: nobody is asked
	said     map[proxy.Answer]*journey.Governance // by Govern
	unsaid   map[proxy.Reason]*loss.Counter       // of what Govern could not say
	unclear  *loss.Counter                        // requests that it cannot be asked about

	mu    sync.RWMutex // guards all and paths
	all   map[Labels]*Series
	paths map[way]*path

	processes map[processKey]*Series            // the observing goroutine's, as what follows
	made      known                             // what processes and paths were made from
	waits     []interval                        // scratch of processing
	times     []uint64                          // scratch of compare
	homes     map[netip.Addr]*netpath.Namespace // see home
	homesOf   *netpath.State                    // what homes was made from
	left      map[uint32]struct{}               // namespaces, see Left; counting guards it

	counting sync.Mutex // guards what every Series has counted and every path has pending; taken before mu
}

// interval is a stretch of time in ns.
type interval struct{ from, to uint64 }

// processKey finds the series of the time inside a process.
type processKey struct{ pid, netns uint32 }

// New makes an Observer. captures are the configured header names.
func New(names *Names, captures []string) *Observer {
	return &Observer{names: names, captures: captures, all: map[Labels]*Series{}, paths: map[way]*path{}, processes: map[processKey]*Series{}, left: map[uint32]struct{}{}, said: map[proxy.Answer]*journey.Governance{}, unsaid: map[proxy.Reason]*loss.Counter{}}
}

// maxSeries bounds memory (each about 4 KB when used) when there are very many workloads; the rest is counted as "other".
const maxSeries = 20000

func (o *Observer) series(l Labels) *Series {
	o.mu.RLock()
	s := o.all[l]
	full := len(o.all) >= maxSeries
	o.mu.RUnlock()
	if s != nil {
		return s
	}
	if full {
		l.Source, l.Destination = "other", "other"
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if s = o.all[l]; s == nil {
		s = &Series{Labels: l, mu: &o.counting}
		o.all[l] = s
	}
	return s
}

// Recent reads all series since the last time that next was true.
func (o *Observer) Recent(next bool) []Value {
	return o.values(func(s *Series) Value { return s.recent(next) })
}

// Total reads all series since the start; bounds as in Value.Buckets.
func (o *Observer) Total(bounds []float64) []Value {
	return o.values(func(s *Series) Value { return s.total(bounds) })
}

// values reads one series at a time, so that measuring waits for one only.
func (o *Observer) values(read func(*Series) Value) []Value {
	o.counting.Lock()
	o.flushPaths()
	o.counting.Unlock()
	o.mu.RLock()
	all := slices.Collect(maps.Values(o.all))
	o.mu.RUnlock()
	out := make([]Value, 0, len(all))
	for _, s := range all {
		if v := read(s); v.Count > 0 {
			out = append(out, v)
		}
	}
	return out
}

// MeasureMessage adds every hop of a message to its distribution. No allocation once the path of its leg is known.
func (o *Observer) MeasureMessage(m *join.Message) {
	o.counting.Lock()
	o.renew()
	o.pathOf(m).measure(o, m.Flight)
	o.counting.Unlock()
}

// Measure adds every stretch inside a process of a tree to its distribution, and the hops of the messages that MeasureMessage was
// not given. No allocation once the paths of the tree's legs are known.
func (o *Observer) Measure(t *join.Tree) {
	o.counting.Lock()
	defer o.counting.Unlock()
	o.renew()
	for _, x := range t.Exchanges {
		if x.Connect != nil {
			o.connectPath(x).measure(o, x.Connect)
		}
		if m := x.Req; !m.Measured {
			o.pathOf(m).measure(o, m.Flight)
		}
		if x.Resp == nil {
			continue
		}
		if m := x.Resp; !m.Measured {
			o.pathOf(m).measure(o, m.Flight)
		}
		o.processing(t, x)
	}
}

// renew forgets what was worked out from a datapath or a topology that is no more. The caller has the lock.
func (o *Observer) renew() {
	if now := o.names.known(); o.made != now || len(o.processes) > maxSeries {
		o.flushPaths()
		o.mu.Lock()
		clear(o.paths)
		o.mu.Unlock()
		clear(o.processes)
		o.made = now
	}
}

// flushPaths gives the Series what is pending. The caller has the lock.
func (o *Observer) flushPaths() {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, p := range o.paths {
		p.flush()
	}
}

// processing is the time a server had a request, less the time it waited for those it asked itself, and for the connections it
// opened for that.
func (o *Observer) processing(t *join.Tree, x *join.Exchange) {
	from, to := x.Req.RecvNs, x.Resp.StartNs
	if from == 0 || to <= from {
		return
	}
	o.waits = o.waits[:0]
	for _, y := range t.Exchanges {
		if y == x || y.Parent < 0 || t.Exchanges[y.Parent] != x {
			continue
		}
		end := to
		if y.Resp != nil && y.Resp.RecvNs != 0 {
			end = min(y.Resp.RecvNs, to)
		}
		o.waits = append(o.waits, interval{y.Req.StartNs, end})
		if f := y.Connect; f != nil {
			o.waits = append(o.waits, interval{f.StartNs, min(lastSeen(f), to)})
		}
	}
	slices.SortFunc(o.waits, func(a, b interval) int { return cmp.Compare(a.from, b.from) })
	own, upto := to-from, from
	for _, w := range o.waits { // sorted, so what overlaps counts once
		if start := max(w.from, upto); w.to > start {
			own -= w.to - start
			upto = w.to
		}
	}
	o.processSeries(x).add(own)
}

func (o *Observer) processSeries(x *join.Exchange) *Series {
	key := processKey{x.Req.RecvPid, x.Req.RecvNetns}
	if s := o.processes[key]; s != nil {
		return s
	}
	end := o.end(x.Req.Flight, false)
	s := o.series(Labels{end.Name(), end.Name(), "process " + end.Process, "process", string(classOfRole(end.Role)), "processing", ""})
	o.processes[key] = s
	return s
}

// Keepable says what a decision to keep a tree needs: its duration in ns and whether something in it failed.
func Keepable(t *join.Tree) (duration uint64, failed bool) {
	root := t.Exchanges[0]
	end := root.Req.LastSeen()
	if root.Resp != nil {
		end = root.Resp.LastSeen()
	}
	for _, x := range t.Exchanges {
		failed = failed || x.Error != "" || x.Resp != nil && x.Resp.Status >= 500
	}
	return end - min(end, root.Req.StartNs), failed
}

// lastSeen is when a SYN was delivered, or where that is not seen, when it was last stamped.
func lastSeen(f *bpf.Flight) uint64 {
	at := f.StartNs
	if n := stampCount(f); n > 0 {
		at = stampAt(f, n-1)
	}
	return max(f.RecvEndNs, f.RecvNs, at)
}

// traceID is what the journey's spans are under: the trace context's, else the request id's.
func traceID(t *join.Tree) [16]byte {
	for _, x := range t.Exchanges {
		if x.TraceID != [16]byte{} {
			return x.TraceID
		}
	}
	return [16]byte(t.ID)
}

// Render makes a journey of a tree: values of its own, nothing shared with the joiner. Some 10 µs, and 100 bytes for each hop.
func (o *Observer) Render(t *join.Tree) *journey.Journey {
	j := &journey.Journey{TraceID: traceID(t), Exchanges: make([]*journey.Exchange, 0, len(t.Exchanges))}
	r := newRoom(t)
	before := &journey.Exchange{}
	for _, x := range t.Exchanges {
		e := o.exchange(t, x, r, before)
		before = e
		if j.RequestID == "" {
			j.RequestID = e.RequestID
		}
		j.Exchanges = append(j.Exchanges, e)
		if x.Parent >= 0 {
			relay := x.Relay
			relay.Role = e.Leg.Client.Role
			if j.Relays == nil {
				j.Relays = make([]journey.Relay, 0, len(t.Exchanges)-1)
			}
			j.Relays = append(j.Relays, relay)
		}
	}
	if j.RequestID == "" && t.ID != (head.ID{}) {
		for _, x := range t.Exchanges {
			if x.Resp == nil {
				continue
			}
			if j.RequestID = string(t.Head(x.Resp).RequestID); j.RequestID != "" {
				break
			}
		}
	}
	if j.Unjoined = t.Unjoined; j.Unjoined != "" {
		j.Candidates = t.Candidates
	}
	o.govern(t, j)
	return j
}
