package netpath

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/cputime"
)

// BenchmarkIdleWatcher is what watching costs while nothing happens: CPU of the whole test process, in ms per second, with 100
// pods on a bridge and 500 processes in them. One iteration is one poll (500 ms).
func BenchmarkIdleWatcher(b *testing.B) {
	privileged(b, "ip", "nsenter")
	pods, processes := 100, 500
	makeNode(b, "node")
	for i := range pods {
		makePod(b, "node", "p"+strconv.Itoa(i), fmt.Sprintf("10.9.%d.2/24", i))
	}
	for i := range processes {
		cmd := exec.Command("nsenter", "--net=/run/netns/"+netnsName("p"+strconv.Itoa(i%pods)), "sleep", "1000") //nolint:gosec // our own
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { kill(cmd) })
	}
	start := time.Now()
	w, err := Watch(context.Background(), 0, func(Change) {})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close() //nolint:errcheck // tested elsewhere
	b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-start")
	waitPolls(b, w, 4) // until links have settled
	before, polls, at := cputime.Used(b), w.Counts().Polls, time.Now()
	b.ResetTimer()
	waitPolls(b, w, polls+uint64(b.N)) //nolint:gosec // positive
	ms := float64((cputime.Used(b) - before).Microseconds()) / 1000
	b.ReportMetric(ms/time.Since(at).Seconds(), "cpu-ms/s")
	b.ReportMetric(float64(len(w.State().Namespaces)), "namespaces")
}

// waitPolls waits on the watcher's own count; it looks 20 times a second.
func waitPolls(b *testing.B, w *Watcher, polls uint64) {
	b.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for w.Counts().Polls < polls {
		<-tick.C
	}
}

// BenchmarkReadProcesses is one look at all processes.
func BenchmarkReadProcesses(b *testing.B) {
	p, err := openProcTable()
	if err != nil {
		b.Fatal(err)
	}
	defer p.close() //nolint:errcheck // read only
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		p.tick++
		res, err := p.look()
		if err != nil {
			b.Fatal(err)
		}
		n = 0
		for _, m := range res.byNetns {
			n += m.count
		}
	}
	b.ReportMetric(float64(n), "processes")
}

// BenchmarkReadPod is one reading of a pod's links, and of its rules, as after an event.
func BenchmarkReadPod(b *testing.B) {
	privileged(b, "ip", "iptables-nft")
	makeNode(b, "node")
	makePod(b, "node", "pod", "10.9.0.2/24")
	for _, line := range istioLike("iptables-nft") {
		run(b, "ip netns exec {pod} "+line)
	}
	t, err := newTracker(views())
	if err != nil {
		b.Fatal(err)
	}
	defer t.procs.close() //nolint:errcheck // read only
	if _, _, err := t.discover(time.Now()); err != nil {
		b.Fatal(err)
	}
	var pod *entry
	for _, e := range t.entries {
		if e.ns.Name == netnsName("pod") {
			pod = e
		}
	}
	b.Run("links", func(b *testing.B) {
		for b.Loop() {
			t.readLinks(pod)
		}
	})
	b.Run("rules", func(b *testing.B) {
		for b.Loop() {
			t.readRules(pod)
		}
	})
}

// BenchmarkReadManyRules is one reading of a node's rules as kube-proxy writes them: 2,000 chains, 10,000 rules.
func BenchmarkReadManyRules(b *testing.B) {
	privileged(b, "ip", "iptables-nft-restore")
	makeNetns(b, "many")
	script := "*nat\n"
	for i := range 2000 {
		script += fmt.Sprintf(":KUBE-SVC-%d - [0:0]\n", i)
	}
	for i := range 10000 {
		script += fmt.Sprintf("-A KUBE-SVC-%d -p tcp -m tcp --dport %d -j KUBE-SVC-%d\n", i%1000, i%60000+1, 1000+i%1000)
	}
	cmd := exec.Command("ip", "netns", "exec", netnsName("many"), "iptables-nft-restore")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_, _ = in.Write([]byte(script + "-A OUTPUT -j KUBE-SVC-0\nCOMMIT\n"))
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	n := &Namespace{Inum: 0, Mounts: []string{"/run/netns/" + netnsName("many")}}
	var st unix.Stat_t
	if err := unix.Stat(n.Mounts[0], &st); err != nil {
		b.Fatal(err)
	}
	n.Inum = uint32(st.Ino) //nolint:gosec // 32 bits
	t := &tracker{}
	e := &entry{ns: n}
	for b.Loop() {
		t.readRules(e)
	}
	b.ReportMetric(float64(e.ns.Filter.Hooks[0].Reached), "rules-reached")
}
