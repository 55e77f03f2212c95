package meshwatch

import (
	"context"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
	"github.com/meshwatch/meshwatch/meshwatch/proxylog"
)

// listener is what hears proxies, and compares.
type listener struct {
	server *proxylog.Server
	audit  *audit.Audit
	taking sync.WaitGroup
}

// listen begins to listen for access logs, where that is wanted.
func (a *Agent) listen(ctx context.Context) error {
	if !a.cfg.AccessLogs.on() {
		return nil
	}
	c := &a.cfg.AccessLogs
	server, err := proxylog.Listen(proxylog.Options{
		Envoy: c.Envoy, HAProxy: c.HAProxy, PerSecond: c.PerSecond, PerPeer: c.PerPeer, Monotonic: monotonic, Losses: a.losses, Log: a.env.Log,
	})
	if err != nil {
		return err
	}
	cfg := audit.DefaultConfig()
	cfg.Wait += a.cfg.Join.Parents + a.cfg.Join.Linger // until a journey is emitted
	cfg.Exchanges = c.Exchanges
	a.said = &listener{server: server, audit: audit.New(cfg, a.losses)}
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
		case <-tick.C:
			if ctx.Err() == nil {
				l.audit.Tick(monotonic())
			}
		}
	}
}

func (l *listener) close() error {
	err := l.server.Close()
	l.taking.Wait()
	return err
}
