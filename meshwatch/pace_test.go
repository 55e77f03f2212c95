package meshwatch

import (
	"testing"
	"time"
)

// However the load changes, a pause brings about an eighth of the ring, and never more than it holds.
func TestPace(t *testing.T) {
	const ring = 8192
	pause := longPause
	for _, perSecond := range []int{0, 100, 5000, 14_000, 40_000, 200_000, 14_000, 0} {
		for range 20 {
			pause = nextPause(pause, int(float64(perSecond)*pause.Seconds()), ring)
		}
		fresh := int(float64(perSecond) * pause.Seconds())
		if pause < shortPause || pause > longPause || fresh > ring/6 || fresh < ring/10 && pause < longPause {
			t.Errorf("%d a second: %s, which is %d records", perSecond, pause, fresh)
		}
	}
	if n := int(50_000 * longPause.Seconds()); n > ring {
		t.Errorf("a load that begins at 50,000 a second loses %d records", n-ring)
	}
	if nextPause(shortPause, 1<<20, ring) != shortPause || nextPause(longPause, 1, ring) != longPause {
		t.Errorf("pauses are not bounded by %s and %s", shortPause, time.Duration(longPause))
	}
}
