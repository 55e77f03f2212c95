package audit

import (
	"fmt"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// What a journey of two exchanges and what is said of it cost, with as many remembered as can be.
func BenchmarkAudit(b *testing.B) {
	cfg := DefaultConfig()
	a := New(cfg, &loss.Set{})
	journeys, entries := make([]*journey.Journey, 1<<12), make([]*journey.Said, 1<<12)
	for i := range journeys {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012x", i+1)
		journeys[i], entries[i] = relayed(0, id, journey.MethodRequestID), said(0, id)
	}
	b.ReportAllocs()
	for n := range b.N {
		i, start := n%len(journeys), uint64(n)*ms/4
		for k, e := range journeys[i].Exchanges {
			e.Request.Start, e.Request.Recv = start+uint64(k)*2*ms, start+uint64(k)*2*ms+ms/10
			e.Response.Start, e.Response.Recv = start+10*ms-uint64(k)*2*ms-ms/10, start+10*ms-uint64(k)*2*ms
		}
		entries[i].Start = start + ms/5
		a.Journey(journeys[i])
		a.Say(entries[i], start)
		if n%1000 == 999 {
			a.Tick(start)
		}
	}
	if r := a.Report(); r.All.Wrong > 0 || b.N > 1<<16 && r.All.Right < uint64(b.N)/2 {
		b.Fatalf("%+v", r)
	}
}
