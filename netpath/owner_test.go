package netpath

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Of the sockets of another namespace's process and of our own, each is found to be its own process's; one that two share is nobody's.
func TestOwner(t *testing.T) {
	privileged(t, "ip", "python3")
	makeNode(t, "node")
	makePod(t, "node", "pod", "10.88.0.2")
	_, seen := startWatch(t, 0)
	var state *State
	seen.until(t, "the pod's address", func(cs []Change) bool {
		state = last(cs)
		return len(state.having(netip.MustParseAddr("10.88.0.2"))) == 1
	})
	const script = `
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("10.88.0.2", 0))
r, w = os.pipe()
if os.fork() == 0:
    os.close(w); os.read(r, 1); os._exit(0)
t = socket.socket(); t.bind(("10.88.0.2", 0)); t.listen()
c = socket.create_connection(t.getsockname())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 0))
print(c.getsockname()[1], u.getsockname()[1], s.getsockname()[1], flush=True)
sys.stdin.read(1)
`
	cmd := exec.Command("ip", "netns", "exec", netnsName("pod"), "python3", "-c", script) //nolint:gosec // a test's own words
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // it ends then, and its child with it
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	ports := strings.Fields(line)
	for _, c := range []struct {
		transport, address string
		pid                int
	}{
		{TCP, "10.88.0.2:" + ports[0], cmd.Process.Pid}, {TCP, "[::ffff:10.88.0.2]:" + ports[0], cmd.Process.Pid}, {UDP, "10.88.0.2:" + ports[1], cmd.Process.Pid},
		{UDP, "10.88.0.2:" + ports[2], 0}, {UDP, "10.88.0.2:" + ports[0], 0}, {TCP, "10.88.0.9:" + ports[0], 0},
	} {
		pid, err := state.Owner(c.transport, netip.MustParseAddrPort(c.address))
		if pid != c.pid || (pid == 0) != errors.Is(err, ErrNoOwner) {
			t.Errorf("%s %s: %d, want %d, %v", c.transport, c.address, pid, c.pid, err)
		}
	}
	own, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close() //nolint:errcheck // of a test
	if pid, err := state.Owner(UDP, netip.MustParseAddrPort(own.LocalAddr().String())); pid != os.Getpid() || err != nil {
		t.Errorf("our own: %d, %v", pid, err)
	}
}
