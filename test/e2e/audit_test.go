package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
	"github.com/meshwatch/meshwatch/test/lab"
)

// What the real proxies say of themselves has the exact connections of the legs that were seen, and all joins are right by it.
func TestAudit(t *testing.T) {
	for name, sidecar := range map[string]lab.Sidecar{"envoy": lab.SidecarEnvoy, "haproxy": lab.SidecarHAProxy} {
		t.Run(name, func(t *testing.T) { checkAudit(t, sidecar) })
	}
}

// arrive is the least share of the entries that must come.
const arrive = 0.99

// told is how many entries the proxies have for a request: the gateway one, each sidecar one for each way.
const told = 4

// logSockets are paths that proxies of every user can write to.
func logSockets(t *testing.T) (als, log string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mw") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // proxies must come in
		t.Fatal(err)
	}
	return filepath.Join(dir, "als"), filepath.Join(dir, "log")
}

// askAll has some clients ask for so many things each, one after the other.
func askAll(t *testing.T, l *lab.Lab, clients, each int, path func(client, i int) string) {
	t.Helper()
	ask := func(n int) {
		client := l.Client()
		defer client.CloseIdleConnections()
		for i := range each {
			resp, err := client.Get(l.GatewayURL() + path(n, i))
			if err != nil {
				t.Error(err)
				return
			}
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("status %d, %v", resp.StatusCode, err)
			}
		}
	}
	var asking sync.WaitGroup
	for n := range clients {
		asking.Go(func() { ask(n) })
	}
	asking.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func checkAudit(t *testing.T, sidecar lab.Sidecar) {
	als, log := logSockets(t)
	l := up(t, lab.Options{Sidecar: sidecar, ALS: als, Said: log})
	a := start(t, l, fmt.Sprintf("access_logs: {envoy: [%s], haproxy_rings: [%s]}", als, log))
	defer a.logLosses()
	const clients, each = 4, 500
	askAll(t, l, clients, each, func(n, i int) string { return fmt.Sprintf("/%d-%d", n, i) })
	var r *audit.Report
	a.eventually("all that was said is judged", func() error {
		s, err := a.Status(t.Context())
		switch {
		case err != nil:
			return err
		case s.Audit == nil:
			return errors.New("no audit")
		}
		r = s.Audit
		all := float64(judged(r))
		if r.Waiting > 0 || float64(r.Entries) < clients*each*told*arrive || all < 0.99*float64(r.Entries) {
			return fmt.Errorf("%.0f judged of %d entries, %d wait: %+v", all, r.Entries, r.Waiting, r)
		}
		return nil
	})
	t.Logf("%s: %d requests, %d entries, %d judged; %+v; missing %v, unknown %v", sidecar, clients*each, r.Entries, judged(r), r.Methods, r.Missing, r.Unknown)
	if r.All.Wrong > 0 || r.All.Precision.Share != 1 || r.All.Precision.Of < clients*each || r.All.Precision.Low < 0.999 {
		t.Errorf("precision %+v", r.All.Precision)
	}
	if r.All.Recall.Share < 0.999 {
		t.Errorf("recall %+v, missing %v", r.All.Recall, r.Missing)
	}
	for _, u := range r.Unknown {
		switch u.Reason {
		case "not-the-speaker", "not-one-process":
			t.Errorf("%d entries are %s: the proxies tell of nothing but their own", u.Count, u.Reason)
		}
	}
	checkAuditCommand(t, a)
}

// judged is how many joins something was said of.
func judged(r *audit.Report) uint64 { return r.All.Recall.Of }

func checkAuditCommand(t *testing.T, a *agent) {
	out, err := exec.Command(binary, "audit", "--control", a.socket).Output()
	if err != nil {
		t.Fatal(err)
	}
	if row := regexp.MustCompile(`(?m)^all +\d+ +0 +100\.000 % +99\.\d{3}–100\.000 `); !row.Match(out) || !strings.Contains(string(out), "entries of access logs") {
		t.Errorf("meshwatch audit:\n%s", out)
	}
	t.Logf("\n%s", out)
}
