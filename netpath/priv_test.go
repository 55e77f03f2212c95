package netpath

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// deadline is how long a test waits for what must happen within 2 s, with room for a busy machine.
const deadline = 10 * time.Second

// privileged skips a test that needs root or a tool; with MESHWATCH_TEST_PRIVILEGED=1 a skip is a failure.
func privileged(tb testing.TB, tools ...string) {
	tb.Helper()
	why := ""
	if os.Getuid() != 0 {
		why = "needs root"
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			why = "needs the tool " + tool
		}
	}
	switch {
	case why == "":
	case os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1":
		tb.Fatal(why)
	default:
		tb.Skip(why)
	}
}

// run runs a command line, {a} standing for the test namespace a.
func run(tb testing.TB, line string) {
	tb.Helper()
	if out, err := try(line); err != nil {
		tb.Fatalf("%s: %v\n%s", line, err, out)
	}
}

func try(line string) (string, error) {
	line = regexp.MustCompile(`\{(\w+)\}`).ReplaceAllString(line, netnsName("$1"))
	words := strings.Fields(line)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput() //nolint:gosec // a test's own words
	return string(out), err
}

// netnsName is the full name of the test namespace a.
func netnsName(a string) string { return fmt.Sprintf("nptest%d-%s", os.Getpid(), a) }

// makeNetns makes namespaces with lo up, and deletes them at the end.
func makeNetns(tb testing.TB, names ...string) {
	tb.Helper()
	for _, name := range names {
		tb.Cleanup(func() { _, _ = try("ip netns del {" + name + "}") })
		run(tb, "ip netns add {"+name+"}")
		run(tb, "ip -n {"+name+"} link set lo up")
	}
}

// makePod makes a namespace with an eth0, whose other end is a port of node's br0 called h-<name>.
func makePod(tb testing.TB, node, name, addr string) {
	tb.Helper()
	makeNetns(tb, name)
	run(tb, "ip -n {"+node+"} link add h-"+name+" type veth peer name eth0 netns {"+name+"}")
	run(tb, "ip -n {"+node+"} link set h-"+name+" master br0 up")
	run(tb, "ip -n {"+name+"} addr add "+addr+" dev eth0")
	run(tb, "ip -n {"+name+"} link set eth0 up")
}

func makeNode(tb testing.TB, name string) {
	tb.Helper()
	makeNetns(tb, name)
	run(tb, "ip -n {"+name+"} link add br0 type bridge")
	run(tb, "ip -n {"+name+"} link set br0 up")
}

// recorder keeps what a watcher tells.
type recorder struct {
	mu      sync.Mutex
	changes []Change
	signal  chan struct{}
}

func startWatch(tb testing.TB, interval time.Duration) (*Watcher, *recorder) {
	tb.Helper()
	r := &recorder{signal: make(chan struct{}, 1)}
	w, err := Watch(context.Background(), interval, func(c Change) {
		r.mu.Lock()
		r.changes = append(r.changes, c)
		r.mu.Unlock()
		select {
		case r.signal <- struct{}{}:
		default:
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return w, r
}

// until waits for a condition on what was told, looking again at each change, and says how long it took.
func (r *recorder) until(tb testing.TB, what string, ok func([]Change) bool) time.Duration {
	tb.Helper()
	start := time.Now()
	timeout := time.After(deadline)
	for {
		r.mu.Lock()
		fine := ok(r.changes)
		r.mu.Unlock()
		if fine {
			return time.Since(start)
		}
		select {
		case <-r.signal:
		case <-timeout:
			r.mu.Lock()
			defer r.mu.Unlock()
			_ = last(r.changes).Table(tb.Output(), "nptest*")
			tb.Fatalf("no %s within %s, the state above is after %d changes", what, deadline, len(r.changes))
		}
	}
}

// last is the newest state.
func last(cs []Change) *State { return cs[len(cs)-1].State }

// process starts a program that only waits, in a network namespace of its own.
func process(tb testing.TB) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { kill(cmd) })
	return cmd
}

func kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}
