package proxylog

import (
	"net/netip"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

const (
	// mostLookups is how many processes are looked for in a second: each costs some ms, and who connects decides how many there are.
	mostLookups = 20
	// mostOwners is how many addresses are remembered, and ownerLasts for how long: another process may have one by then.
	mostOwners = 1024
	ownerLasts = 10 * time.Second
)

// owners finds the processes of speakers over IP, and remembers them for a while.
type owners struct {
	find func(transport string, at netip.AddrPort) (pid int, err error)

	mu    *sync.Mutex // guards what follows
	limit *bucket
	known map[netip.AddrPort]owner // of UDP, whose speakers come again with each datagram
}

// owner is the process that was found at an address, 0: none.
type owner struct {
	pid   int
	since time.Time
}

func newOwners(find func(string, netip.AddrPort) (int, error)) owners {
	return owners{find: find, mu: &sync.Mutex{}, limit: &bucket{rate: mostLookups, tokens: mostLookups}, known: map[netip.AddrPort]owner{}}
}

// speaker is who speaks from an address: its process, if that is found.
func (o *owners) speaker(transport string, at netip.AddrPort, now time.Time) journey.Speaker {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	by := journey.Speaker{Addr: at.Addr()}
	if o.find == nil || !o.allowed(now) {
		return by
	}
	if pid, err := o.find(transport, at); err == nil && pid > 0 {
		return journey.Speaker{Pid: pid}
	}
	return by
}

// again is the same for one who may have spoken a moment ago.
func (o *owners) again(transport string, at netip.AddrPort, now time.Time) journey.Speaker {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	o.mu.Lock()
	known, ok := o.known[at]
	o.mu.Unlock()
	if !ok || now.Sub(known.since) > ownerLasts {
		known = owner{o.speaker(transport, at, now).Pid, now}
		o.mu.Lock()
		if len(o.known) >= mostOwners {
			o.known = map[netip.AddrPort]owner{}
		}
		o.known[at] = known
		o.mu.Unlock()
	}
	if known.pid == 0 {
		return journey.Speaker{Addr: at.Addr().Unmap()}
	}
	return journey.Speaker{Pid: known.pid}
}

func (o *owners) allowed(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.limit.fill(now); o.limit.tokens < 1 {
		return false
	}
	o.limit.tokens--
	return true
}
