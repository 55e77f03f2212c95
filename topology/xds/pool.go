package xds

import (
	"hash/maphash"
	"runtime"
	"sync"
	"weak"

	"github.com/meshwatch/meshwatch/topology/proxy"
)

// digest stands for the bytes of a resource.
type digest [2]uint64

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func digestOf(b []byte) digest {
	return digest{maphash.Bytes(seeds[0], b), maphash.Bytes(seeds[1], b)}
}

// pool has what proxies of one node are told alike once. It keeps nothing that nobody else does.
type pool[T any] struct {
	mu  sync.Mutex
	all map[digest]weak.Pointer[T]
}

func newPool[T any]() *pool[T] { return &pool[T]{all: map[digest]weak.Pointer[T]{}} }

// get is what was made of these bytes; nil: nothing is left of it.
func (p *pool[T]) get(d digest) *T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[d].Value()
}

func (p *pool[T]) put(d digest, v *T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[d] = weak.Make(v)
	runtime.AddCleanup(v, p.forget, d)
}

func (p *pool[T]) forget(d digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[d].Value() == nil { // it may have come again
		delete(p.all, d)
	}
}

// pools are of all kinds of a proxy's resources.
type pools struct {
	clusters  *pool[proxy.Cluster]
	listeners *pool[proxy.Listener]
	endpoints *pool[proxy.Endpoints]
	routes    *pool[proxy.Routes]
}

func newPools() pools {
	return pools{newPool[proxy.Cluster](), newPool[proxy.Listener](), newPool[proxy.Endpoints](), newPool[proxy.Routes]()}
}
