package observe

import (
	"math"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/netpath"
)

// path is a way that flights go from one workload to another, and what its stamps mean. Worked out once, it is shared by all legs that
// go there: few paths stay in the CPU's cache where thousands of legs would not. It does not change, but for pending.
type path struct {
	n     int
	known known
	at    [bpf.MaxStamps]uint32 // where the stamps are taken
	steps [bpf.MaxStamps]step
	wait  step // last stamp to the read; without stat: there is none
	// pending are times in ns that no Series has yet, n for each flight: the hops' and, last, the wait's. Adding those of many flights
	// at once finds the bins of each Series in the cache.
	pending []uint64 // guarded by Observer.counting
	single  bool     // not in Observer.paths: nothing stays pending
}

const (
	pendingFlights = 32   // of a path, then its Series get them
	maxPaths       = 4096 // remembered, some KB each
)

// noTime is in pending for what a flight lacks.
const noTime = ^uint64(0)

// way is what makes a path another one.
type way struct {
	sender, receiver, direction string
	zones                       string
	role                        journey.Role // receiver's
	n                           int
	at                          [bpf.MaxStamps]uint32
	known                       known
	handshake                   handshake
}

// handshake is what becomes of a SYN after its last stamp.
type handshake uint8

const (
	noHandshake   handshake = iota
	handshakeHere           // both ends are on this node
	handshakeAway
	handshakeAgain // there was no room for the stamps of when it was sent again
)

func handshakeOf(f *bpf.Flight, here bool) handshake {
	switch {
	case uint32(f.Flags)&bpf.FlagSYN == 0:
		return noHandshake
	case int(f.Nstamps) > bpf.MaxStamps:
		return handshakeAgain
	case here:
		return handshakeHere
	}
	return handshakeAway
}

// name is of the stretch from the last stamp until the socket is connected, or gives up.
func (h handshake) name(state *netpath.State, last netpath.Place) netpath.HopName {
	switch {
	case h == handshakeAgain, last.Hook == netpath.HookDrop, last.Hook == netpath.HookRetransmit:
		return state.Hop(last, netpath.Place{Hook: netpath.HookRetransmit})
	case h == handshakeHere:
		return netpath.HopName{Name: "handshake", Kind: "handshake", Class: netpath.ClassNode}
	}
	return netpath.HopName{Name: "handshake", Kind: "handshake", Class: netpath.ClassNetwork}
}

// step is one hop of a path.
type step struct {
	name  netpath.HopName
	class journey.Class
	netns uint32
	net   string
	iface string
	stat  *Series
	// within are the namespaces that it passes, if it is compared with its baseline.
	within []uint32
}

// matches says whether a flight of the same leg and reader went the same way.
func (p *path) matches(f *bpf.Flight, n int, now known) bool {
	if p == nil || p.n != n || p.known != now {
		return false
	}
	for i := range n {
		if p.at[i] != f.Stamps[i].Place {
			return false
		}
	}
	return true
}

// measure notes a flight's times. The caller has the lock.
func (p *path) measure(o *Observer, f *bpf.Flight) {
	if p.n == 0 {
		return
	}
	at := stampAt(f, 0)
	for i := 1; i < p.n; i++ {
		next := stampAt(f, i)
		p.pending = append(p.pending, next-min(at, next))
		at = next
	}
	wait := noTime
	if f.RecvNs != 0 {
		wait = f.RecvNs - min(at, f.RecvNs)
	}
	if p.pending = append(p.pending, wait); p.single || len(p.pending) >= p.n*pendingFlights {
		o.compare(p)
		p.flush()
	}
}

// flush gives what is pending to its Series. The caller has the lock.
func (p *path) flush() {
	for i := 1; i < p.n; i++ {
		for k := i - 1; k < len(p.pending); k += p.n {
			p.steps[i].stat.add(p.pending[k])
		}
	}
	for k := p.n - 1; k < len(p.pending) && p.wait.stat != nil; k += p.n {
		if ns := p.pending[k]; ns != noTime {
			p.wait.stat.add(ns)
		}
	}
	p.pending = p.pending[:0]
}

// stampCount is how many of a flight's stamps are of its way, which ends where its first byte is read. What is sent again after that has
// come to its socket is none of it: all of it is something old there, and a reader does not wait for a later part of it.
func stampCount(f *bpf.Flight) int {
	n := min(int(f.Nstamps), bpf.MaxStamps) //nolint:gosec // min
	if uint32(f.Flags)&bpf.FlagSYN != 0 {
		return n
	}
	for i := range n - 1 {
		if hookOf(f, i) != netpath.HookDelivered {
			continue
		}
		if next := hookOf(f, i+1); next == netpath.HookOutput || next == netpath.HookRetransmit && f.RecvNs != 0 {
			return i + 1
		}
	}
	return n
}

func hookOf(f *bpf.Flight, i int) netpath.Hook { return netpath.Hook(f.Stamps[i].Place >> 28) }

// pathOf is the meaning of the stamps of a message's flight.
func (o *Observer) pathOf(m *join.Message) *path {
	f, cache := m.Flight, m.Cache()
	cached, _ := cache.Path.(*path)
	n, now := stampCount(f), o.names.known()
	if cache.Reader == f.RecvPid && cached.matches(f, n, now) {
		return cached
	}
	direction := "response"
	if m.Request() {
		direction = "request"
	}
	p := o.findPath(f, f, direction, n, now)
	cache.Path, cache.Reader = p, f.RecvPid
	return p
}

// connectPath is the meaning of the stamps of the SYN that opened a connection for an exchange. A connection has but one, so no leg
// remembers it.
func (o *Observer) connectPath(x *join.Exchange) *path {
	f := x.Connect
	return o.findPath(f, x.Req.Flight, "connect", stampCount(f), o.names.known())
}

// findPath is the path of a flight. ends is a flight that knows both ends: no socket reads a SYN.
func (o *Observer) findPath(f, ends *bpf.Flight, direction string, n int, now known) *path {
	from, to := o.end(ends, true), o.end(ends, false)
	w := way{sender: from.Name(), receiver: to.Name(), direction: direction, zones: zonesOf(&from.Workload, &to.Workload), role: to.Role, n: n, known: now, handshake: handshakeOf(f, to.Known)}
	for i := range n {
		w.at[i] = f.Stamps[i].Place
	}
	o.mu.RLock()
	p := o.paths[w]
	o.mu.RUnlock()
	if p == nil {
		p = o.makePath(f, &w)
		o.mu.Lock()
		if p.single = len(o.paths) >= maxPaths; !p.single {
			o.paths[w] = p
		}
		o.mu.Unlock()
	}
	return p
}

func (o *Observer) makePath(f *bpf.Flight, w *way) *path {
	state, n, sender, receiver, direction := w.known.state, w.n, w.sender, w.receiver, w.direction
	p := &path{n: n, known: w.known, at: w.at, pending: make([]uint64, 0, n*pendingFlights)}
	for i := 1; i < n; i++ {
		a, b := o.names.place(f.Stamps[i-1].Place), o.names.place(f.Stamps[i].Place)
		p.steps[i] = o.step(state, a, state.Hop(a, b))
		if watched(a, b) && direction != "connect" {
			p.steps[i].within = within(state, a, b)
		}
		p.steps[i].stat = o.series(Labels{sender, receiver, p.steps[i].name.Name, p.steps[i].name.Kind, string(p.steps[i].class), direction, w.zones})
	}
	if n == 0 {
		return p
	}
	last := o.names.place(f.Stamps[n-1].Place)
	if w.handshake == noHandshake {
		p.wait = o.step(state, last, netpath.HopName{Name: "socket wait", Kind: "socket-wait", Class: ""})
		p.wait.class = classOfRole(w.role)
		p.wait.iface = ""
		p.wait.stat = o.series(Labels{sender, receiver, "socket wait", "socket-wait", string(p.wait.class), direction, w.zones})
	} else {
		p.wait = o.step(state, last, w.handshake.name(state, last))
		p.wait.stat = o.series(Labels{sender, receiver, p.wait.name.Name, p.wait.name.Kind, string(p.wait.class), direction, w.zones})
	}
	return p
}

// stampAt is when a stamp was taken. The recorder counts to 4.29 s only; a SYN that was on its way for longer was sent again, and
// what it met after that is as good as its delivery.
func stampAt(f *bpf.Flight, i int) uint64 {
	if f.Stamps[i].Delta == math.MaxUint32 && uint32(f.Flags)&bpf.FlagSYN != 0 && f.RecvNs != 0 {
		return f.RecvNs
	}
	return f.StartNs + uint64(f.Stamps[i].Delta)
}

func (o *Observer) step(state *netpath.State, from netpath.Place, name netpath.HopName) step {
	s := step{name: name, class: journey.Class(name.Class), netns: from.Netns, net: o.names.netName(from.Netns)}
	if l := state.Link(from.Netns, from.Ifindex); l != nil && (from.Hook == netpath.HookEgress || from.Hook == netpath.HookIngress) {
		s.iface = l.Name
	}
	return s
}

// classOfRole is whose time it is when a process of that role works or has not read yet.
func classOfRole(r journey.Role) journey.Class {
	switch r {
	case journey.RoleApp:
		return journey.ClassApp
	case journey.RoleSidecar:
		return journey.ClassSidecar
	case journey.RoleGateway:
		return journey.ClassGateway
	}
	return journey.ClassUnknown
}
