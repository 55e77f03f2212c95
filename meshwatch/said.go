package meshwatch

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/proxylog"
)

// listener is what hears proxies, and compares.
type listener struct {
	server *proxylog.Server
	audit  *audit.Audit
	taking sync.WaitGroup
	words  chan journey.Said // for the joiner; nil: it hears nothing
	full   *loss.Counter
}

// hearing is how long a join waits for what a proxy says: Envoy sends its log once a second.
const hearing = 1500 * time.Millisecond

// wordsLength is how many entries wait for the loop, which looks every 80 ms at least.
const wordsLength = 1 << 14

// listen begins to listen for access logs, where that is wanted.
func (a *Agent) listen(ctx context.Context) error {
	if !a.cfg.AccessLogs.on() {
		return nil
	}
	c := &a.cfg.AccessLogs
	server, err := proxylog.Listen(proxylog.Options{
		Envoy: c.Envoy, HAProxy: c.HAProxy, Rings: c.HAProxyRings, PerSecond: c.PerSecond, PerPeer: c.PerPeer, Monotonic: monotonic, Owner: func(transport string, at netip.AddrPort) (int, error) { return a.names.State().Owner(transport, at) },
		Losses: a.losses, Log: a.env.Log,
	})
	if err != nil {
		return err
	}
	cfg := audit.DefaultConfig()
	cfg.Wait += a.cfg.Join.Parents + a.cfg.Join.Linger // until a journey is emitted
	cfg.Exchanges = c.Exchanges
	a.said = &listener{server: server, full: a.losses.Counter("accesslog", "queue-full")}
	if c.Use == UseJoin {
		a.said.words = make(chan journey.Said, wordsLength)
		cfg.Wait += hearing
	}
	a.said.audit = audit.New(cfg, a.losses)
	a.said.taking.Go(func() { a.said.take(ctx) })
	return nil
}

// take gives the audit what is said, and time, until there is no more.
func (l *listener) take(ctx context.Context) {
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	entries := l.server.Entries()
	for {
		select {
		case e, open := <-entries:
			if !open {
				return
			}
			l.audit.Say(&e, monotonic())
			l.pass(&e)
		case <-tick.C:
			if ctx.Err() == nil {
				l.audit.Tick(monotonic())
			}
		}
	}
}

// pass queues an entry for the joiner.
func (l *listener) pass(e *journey.Said) {
	if l.words == nil {
		return
	}
	select {
	case l.words <- *e:
	default:
		l.full.Add(1)
	}
}

// tell gives the joiner what was said since the last look. Of the loop.
func (l *listener) tell(j *join.Joiner) {
	for range len(l.words) {
		e := <-l.words
		j.Say(&e)
	}
}

func (l *listener) close() error {
	err := l.server.Close()
	l.taking.Wait()
	return err
}
