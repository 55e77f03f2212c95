// Package await waits for conditions.
package await

import (
	"context"
	"time"
)

// Until polls a condition until it holds or ctx is done.
func Until(ctx context.Context, holds func() bool) error {
	const pause = 20 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
