package meshwatch

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// monotonic is CLOCK_MONOTONIC in ns: the recorder's clock.
func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return uint64(ts.Nano())                         //nolint:gosec // since boot
}

// readClock takes the offset of wall time to the recorder's clock: the tightest of a few readings, within a µs.
func readClock() (journey.Clock, error) {
	var best int64
	width := uint64(1 << 62)
	for range 10 {
		before := monotonic()
		wall := time.Now().UnixNano()
		after := monotonic()
		if after-before < width {
			width = after - before
			best = wall - int64(before+(after-before)/2) //nolint:gosec // since boot
		}
	}
	if best == 0 {
		return journey.Clock{}, fmt.Errorf("read the clock: no difference of wall and monotonic time")
	}
	return journey.Clock{Offset: best}, nil
}
