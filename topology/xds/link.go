package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The pause between two attempts is doubled each time, and half of it is by chance, so that a control plane that comes back does not meet all
// nodes at once. It begins anew once the control plane has answered.
const (
	firstPause = time.Second
	// maxAway is the longest while the control plane is away. All streams of a connection wait together for one attempt, so those of 1,000 nodes are 133 a
	// second, at a service that nobody is behind; when it is back all come within 10 s, no more than 200 a second. Envoys take up to 30 s.
	maxAway = 10 * time.Second
	// maxRefused is the longest where it answers, and not with what was asked for. Then each stream asks for itself, which is work for the control plane,
	// until somebody changes a setting.
	maxRefused = 30 * time.Second
)

// pause is how long to wait before another attempt.
func pause(attempt int, longest time.Duration) time.Duration {
	most := min(firstPause<<min(attempt, 10), longest)
	return most/2 + rand.N(most/2) //nolint:gosec // no secret
}

// link is the connection to a control plane. Its streams share it, and each looks after itself.
type link struct {
	settings Settings
	identity *identity
	log      *slog.Logger
	pause    func(attempt int, longest time.Duration) time.Duration

	mu       sync.Mutex
	pings    time.Duration
	now      *shared   // nil: none
	attempts int       // that failed since the control plane last answered
	why      error     // the latest of these did
	next     time.Time // when the next one is due
}

func newLink(s Settings, log *slog.Logger, as string) *link {
	return &link{settings: s, identity: &identity{settings: s, log: log, as: as}, log: log, pings: keepalivePeriod, pause: pause}
}

// shared is a connection with the number of its streams.
type shared struct {
	conn  *grpc.ClientConn
	renew time.Time // zero: never
	users int
}

// take gives a stream the connection, which is made anew if there is none and that is due, or if it is time. give returns it.
func (l *link) take(ctx context.Context) (*shared, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil && !l.now.renew.IsZero() && !time.Now().Before(l.now.renew) {
		l.drop()
	}
	if l.now == nil {
		if time.Now().Before(l.next) {
			return nil, l.why
		}
		conn, renew, err := l.dial(ctx)
		if err != nil {
			l.failed(err)
			return nil, err
		}
		l.now = &shared{conn: conn, renew: renew}
	}
	l.now.users++
	return l.now, nil
}

// give returns a connection, with what its stream ended for. One that broke is not given out again; the last stream closes it.
func (l *link) give(s *shared, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.users--
	l.fewerPings(why)
	if l.now == s && away(why) {
		l.drop()
		l.failed(why)
	}
	if s.users == 0 {
		if l.now == s {
			l.now = nil
		}
		_ = s.conn.Close() //nolint:errcheck // it is over
	}
}

// drop gives a connection out no more.
func (l *link) drop() { l.now = nil }

// failed notes that a connection could not be made, or broke. The caller has the lock.
func (l *link) failed(why error) {
	if away(why) {
		l.why, l.next = why, time.Now().Add(l.pause(l.attempts, maxAway))
		l.attempts++
	}
}

// answered notes that the control plane is there.
func (l *link) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = 0
}

// due is how long it is until the connection is made anew.
func (l *link) due() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.next)
}

// away says whether a stream ended, or did not begin, because the control plane was not there; otherwise it said so itself.
func away(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.Canceled || c == codes.DeadlineExceeded
}

// errRenew ends a stream whose connection's certificate is to be renewed.
var errRenew = errors.New("the certificate is renewed")

// follow runs sessions, one after the other, until ctx ends. lost hears why each ended.
func (l *link) follow(ctx context.Context, session func(context.Context) (heard bool, err error), lost func(error)) {
	for refused := 0; ctx.Err() == nil; {
		heard, err := session(ctx)
		if heard {
			refused = 0
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errRenew) {
			continue
		}
		lost(err)
		wait := l.due()
		if !away(err) {
			wait = l.pause(refused, maxRefused)
			refused++
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// talk is one stream, from its beginning to its end: first is sent, and what answer says to each response. heard: the control
// plane answered.
func (l *link) talk(ctx context.Context, first []*discovery.DeltaDiscoveryRequest, answer func(*discovery.DeltaDiscoveryResponse) []*discovery.DeltaDiscoveryRequest) (heard bool, err error) {
	s, err := l.take(ctx)
	if err != nil {
		return false, err
	}
	defer func() { l.give(s, err) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !s.renew.IsZero() {
		defer time.AfterFunc(time.Until(s.renew), func() { cancel(errRenew) }).Stop()
	}
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, because(ctx, err)
	}
	if err := send(stream, first); err != nil {
		return false, because(ctx, err)
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return heard, because(ctx, err)
		}
		if !heard {
			heard = true
			l.answered()
		}
		if err := send(stream, answer(response)); err != nil {
			return heard, because(ctx, err)
		}
	}
}

// because prefers why a context ended to that it did.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// send sends requests. Why a stream cannot be sent to, gRPC says to who receives.
func send(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, requests []*discovery.DeltaDiscoveryRequest) error {
	for _, r := range requests {
		if err := stream.Send(r); err != nil {
			if _, why := stream.Recv(); why != nil {
				return why
			}
			return fmt.Errorf("send to the control plane: %w", err)
		}
	}
	return nil
}
