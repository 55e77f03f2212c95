// Package scaletest measures what following a mesh costs, for docs/scale.md. Who tells of the mesh is a process of its own, so that what is
// measured is the follower.
package scaletest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/cputime"
)

// Sizes are of the meshes that are measured, in workloads.
var Sizes = []int{100, 1000, 10_000}

const (
	perSecond = 100 // changes
	churning  = 10 * time.Second
	variable  = "MESHWATCH_SCALE_SERVE" // the mesh's workloads
)

// Serve is the test TestServe, which is a server for Measure: fill makes a mesh of n workloads and says where it is served; change makes a
// change to it.
func Serve(t *testing.T, fill func(n int) (address string), change func(n, i int)) {
	n, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		t.Skip("part of BenchmarkScale")
	}
	fmt.Println("serving", fill(n))
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return
	}
	begun := time.Now()
	for i := 0; time.Since(begun) < churning; i++ {
		change(n, i)
		time.Sleep(time.Until(begun.Add(time.Duration(i+1) * time.Second / perSecond)))
	}
	_, _ = in.ReadString('\n') //nolint:errcheck // until it is closed
}

// Follower is what is measured.
type Follower interface {
	AwaitReady()     // it has all that there is
	Changes() uint64 // that it took
	Passed(time.Duration)
	Stop()
}

// Measure starts the server and reports what it costs to follow it.
func Measure(b *testing.B, n int, follow func(address string) Follower) {
	address, in := serve(b, n)
	before, cpu, begun := heap(), cputime.Used(b), time.Now()
	f := follow(address)
	f.AwaitReady()
	b.ReportMetric(time.Since(begun).Seconds(), "s-to-ready")
	b.ReportMetric((cputime.Used(b) - cpu).Seconds(), "cpu-s-to-ready")
	full := heap()
	b.ReportMetric(float64(full-before)/1e6, "MB")
	from, changes := cputime.Used(b), f.Changes()
	if _, err := fmt.Fprintln(in); err != nil {
		b.Fatal(err)
	}
	const step = 50 * time.Millisecond
	for end := time.Now().Add(churning); time.Now().Before(end); time.Sleep(step) {
		f.Passed(step)
	}
	b.ReportMetric((cputime.Used(b)-from).Seconds()/churning.Seconds(), "cores-at-100-changes/s")
	b.ReportMetric(float64(f.Changes()-changes)/churning.Seconds(), "changes/s")
	b.ReportMetric(float64(heap()-before)/1e6, "MB-after")
	b.ReportMetric(resident(b), "MB-resident-at-most")
	b.ReportMetric(0, "ns/op")
	f.Stop()
}

// serve runs TestServe of this test program until the benchmark ends.
func serve(b *testing.B, n int) (address string, in io.Writer) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestServe$")
	cmd.Env = append(os.Environ(), fmt.Sprint(variable, "=", n))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = stdin.Close() //nolint:errcheck // it ends with its input
		_ = cmd.Wait()    //nolint:errcheck // as above
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if address, ok := strings.CutPrefix(lines.Text(), "serving "); ok {
			return address, stdin
		}
	}
	b.Fatal("the server does not serve")
	return "", nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// resident is the most memory that the process has had so far, in MB, this test and all.
func resident(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1e3
}
