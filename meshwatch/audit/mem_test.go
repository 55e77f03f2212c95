package audit

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

// What the tables hold when they are full, each exchange on a connection of its own, is what Config says.
func TestMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	cfg := DefaultConfig()
	a := New(cfg, &loss.Set{})
	for i := range cfg.Exchanges {
		e := message(leg(app, proxy, fmt.Sprintf("10.0.%d.1:%d", i>>14, 10000+i&(1<<14-1)), peer), -1, "", uint64(i)*ms, ms)
		a.Journey(&journey.Journey{Exchanges: []*journey.Exchange{e}})
	}
	exchanges := heap() - before
	for i := range cfg.Entries {
		a.Say(said(uint64(i)*ms, "00000000-0000-4000-8000-000000000001"), 0)
	}
	entries := heap() - before - exchanges
	runtime.KeepAlive(a)
	each, other := int(exchanges)/cfg.Exchanges, int(entries)/cfg.Entries //nolint:gosec // not as large
	t.Logf("%d B for an exchange, %d B for an entry", each, other)
	if each > 1000 || other > 600 {
		t.Errorf("%d B for an exchange, %d B for an entry", each, other)
	}
}
