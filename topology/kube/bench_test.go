package kube

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/meshwatch/meshwatch/topology"
)

const (
	perService = 10  // workloads
	perNode    = 100 // workloads
	onThisNode = 250 // at most: this node is a full one
	churning   = 10 * time.Second
	perSecond  = 100 // changes
)

// fillWith puts a mesh of n workloads into a server.
func fillWith(s *server, n int) {
	for i := range max(1, n/perNode) {
		s.set(nodesPath, aNode(fmt.Sprintf("n%d", i+2), fmt.Sprintf("z%d", i%3), fmt.Sprintf("192.0.%d.%d", i/250, i%250+1)))
	}
	s.set(nodesPath, aNode("n1", "z1", "198.51.100.1"))
	for i := range min(n, onThisNode) {
		s.set(podsPath, benchPod(i, 0))
	}
	for i := range n / perService {
		name := fmt.Sprintf("service-%d", i)
		s.set(servicesPath, &core.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name},
			Spec:       core.ServiceSpec{ClusterIPs: []string{fmt.Sprintf("10.96.%d.%d", i/250, i%250+1)}, Ports: []core.ServicePort{{Port: 80}}},
		})
		s.set(slicesPath, benchSlice(i, 0))
		s.set(istioPath+"virtualservices", &networking.VirtualService{
			ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name},
			Spec: api.VirtualService{Hosts: []string{name}, Http: []*api.HTTPRoute{
				{Name: "a", Timeout: durationpb.New(time.Second), Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: name, Subset: "v1"}, Weight: 90}, {Destination: &api.Destination{Host: name, Subset: "v2"}, Weight: 10}}},
			}},
		})
		s.set(istioPath+"destinationrules", &networking.DestinationRule{
			ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name},
			Spec:       api.DestinationRule{Host: name, Subsets: []*api.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "v2", Labels: map[string]string{"version": "v2"}}}},
		})
	}
}

// benchPod is of this node; another turn gives it another address.
func benchPod(i, turn int) *core.Pod {
	p := aPod(fmt.Sprintf("here-%d-6f9c7d5b8-x%d", i/perService, i), fmt.Sprintf("10.200.%d.%d", turn%250, i+1))
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:status":{"` + strings.Repeat(`f:conditions":{},"`, 100) + `":{}}}`)}}}
	p.Spec.Containers = []core.Container{{Name: "app", Image: "registry.example/app:1", Ports: []core.ContainerPort{{ContainerPort: 8080}}}, {Name: "istio-proxy", Image: "registry.example/proxyv2:1.31"}}
	return p
}

func benchSlice(i, turn int) *discovery.EndpointSlice {
	var endpoints []discovery.Endpoint
	for k := range perService {
		at := i*perService + k
		addr := fmt.Sprintf("10.%d.%d.%d", at/60000, at/240%250, at%240+1)
		name := fmt.Sprintf("service-%d-6f9c7d5b8-%d", i, k)
		if k == 0 {
			name += fmt.Sprint("-", turn) // another pod with the same address
		}
		endpoints = append(endpoints, ofPod(name, fmt.Sprintf("n%d", at/perNode+2), addr))
	}
	return aSlice(fmt.Sprintf("service-%d-abcde", i), fmt.Sprintf("service-%d", i), endpoints...)
}

// TestServe is the server of BenchmarkScale, in a process of its own.
func TestServe(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("KUBE_TEST_SERVE"))
	if err != nil {
		t.Skip("part of BenchmarkScale")
	}
	s := newServer(t)
	fillWith(s, n)
	fmt.Println("serving", s.address)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return
	}
	begun := time.Now()
	for i := 0; time.Since(begun) < churning; i++ {
		if turn := i / 10; i%5 == 0 {
			s.set(podsPath, benchPod(turn%min(n, onThisNode), i))
		} else {
			s.set(slicesPath, benchSlice(i%(n/perService), i))
		}
		time.Sleep(time.Until(begun.Add(time.Duration(i+1) * time.Second / perSecond)))
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') //nolint:errcheck // until it is closed
}

// BenchmarkScale prints what following a mesh costs, for docs/scale.md: go test ./topology/kube -run '^$' -bench Scale -benchtime 1x.
func BenchmarkScale(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("workloads=%d", n), func(b *testing.B) {
			for range b.N {
				scale(b, n)
			}
		})
	}
}

func scale(b *testing.B, n int) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestServe$")
	cmd.Env = append(os.Environ(), fmt.Sprint("KUBE_TEST_SERVE=", n))
	in, err := cmd.StdinPipe()
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
	defer cmd.Wait() //nolint:errcheck // it ends with its input
	defer in.Close() //nolint:errcheck // as above
	address := ""
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		address, _ = strings.CutPrefix(lines.Text(), "serving ")
	}
	clients, err := ConnectTo(&rest.Config{Host: "http://" + address})
	if err != nil {
		b.Fatal(err)
	}
	before, cpu := heap(), cpuTime(b)
	f := followWith(b, clients, topology.NewBuilder("", 70*second))
	begun := time.Now()
	f.await("ready", func() bool { return f.Status().Ready })
	b.ReportMetric(time.Since(begun).Seconds(), "s-to-ready")
	b.ReportMetric((cpuTime(b) - cpu).Seconds(), "cpu-s-to-ready")
	f.await("a Store", func() bool { return f.store.Load() != nil })
	full := heap()
	b.ReportMetric(float64(full-before)/1e6, "MB")
	from, changes := cpuTime(b), f.Status().Changes
	if _, err := fmt.Fprintln(in); err != nil {
		b.Fatal(err)
	}
	for end := time.Now().Add(churning); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		f.now.Add(second / 20)
	}
	b.ReportMetric((cpuTime(b)-from).Seconds()/churning.Seconds(), "cores-at-100-changes/s")
	b.ReportMetric(float64(f.Status().Changes-changes)/churning.Seconds(), "changes/s")
	b.ReportMetric(float64(heap()-before)/1e6, "MB-after")
	b.ReportMetric(resident(b), "MB-resident-at-most")
	b.ReportMetric(0, "ns/op")
	f.cancel()
	http.DefaultClient.CloseIdleConnections()
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

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
