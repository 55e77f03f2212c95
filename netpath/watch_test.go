package netpath

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/leaks"
)

// within is the promise to whoever attaches.
const within = 2 * time.Second

func TestWatchFollowsAPod(t *testing.T) {
	privileged(t, "ip")
	leaks.None(t)
	makeNode(t, "node")
	w, r := startWatch(t, 0)
	if w.State().Named(netnsName("node")) == nil {
		t.Fatal("the first change does not have what was there before")
	}
	makePod(t, "node", "pod", "10.9.0.2/24")
	took := r.until(t, "pod with its veth up and resolved on both sides", func(cs []Change) bool {
		s := last(cs)
		pod, node := s.Named(netnsName("pod")), s.Named(netnsName("node"))
		if pod == nil || len(pod.Links) < 2 {
			return false
		}
		end := pod.Links[len(pod.Links)-1]
		host := node.Link(end.Peer)
		return end.Up && end.PeerNetns == node.Inum && host != nil && host.Up && host.PeerNetns == pod.Inum && host.Master != 0
	})
	if took > within {
		t.Errorf("seen after %s, want %s", took, within)
	}
	t.Logf("pod seen in full after %s", took)
	pod := w.State().Named(netnsName("pod"))
	if !slices.ContainsFunc(AttachPoints(w.State()), func(p AttachPoint) bool { return p.Netns == pod.Inum && len(p.Links) == 2 }) {
		t.Errorf("the pod is no attach point: %+v", pod.Links)
	}
	run(t, "ip netns del {pod}")
	took = r.until(t, "removal", func(cs []Change) bool {
		return slices.ContainsFunc(cs, func(c Change) bool { return slices.Contains(c.Removed, pod.Inum) })
	})
	if took > within {
		t.Errorf("removal seen after %s, want %s", took, within)
	}
	t.Logf("removal seen after %s", took)
	if w.State().Namespaces[pod.Inum] != nil || w.State().Gone[pod.Inum] == nil {
		t.Error("a namespace that went must be among those gone, not those live")
	}
}

// TestWatchFollowsAProcess is about namespaces that no mount holds: their name stays though the process they are called by exits.
func TestWatchFollowsAProcess(t *testing.T) {
	privileged(t, "nsenter")
	leaks.None(t)
	_, r := startWatch(t, 0)
	first := process(t)
	pid := first.Process.Pid
	find := func(s *State) *Namespace {
		for _, n := range s.Namespaces {
			if n.Name == "pid:"+strconv.Itoa(pid)+" sleep" || n.Name == "pid:"+strconv.Itoa(pid)+" netpath.test" {
				return n
			}
		}
		return nil
	}
	took := r.until(t, "namespace of a process", func(cs []Change) bool { return find(last(cs)) != nil })
	if took > within {
		t.Errorf("seen after %s, want %s", took, within)
	}
	r.mu.Lock()
	n := find(last(r.changes))
	r.mu.Unlock()
	kill(first)
	r.until(t, "removal with its last process", func(cs []Change) bool {
		return slices.ContainsFunc(cs, func(c Change) bool { return slices.Contains(c.Removed, n.Inum) })
	})
}

// TestNothingIsPinned lets a namespace go that was watched, and sees that the kernel took it down: its veth, whose other end is
// elsewhere, disappears only then.
func TestNothingIsPinned(t *testing.T) {
	privileged(t, "ip")
	leaks.None(t)
	makeNode(t, "node")
	makePod(t, "node", "pod", "10.9.0.2/24")
	w, r := startWatch(t, 0)
	if pod := w.State().Named(netnsName("pod")); pod == nil || len(pod.Links) < 2 {
		t.Fatal("pod not seen")
	}
	run(t, "ip netns del {pod}")
	took := r.until(t, "end of the veth's other end", func(cs []Change) bool {
		node := last(cs).Named(netnsName("node"))
		return !slices.ContainsFunc(node.Links, func(l Link) bool { return l.Name == "h-pod" })
	})
	t.Logf("namespace gone after %s", took)
}

func TestWatchFollowsRules(t *testing.T) {
	privileged(t, "ip", "nft", "iptables-nft", "iptables-legacy")
	leaks.None(t)
	makeNode(t, "node")
	_, r := startWatch(t, 0)
	redirects := func(port uint16) func([]Change) bool {
		return func(cs []Change) bool {
			n := last(cs).Named(netnsName("node"))
			return n != nil && slices.Contains(n.Filter.Redirects, port)
		}
	}
	run(t, "ip netns exec {node} iptables-nft -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
	if took := r.until(t, "iptables-nft rule", redirects(15001)); took > within {
		t.Errorf("seen after %s, want %s", took, within)
	}
	run(t, "ip netns exec {node} iptables-legacy -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006")
	took := r.until(t, "legacy rule, which the kernel announces to nobody", redirects(15006))
	t.Logf("legacy rule seen after %s", took)
}

// TestWatchFollowsAMovedPeer moves one end of a veth to a third namespace, of which the other end's namespace is not told.
func TestWatchFollowsAMovedPeer(t *testing.T) {
	privileged(t, "ip")
	for _, n := range []string{"m", "n", "o"} {
		makeNetns(t, n)
	}
	run(t, "ip -n {m} link add v0 type veth peer name v1 netns {n}")
	_, r := startWatch(t, time.Hour) // by events alone
	run(t, "ip -n {n} link set v1 netns {o}")
	took := r.until(t, "peer in its new namespace", func(cs []Change) bool {
		m, o := last(cs).Named(netnsName("m")), last(cs).Named(netnsName("o"))
		i := slices.IndexFunc(m.Links, func(l Link) bool { return l.Name == "v0" })
		return i >= 0 && m.Links[i].PeerNetns == o.Inum
	})
	if took > within {
		t.Errorf("seen after %s, want %s", took, within)
	}
}

// TestWatchSurvivesChurn makes and deletes namespaces while they are being read.
func TestWatchSurvivesChurn(t *testing.T) {
	privileged(t, "ip")
	leaks.None(t)
	w, r := startWatch(t, 20*time.Millisecond)
	for i := range 30 {
		name := "c" + strconv.Itoa(i)
		makeNetns(t, name)
		run(t, "ip netns del {"+name+"}")
	}
	makeNetns(t, "end")
	r.until(t, "last namespace, and none of the others", func(cs []Change) bool {
		s := last(cs)
		for i := range 30 {
			if s.Named(netnsName("c"+strconv.Itoa(i))) != nil {
				return false
			}
		}
		return s.Named(netnsName("end")) != nil
	})
	if c := w.Counts(); c.Failed != 0 {
		for _, c := range r.changes {
			for _, n := range c.State.Namespaces {
				t.Log(n.Name, n.Problem, n.Filter.Problem)
			}
		}
		t.Errorf("%d readings failed, want none: what vanishes is no failure; %+v", c.Failed, c)
	}
}

func TestCloseClosesEverything(t *testing.T) {
	privileged(t, "ip")
	leaks.None(t)
	makeNetns(t, "x")
	w, _ := startWatch(t, 0)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// Rules that could not be read, since the process by which their namespace was entered had just gone, are read once there is another one.
func TestRulesAreReadAgain(t *testing.T) {
	privileged(t, "ip", "iptables-nft")
	leaks.None(t)
	makeNetns(t, "pod")
	run(t, "ip netns exec {pod} iptables-nft -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
	s, _, err := Scan()
	if err != nil {
		t.Fatal(err)
	}
	there := *s.Named(netnsName("pod"))
	gone := there
	gone.Mounts, gone.Pids, gone.Filter = nil, nil, Filter{}
	e := &entry{ns: &gone, nsids: map[int32]uint32{}}
	tr := &tracker{entries: map[uint32]*entry{there.Inum: e}}
	tr.readRules(e)
	if e.ns.Redirects() || tr.counts.Vanished != 1 {
		t.Fatalf("read what nobody can enter: %+v, %+v", e.ns.Filter, tr.counts)
	}
	back := *e.ns
	back.Mounts = there.Mounts
	e.ns = &back
	w := &Watcher{tracker: tr}
	now := time.Now()
	w.askRules(now)
	if w.read(now.Add(time.Minute)); !e.ns.Redirects() || e.unread {
		t.Errorf("they are not read again: %+v", e.ns.Filter)
	}
}

// A node on which mounts change all the time, as where containers come and go, is looked at all the same.
func TestRulesWhileMountsChange(t *testing.T) {
	privileged(t, "ip", "iptables-nft")
	leaks.None(t)
	makeNode(t, "node")
	_, r := startWatch(t, 0)
	dir, stop, stopped := t.TempDir(), make(chan struct{}), make(chan error, 1)
	go func() {
		const often = DefaultInterval / 5
		tick := time.NewTicker(often)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-tick.C:
				if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Unmount(dir, 0)); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	run(t, "ip netns exec {node} iptables-nft -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
	took := r.until(t, "iptables-nft rule", func(cs []Change) bool {
		n := last(cs).Named(netnsName("node"))
		return n != nil && n.Redirects()
	})
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if took > within {
		t.Errorf("seen after %s, want %s", took, within)
	}
}
