package xds

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshwatch/meshwatch/test/scaletest"
)

// benchPod is a workload as istiod tells of it, behind one of a tenth as many services; another turn gives it another address.
func benchPod(i, turn int) []byte {
	uid := fmt.Sprintf("Kubernetes//Pod/demo/service-%d-6f9c7d5b8-x%d", i/10, i)
	w := part(part(part(nil, 1, uid[len("Kubernetes//Pod/demo/"):]), 2, "demo"), 20, uid)
	w = part(w, 3, string([]byte{10, byte(1 + turn%200), byte(i >> 8), byte(i)}))
	for n, text := range map[protowire.Number]string{7: "default", 9: fmt.Sprintf("n%d", i/100), 10: fmt.Sprintf("service-%d", i/10), 11: "v1", 13: fmt.Sprintf("service-%d", i/10), 18: "Kubernetes"} {
		w = part(w, n, text)
	}
	w = part(w, 22, string(part(part(nil, 1, fmt.Sprintf("demo/service-%d.demo.svc.cluster.local", i/10)), 2, string(port(nil, 1, 80, 8080)))))
	return part(nil, addressWorkload, string(w))
}

func benchService(i int) []byte {
	name := fmt.Sprintf("service-%d", i)
	s := part(part(part(nil, 1, name), 2, "demo"), 3, name+".demo.svc.cluster.local")
	s = port(part(s, 4, string(part(nil, 2, string([]byte{10, 96, byte(i >> 8), byte(i)})))), 5, 80, 8080)
	return part(nil, addressService, string(s))
}

// TestServe is the control plane of BenchmarkScale.
func TestServe(t *testing.T) {
	var p *plane
	scaletest.Serve(t, func(n int) string {
		p = newPlane(t, nil)
		all := map[string][]byte{}
		for i := range n {
			all[fmt.Sprint("w", i)] = benchPod(i, 0)
		}
		for i := range n / 10 {
			all[fmt.Sprint("s", i)] = benchService(i)
		}
		p.set(all)
		return p.address
	}, func(n, i int) {
		p.forget()
		p.set(map[string][]byte{fmt.Sprint("w", i%n): benchPod(i%n, i/n+1)})
	})
}

// BenchmarkScale prints what following a control plane costs, for docs/scale.md: make bench-topology.
func BenchmarkScale(b *testing.B) {
	for _, n := range scaletest.Sizes {
		b.Run(fmt.Sprintf("workloads=%d", n), func(b *testing.B) {
			for range b.N {
				scaletest.Measure(b, n, func(address string) scaletest.Follower {
					return measured{follow(b, Settings{Address: address, Security: Plaintext}), n + n/10}
				})
			}
		})
	}
}

// measured is a client as BenchmarkScale takes it.
type measured struct {
	*following
	all int // resources
}

func (m measured) AwaitReady() {
	m.await("ready", func() bool {
		m.mu.Lock()
		known := m.store.Len() > 0
		m.mu.Unlock()
		return known && m.Status().Resources == m.all
	})
}

func (m measured) Changes() uint64      { return m.Status().Accepted }
func (m measured) Passed(time.Duration) {}
func (m measured) Stop()                { m.stop() }
