package topology

import (
	"context"
	"time"
)

// publishEvery is the time between two Stores: who uses them forgets what it worked out with the one before.
const publishEvery = time.Second

// Publish gives a Store to changed soon after each time that dirty says there is something new, until ctx ends. changed is never called
// twice at a time.
func Publish(ctx context.Context, dirty <-chan struct{}, b *Builder, clock func() uint64, changed func(*Store)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-dirty:
			changed(b.Store(clock()))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(publishEvery):
		}
	}
}
