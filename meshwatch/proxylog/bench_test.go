package proxylog

import (
	"testing"
	"time"

	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// What an entry costs: that is read, and of a flood.
func BenchmarkEntry(b *testing.B) {
	const batch = 32
	entries := make([]*data.HTTPAccessLogEntry, batch)
	for i := range entries {
		entries[i] = entryOf(time.Now())
	}
	raw := marshal(b, message(entries...))
	for name, perPeer := range map[string]int{"read": 1 << 30, "over": 1} {
		b.Run(name, func(b *testing.B) {
			s, _ := silent()
			s.budget = newBudget(1<<30, perPeer)
			now := time.Now()
			for range b.N / batch {
				s.message(raw, journey.Speaker{Pid: 1}, now)
				for len(s.out) > 0 {
					<-s.out
				}
			}
		})
	}
	b.Run("line", func(b *testing.B) {
		s, _ := silent()
		s.budget = newBudget(1<<30, 1<<30)
		line, now := []byte(lineOf(time.Now())), time.Now()
		for range b.N {
			s.line(line, journey.Speaker{Pid: 1}, now)
			<-s.out
		}
	})
}
