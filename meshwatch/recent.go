package meshwatch

import (
	"encoding/hex"
	"strings"
	"sync"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// recent keeps the latest journeys, to be asked for by request id or trace id. Safe for concurrent use.
type recent struct {
	mu   sync.Mutex
	ring []*journey.Journey
	next int
	byID map[[16]byte]*journey.Journey
}

func newRecent(n int) *recent {
	return &recent{ring: make([]*journey.Journey, n), byID: make(map[[16]byte]*journey.Journey, 2*n)}
}

// keysOf are the ids under which a journey is found.
func keysOf(j *journey.Journey) (keys [][16]byte) {
	if j.TraceID != [16]byte{} {
		keys = append(keys, j.TraceID)
	}
	for _, e := range j.Exchanges {
		if id, ok := head.ParseID([]byte(e.RequestID)); ok {
			keys = append(keys, id)
		}
	}
	if id, ok := head.ParseID([]byte(j.RequestID)); ok {
		keys = append(keys, id)
	}
	return keys
}

func (r *recent) add(j *journey.Journey) {
	if len(r.ring) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.ring[r.next]; old != nil {
		for _, k := range keysOf(old) {
			if r.byID[k] == old {
				delete(r.byID, k)
			}
		}
	}
	r.ring[r.next] = j
	r.next = (r.next + 1) % len(r.ring)
	for _, k := range keysOf(j) {
		if known := r.byID[k]; known == nil || len(known.Exchanges) <= len(j.Exchanges) {
			r.byID[k] = j // of several under one id the largest tree
		}
	}
}

// find looks a journey up by request id, or by trace id in hex.
func (r *recent) find(id string) *journey.Journey {
	r.mu.Lock()
	defer r.mu.Unlock()
	var key [16]byte
	if digits := strings.ReplaceAll(id, "-", ""); len(digits) == hex.EncodedLen(len(key)) {
		if _, err := hex.Decode(key[:], []byte(digits)); err == nil && r.byID[key] != nil {
			return r.byID[key]
		}
	}
	if parsed, ok := head.ParseID([]byte(id)); ok {
		return r.byID[parsed]
	}
	return nil
}

// latest are the n latest journeys, newest first.
func (r *recent) latest(n int) (out []*journey.Journey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := 1; i <= len(r.ring) && len(out) < n; i++ {
		if j := r.ring[(r.next-i+len(r.ring))%len(r.ring)]; j != nil {
			out = append(out, j)
		}
	}
	return out
}
