package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/netpath"
	"github.com/meshwatch/meshwatch/test/leaks"
)

// within is how long a test waits for what must happen within 2 s, with room for a busy machine.
const within = 10 * time.Second

// privileged skips where nothing can be attached, or fails where it must be.
func privileged(t *testing.T) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "attaching needs root"
	} else if _, err := exec.LookPath("ip"); err != nil {
		why = "needs the tool ip"
	}
	switch {
	case why == "":
	case os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1":
		t.Fatal(why + ", and MESHWATCH_TEST_PRIVILEGED=1 says that the privileged tests must run")
	default:
		t.Skip(why)
	}
}

// run runs a command line, {a} standing for the test's namespace a.
func run(t *testing.T, line string) {
	t.Helper()
	if out, err := try(line); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

func try(line string) (string, error) {
	words := strings.Fields(strings.NewReplacer("{", prefix(), "}", "").Replace(line))
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput() //nolint:gosec // a test's own words
	return string(out), err
}

// prefix begins the names of this process's namespaces.
func prefix() string { return fmt.Sprintf("attest%d-", os.Getpid()) }

func makeNetns(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		t.Cleanup(func() { _, _ = try("ip netns del {" + name + "}") })
		run(t, "ip netns add {"+name+"}")
		run(t, "ip -n {"+name+"} link set lo up")
	}
}

func inode(t *testing.T, name string) uint32 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join("/run/netns", prefix()+name), &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

// watched is a manager that follows this test's namespaces alone, whatever else the machine has.
type watched struct {
	*Manager
	lost loss.Set
	log  bytes.Buffer

	mu    sync.Mutex
	state *netpath.State // as last applied
}

func watch(t *testing.T, recorder *bpf.Recorder, exclude ...string) *watched {
	t.Helper()
	w := &watched{}
	w.Manager = New(recorder, exclude, nil, nil, &w.lost, slog.New(slog.NewTextHandler(&w.log, nil)))
	w.Deepen(true)
	watcher, err := netpath.Watch(context.Background(), 0, func(c netpath.Change) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.state = own(c.State)
		w.Apply(w.state)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(watcher.Close(), w.Close()); err != nil {
			t.Error(err)
		}
		if c := w.Counts(); c != (Counts{}) {
			t.Errorf("after the end: %+v", c)
		}
	})
	return w
}

func own(s *netpath.State) *netpath.State {
	var mine []*netpath.Namespace
	for _, n := range s.Sorted() {
		if strings.HasPrefix(n.Name, prefix()) {
			mine = append(mine, n)
		}
	}
	return netpath.NewState(mine, nil)
}

func load(t *testing.T) *bpf.Recorder { return loadWith(t, bpf.Options{Sizes: bpf.DefaultSizes()}) }

// loadTC loads what stands in for tracepoints that cannot read packets.
func loadTC(t *testing.T) *bpf.Recorder {
	return loadWith(t, bpf.Options{Sizes: bpf.DefaultSizes(), TC: true})
}

func loadWith(t *testing.T, o bpf.Options) *bpf.Recorder {
	t.Helper()
	r, err := bpf.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// eventually waits until what is attached is this.
func (w *watched) eventually(t *testing.T, what string, want Counts) {
	t.Helper()
	until(t, what, func() error {
		if got := w.Counts(); got != want {
			return fmt.Errorf("attached %+v, want %+v", got, want)
		}
		return nil
	})
}

func until(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// kernelLinks are the BPF links that this process has on the netfilter hooks of a namespace and on links, as the kernel says,
// by kind: the descriptors' own words.
func kernelLinks(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{}
	for fd, what := range leaks.Descriptors(t) {
		if what != "anon_inode:bpf_link" {
			continue
		}
		b, err := os.ReadFile("/proc/self/fdinfo/" + fd)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			if kind, ok := strings.CutPrefix(line, "link_type:\t"); ok {
				count[kind]++
			}
		}
	}
	return count
}

// gone waits until this process has the links that it had before.
func gone(t *testing.T, before map[string]int) {
	t.Helper()
	until(t, "all links are closed", func() error {
		if diff := cmp.Diff(before, kernelLinks(t)); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

const perNamespace = 10 // netfilter links: five hooks of two families

func TestAttachFollowsTheDatapath(t *testing.T) {
	privileged(t)
	leaks.None(t)
	recorder := loadTC(t)
	before := kernelLinks(t)
	w := watch(t, recorder)
	w.eventually(t, "nothing there", Counts{})

	makeNetns(t, "node", "pod")
	run(t, "ip -n {node} link add h-pod type veth peer name eth0 netns {pod}")
	run(t, "ip -n {node} link set h-pod up")
	run(t, "ip -n {pod} link set eth0 up")
	w.eventually(t, "a pod", Counts{Namespaces: 2, Deep: 2, Links: 4}) // lo and the veth, twice
	if diff := cmp.Diff(map[string]int{"netfilter": 2 * perNamespace, "tcx": 8}, kernelLinks(t)); diff != "" {
		t.Errorf("the kernel's links (-want +got):\n%s", diff)
	}

	run(t, "ip -n {node} link add br0 type bridge")
	run(t, "ip -n {node} link set br0 up")
	w.eventually(t, "a link more", Counts{Namespaces: 2, Deep: 2, Links: 5})

	run(t, "ip -n {node} link set br0 down")
	w.eventually(t, "a link that is down", Counts{Namespaces: 2, Deep: 2, Links: 4})
	run(t, "ip -n {node} link set br0 up")
	w.eventually(t, "and up again", Counts{Namespaces: 2, Deep: 2, Links: 5})
	run(t, "ip -n {node} link del br0")
	w.eventually(t, "a link less", Counts{Namespaces: 2, Deep: 2, Links: 4})

	run(t, "ip -n {node} link del h-pod") // both ends: what has lo alone is left
	w.eventually(t, "a cable is cut", Counts{})
	gone(t, before)
	if n := w.log.String(); n != "" {
		t.Errorf("said: %s", n)
	}
}

// A namespace that is deleted is not kept alive by what was attached there: its end of the veth goes, and the other with it.
func TestDeletedNamespaceIsNotPinned(t *testing.T) {
	privileged(t)
	leaks.None(t)
	recorder := loadTC(t)
	w := watch(t, recorder)
	makeNetns(t, "node", "pod")
	run(t, "ip -n {node} link add h-pod type veth peer name eth0 netns {pod}")
	run(t, "ip -n {node} link set h-pod up")
	run(t, "ip -n {pod} link set eth0 up")
	w.eventually(t, "a pod", Counts{Namespaces: 2, Deep: 2, Links: 4})
	start := time.Now()
	run(t, "ip netns del {pod}")
	until(t, "the kernel destroys the namespace, and with it both ends of the veth", func() error {
		out, err := try("ip -n {node} -br link show")
		if err == nil && strings.Contains(out, "h-pod") {
			err = errors.New(out)
		}
		return err
	})
	t.Logf("gone after %s", time.Since(start))
	w.eventually(t, "nothing is left to attach to", Counts{})
	if diff := cmp.Diff(map[string]int{}, kernelLinks(t)); diff != "" {
		t.Errorf("the kernel's links (-want +got):\n%s", diff)
	}
}

func TestExcluded(t *testing.T) {
	privileged(t)
	leaks.None(t)
	w := watch(t, loadTC(t), "none", prefix()+"n*")
	makeNetns(t, "node", "pod")
	run(t, "ip -n {node} link add h-pod type veth peer name eth0 netns {pod}")
	run(t, "ip -n {node} link set h-pod up")
	run(t, "ip -n {pod} link set eth0 up")
	w.eventually(t, "the pod alone", Counts{Namespaces: 1, Deep: 1, Links: 2})
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, held := w.held[inode(t, "node")]; held {
		t.Error("an excluded namespace is held")
	}
}

// After Close the same can be attached again, by the same manager, beside another recorder, and by another one.
func TestAttachAgain(t *testing.T) {
	privileged(t)
	leaks.None(t)
	first, second := loadTC(t), loadTC(t)
	makeNetns(t, "node", "pod")
	run(t, "ip -n {node} link add h-pod type veth peer name eth0 netns {pod}")
	run(t, "ip -n {node} link set h-pod up")
	run(t, "ip -n {pod} link set eth0 up")
	w := watch(t, first)
	both := Counts{Namespaces: 2, Deep: 2, Links: 4}
	w.eventually(t, "a pod", both)
	w.mu.Lock()
	state := w.state
	w.mu.Unlock()
	w.Apply(state)
	if got := w.Counts(); got != both {
		t.Errorf("applied twice: %+v", got)
	}
	beside := New(second, nil, nil, nil, &w.lost, slog.New(slog.NewTextHandler(&w.log, nil)))
	beside.Deepen(true)
	beside.Apply(state)
	if got := beside.Counts(); got != both {
		t.Errorf("beside another recorder: %+v", got)
	}
	if diff := cmp.Diff(map[string]int{"netfilter": 4 * perNamespace, "tcx": 16}, kernelLinks(t)); diff != "" {
		t.Errorf("the kernel's links (-want +got):\n%s", diff)
	}
	if err := errors.Join(beside.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]int{}, kernelLinks(t)); diff != "" {
		t.Errorf("the kernel's links after Close (-want +got):\n%s", diff)
	}
	w.Apply(state)
	if got := w.Counts(); got != both {
		t.Errorf("again: %+v", got)
	}
	if n := w.log.String(); n != "" {
		t.Errorf("said: %s", n)
	}
}

// A namespace that is in the state and not there any more is counted once and said never; when it is read anew and a way leads
// there, it is attached.
func TestVanished(t *testing.T) {
	privileged(t)
	leaks.None(t)
	makeNetns(t, "node")
	run(t, "ip -n {node} link add ve0 type veth peer name ve1")
	run(t, "ip -n {node} link set ve0 up")
	run(t, "ip -n {node} link set ve1 up")
	var lost loss.Set
	m := New(loadTC(t), nil, nil, nil, &lost, slog.New(slog.NewTextHandler(io.Discard, nil)))
	ns := &netpath.Namespace{
		Inum: inode(t, "node"), Name: "x", Pids: []int{1 << 30}, Mounts: []string{"/nowhere"},
		Links: []netpath.Link{{Index: 2, Name: "e", Kind: netpath.KindVeth, Up: true}, {Index: 99, Name: "f", Kind: netpath.KindVeth, Up: true}},
	}
	for range 3 {
		m.Apply(netpath.NewState([]*netpath.Namespace{ns}, nil))
	}
	vanished := func() (n uint64) {
		for _, row := range lost.Rows() {
			if row.Reason == "vanished" {
				n = row.Count
			} else if row.Count != 0 {
				t.Errorf("lost: %+v", row)
			}
		}
		return n
	}
	if n := vanished(); n != 1 || m.Counts().Links != 0 {
		t.Errorf("vanished %d times, attached %+v", n, m.Counts())
	}
	anew := *ns
	anew.Mounts = []string{"/run/netns/" + prefix() + "node"}
	m.Apply(netpath.NewState([]*netpath.Namespace{&anew}, nil)) // link 99 vanished meanwhile, which is no failure
	if got := m.Counts(); got != (Counts{Namespaces: 1, Links: 1}) || vanished() != 1 {
		t.Errorf("read anew: %+v", got)
	}
	m.Apply(netpath.NewState(nil, nil))
	if got := m.Counts(); got != (Counts{}) {
		t.Errorf("removed: %+v", got)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// Only what is wanted in full depth is attached to, as long as it is; the rest is for all namespaces at once.
func TestDeepen(t *testing.T) {
	privileged(t)
	leaks.None(t)
	recorder := load(t)
	before := kernelLinks(t)
	w := watch(t, recorder)
	w.Deepen(false)
	makeNetns(t, "node", "pod")
	run(t, "ip -n {node} link add h-pod type veth peer name eth0 netns {pod}")
	run(t, "ip -n {node} link set h-pod up")
	run(t, "ip -n {pod} link set eth0 up")
	w.eventually(t, "a pod", Counts{Namespaces: 2})
	if diff := cmp.Diff(before, kernelLinks(t)); diff != "" {
		t.Errorf("the kernel's links (-want +got):\n%s", diff)
	}
	pod := inode(t, "pod")
	w.Deepen(false, pod)
	w.eventually(t, "one in full depth", Counts{Namespaces: 2, Deep: 1})
	if diff := cmp.Diff(map[string]int{"netfilter": perNamespace, "raw_tracepoint": 1}, kernelLinks(t)); diff != "" {
		t.Errorf("the kernel's links (-want +got):\n%s", diff)
	}
	w.Deepen(true)
	w.eventually(t, "all in full depth", Counts{Namespaces: 2, Deep: 2})
	run(t, "ip -n {node} link set h-pod down")
	w.eventually(t, "the node has no link", Counts{Namespaces: 1, Deep: 1})
	w.Deepen(false)
	w.eventually(t, "none in full depth", Counts{Namespaces: 1})
	gone(t, before)
	if n := w.log.String(); n != "" {
		t.Errorf("said: %s", n)
	}
}
