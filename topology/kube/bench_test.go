package kube

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/meshwatch/meshwatch/test/scaletest"
	"github.com/meshwatch/meshwatch/topology"
)

const (
	perService = 10  // workloads
	perNode    = 100 // workloads
	onThisNode = 250 // at most: this node is a full one
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

// TestServe is the server of BenchmarkScale.
func TestServe(t *testing.T) {
	var s *server
	scaletest.Serve(t, func(n int) string {
		s = newServer(t)
		fillWith(s, n)
		return s.address
	}, func(n, i int) {
		if turn := i / 10; i%5 == 0 {
			s.set(podsPath, benchPod(turn%min(n, onThisNode), i))
		} else {
			s.set(slicesPath, benchSlice(i%(n/perService), i))
		}
	})
}

// BenchmarkScale prints what following a mesh costs, for docs/scale.md: make bench-topology.
func BenchmarkScale(b *testing.B) {
	for _, n := range scaletest.Sizes {
		b.Run(fmt.Sprintf("workloads=%d", n), func(b *testing.B) {
			for range b.N {
				scaletest.Measure(b, n, func(address string) scaletest.Follower {
					clients, err := ConnectTo(&rest.Config{Host: "http://" + address})
					if err != nil {
						b.Fatal(err)
					}
					return measured{followWith(b, clients, topology.NewBuilder("", 70*second))}
				})
			}
		})
	}
}

// measured is a follower as BenchmarkScale takes it.
type measured struct{ *follower }

func (m measured) AwaitReady() {
	m.await("ready", func() bool { return m.Status().Ready && m.store.Load() != nil })
}

func (m measured) Changes() uint64        { return m.Status().Changes }
func (m measured) Passed(d time.Duration) { m.now.Add(uint64(d)) } //nolint:gosec // positive

func (m measured) Stop() {
	m.cancel()
	http.DefaultClient.CloseIdleConnections()
}
