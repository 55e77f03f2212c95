package meshwatch

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
	"github.com/meshwatch/meshwatch/meshwatch/verdict"
)

// keeper decides which journeys become spans and stay for `meshwatch trace`; metrics count all of them in any case.
type keeper struct {
	cfg    Keep
	tokens float64
	at     uint64
	kept   uint64
}

func newKeeper(cfg Keep) *keeper { return &keeper{cfg: cfg, tokens: float64(cfg.PerSecond)} }

// wants says whether a tree is kept. limited: it would have been, but for the limit per second.
func (k *keeper) wants(t *join.Tree, now uint64) (keep, limited bool) {
	duration, failed := observe.Keepable(t)
	if !k.chosen(t) && !(failed && k.cfg.Errors) && (k.cfg.Slow == 0 || duration < uint64(k.cfg.Slow)) { //nolint:gosec // validated
		return false, false
	}
	limit := float64(k.cfg.PerSecond)
	if limit == 0 {
		k.kept++
		return true, false
	}
	k.tokens = min(limit, k.tokens+limit*float64(now-k.at)/float64(time.Second))
	k.at = now
	if k.tokens < 1 {
		return false, true
	}
	k.tokens--
	k.kept++
	return true, false
}

// chosen is the same on every node: it depends on the request id alone, else on the trace, else on the first message's
// place in its connection.
func (k *keeper) chosen(t *join.Tree) bool {
	if k.cfg.Ratio >= 1 {
		return true
	}
	id := t.ID
	if m := t.Exchanges[0].Req; id == (head.ID{}) {
		binary.BigEndian.PutUint32(id[:], m.Seq)
		binary.BigEndian.PutUint32(id[8:], m.Ack)
	}
	for _, x := range t.Exchanges {
		if t.ID == (head.ID{}) && x.TraceID != [16]byte{} {
			id = x.TraceID
			break
		}
	}
	return float64(spread(id)) < k.cfg.Ratio*math.MaxUint64
}

// spread makes of an id, however it was made, a number that is anywhere with the same chance. It never changes between
// releases. SplitMix64's finalizer.
func spread(id [16]byte) uint64 {
	var h uint64
	for _, half := range [][]byte{id[:8], id[8:]} {
		h = (h ^ binary.BigEndian.Uint64(half)) + 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

// tree is where the joiner gives what it found.
func (a *Agent) tree(t *join.Tree) {
	a.observer.Measure(t)
	keep, limited := a.keep.wants(t, a.now)
	if limited {
		a.losses.Count("keep", "over-limit", 1)
	}
	if !keep && a.writer == nil && a.said == nil {
		return
	}
	j := a.observer.Render(t)
	if a.said != nil {
		a.said.audit.Journey(j)
	}
	if !keep && a.writer == nil {
		return
	}
	j.Verdict = verdict.Judge(j)
	if share := a.meter.share(); share < 1 {
		j.RecordedShare = share
	}
	if a.writer != nil {
		a.writer.Offer(j)
	}
	if keep {
		a.recent.add(j)
		if a.exporter != nil {
			a.exporter.Offer(j)
		}
	}
}
