package observe

import (
	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/netpath"
)

// path is what the stamps of one direction of a leg mean: worked out once, then compared and reused.
type path struct {
	n      int
	places [bpf.MaxStamps]uint32
	known  known
	recv   uint32 // process that read
	steps  [bpf.MaxStamps]step
	wait   step // last stamp to the read
}

// step is one hop of a path.
type step struct {
	name  netpath.HopName
	class journey.Class
	netns uint32
	net   string
	iface string
	stat  *Series
}

// matches says whether the flight went the same way as the path.
func (p *path) matches(f *bpf.Flight, n int, now known) bool {
	if p == nil || p.n != n || p.known != now || p.recv != f.RecvPid {
		return false
	}
	for i := range n {
		if p.places[i] != f.Stamps[i].Place {
			return false
		}
	}
	return true
}

// stampCount is how many stamps of a flight are there.
func stampCount(f *bpf.Flight) int { return min(int(f.Nstamps), bpf.MaxStamps) } //nolint:gosec // min

// pathOf is the meaning of a flight's stamps; server says that the flight is a request, read by the server end.
func (o *Observer) pathOf(x *join.Exchange, m *join.Message, request bool) *path {
	f := &m.Flight
	dir := x.Client
	if !request {
		dir = 1 - x.Client
	}
	slot := x.Leg.Cache(dir)
	cached, _ := (*slot).(*path)
	n, now := stampCount(f), o.names.known()
	if cached.matches(f, n, now) {
		return cached
	}
	p := o.makePath(x, f, request, n, now)
	*slot = p
	return p
}

func (o *Observer) makePath(x *join.Exchange, f *bpf.Flight, request bool, n int, now known) *path {
	state := now.state
	p := &path{n: n, known: now, recv: f.RecvPid}
	from := o.end(f, true)
	to := o.end(f, false)
	sender, receiver := from.Name(), to.Name()
	direction := "response"
	if request {
		direction = "request"
	}
	for i := range n {
		p.places[i] = f.Stamps[i].Place
		if i == 0 {
			continue
		}
		a, b := o.names.place(f.Stamps[i-1].Place), o.names.place(f.Stamps[i].Place)
		p.steps[i] = o.step(state, a, state.Hop(a, b))
		p.steps[i].stat = o.series(Labels{sender, receiver, p.steps[i].name.Name, p.steps[i].name.Kind, string(p.steps[i].class), direction})
	}
	if n > 0 {
		last := o.names.place(f.Stamps[n-1].Place)
		p.wait = o.step(state, last, netpath.HopName{Name: "socket wait", Kind: "socket-wait", Class: ""})
		p.wait.class = classOfRole(to.Role)
		p.wait.iface = ""
		p.wait.stat = o.series(Labels{sender, receiver, "socket wait", "socket-wait", string(p.wait.class), direction})
	}
	return p
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
