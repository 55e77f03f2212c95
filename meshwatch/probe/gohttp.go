package probe

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/tlsfind"
)

// HTTP is what is known of the net/http of a Go binary, for people.
type HTTP struct {
	Probed   bool   `json:"probed"`
	Requests uint64 `json:"requests"` // that its client made, since the probes were attached
	Tied     uint64 `json:"tied"`     // of them whose message has the goroutine that asked
	Problem  string `json:"problem,omitempty"`
}

// settleHTTP gives a binary's net/http the probes that it should have.
func (m *Manager) settleHTTP(b *binary) {
	if b.Library == nil || b.httpProblem != "" {
		return
	}
	h := b.Library.HTTP
	switch {
	case h == nil:
		if err := b.Library.HTTPErr; err != nil && !errors.Is(err, tlsfind.ErrNotHere) {
			b.httpProblem = err.Error()
		}
	case b.http == nil:
		m.attachHTTP(b, h)
	case b.http.Trips().Trips >= trialCalls && b.http.Trips().Tied == 0:
		b.httpProblem = fmt.Sprintf("net/http: none of %d requests became a message of TCP", b.http.Trips().Trips)
		m.opts.Log.Warn("probes of net/http are taken off", "binary", b.Path, "reason", b.httpProblem)
		m.report(b, b.offHTTP())
	}
}

func (m *Manager) attachHTTP(b *binary, h *tlsfind.HTTP) {
	points := bpf.GoPoints{RoundTrip: h.RoundTrip.Offset, Write: h.Write.Offset, Goid: h.Goid, ParentGoid: h.Parent}
	b.httpProblem = m.with(b, func(path string) (err error) {
		b.http, err = m.opts.GoHTTP.Attach(path, points)
		return err
	})
	switch {
	case b.httpProblem != "":
		m.opts.Log.Warn("cannot probe net/http", "binary", b.Path, "error", b.httpProblem)
	case b.http != nil:
		m.opts.Log.Info("probing net/http", "binary", b.Path)
	}
}

// offHTTP takes the probes off a binary's net/http.
func (b *binary) offHTTP() error {
	if b.http == nil {
		return nil
	}
	err := b.http.Close()
	b.http = nil
	return err
}

// forget makes room for other processes.
func (m *Manager) forget() {
	if m.opts.GoHTTP != nil {
		m.opts.GoHTTP.Forget(func(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
	}
}

func (m *Manager) httpState(b *binary) *HTTP {
	switch {
	case b.http != nil:
		t := b.http.Trips()
		return &HTTP{Probed: true, Requests: t.Trips, Tied: t.Tied}
	case b.httpProblem != "":
		return &HTTP{Problem: b.httpProblem}
	}
	return nil
}
