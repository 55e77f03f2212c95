package proxylog

import (
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// budget bounds how many entries are read, of all speakers and of each. A speaker that says more is slowed down by it, not the others.
type budget struct {
	mu      sync.Mutex
	each    float64
	all     bucket
	peers   map[journey.Speaker]*bucket
	strange *bucket // of all that have no bucket
	swept   time.Time
}

// bucket has a second's tokens.
type bucket struct {
	rate, tokens float64
	at           time.Time
}

const (
	mostPeers  = 4096                   // that have a bucket of their own
	sweepEvery = 100 * time.Millisecond // at most: it looks at all of them
)

func newBudget(all, each int) *budget {
	return &budget{
		each: float64(each), all: bucket{rate: float64(all), tokens: float64(all)},
		peers: map[journey.Speaker]*bucket{}, strange: &bucket{rate: float64(each), tokens: float64(each)},
	}
}

// take says whether a speaker may say one more thing.
func (b *budget) take(who journey.Speaker, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	peer := b.peer(who, now)
	peer.fill(now)
	b.all.fill(now)
	if peer.tokens < 1 || b.all.tokens < 1 {
		return false
	}
	peer.tokens--
	b.all.tokens--
	return true
}

// peer finds a speaker's bucket. Those that are full again are nobody's: they are forgotten when room is needed.
func (b *budget) peer(who journey.Speaker, now time.Time) *bucket {
	if p := b.peers[who]; p != nil {
		return p
	}
	if len(b.peers) >= mostPeers {
		if now.Sub(b.swept) < sweepEvery {
			return b.strange
		}
		b.swept = now
		for k, p := range b.peers {
			if p.fill(now); p.tokens >= p.rate {
				delete(b.peers, k)
			}
		}
		if len(b.peers) >= mostPeers {
			return b.strange
		}
	}
	p := &bucket{rate: b.each, tokens: b.each}
	b.peers[who] = p
	return p
}

func (b *bucket) fill(now time.Time) {
	if !now.After(b.at) {
		return
	}
	if !b.at.IsZero() {
		b.tokens = min(b.rate, b.tokens+b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
}
