package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
)

// Everything works where the privileged tests run.
func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
			t.Fatal("not root, and MESHWATCH_TEST_PRIVILEGED=1 says that the privileged tests must run")
		}
		t.Skip("loading BPF programs needs root")
	}
	if err := Preflight(); err != nil {
		t.Error(err)
	}
	results := Run()
	if err := Failed(results); err != nil {
		t.Error(err)
	}
	if last := results[len(results)-1].Feature; !strings.HasPrefix(last, "TLS ") && !strings.HasPrefix(last, "net/http in ") {
		t.Errorf("the list ends with %q, not with TLS libraries", last)
	}
	for _, r := range results {
		if r.State != Works {
			t.Logf("%+v", r) // the machine's business
		}
		if r.Why == "" {
			t.Errorf("%s: no reason", r.Feature)
		}
	}
}

func TestPrivileges(t *testing.T) {
	all := uint64(0)
	for _, c := range capabilities {
		all |= 1 << c.bit
	}
	for _, c := range []struct {
		have     uint64
		want     string
		missing  int
		degraded int
	}{
		{all, "", 0, 0},
		{all &^ (1 << unix.CAP_SYS_PTRACE), "", 0, 1},
		{0, "meshwatch needs root, or at least CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, to record in the kernel: run it with sudo", 3, 2},
		{all &^ (1 << unix.CAP_BPF), "meshwatch needs root, or at least CAP_BPF, to record in the kernel: run it with sudo", 1, 0},
	} {
		got := ""
		if err := lacking(c.have); err != nil {
			got = err.Error()
		}
		count := map[State]int{}
		for _, r := range rate(c.have) {
			count[r.State]++
			if (r.State == Works) != (r.Do == "") {
				t.Errorf("what to do does not fit: %+v", r)
			}
		}
		if got != c.want || count[Missing] != c.missing || count[Degraded] != c.degraded {
			t.Errorf("capabilities %x: %q %v, want %+v", c.have, got, count, c)
		}
	}
}

func TestIsMissing(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("other"), false},
		{fs.ErrNotExist, false},
		{fmt.Errorf("start: %w", &PrivilegeError{[]string{"CAP_BPF"}}), true},
		{fmt.Errorf("start: %w", &bpf.MissingFeature{Names: []string{"x"}}), true},
		{fmt.Errorf("load: %w", unix.EPERM), true},
		{fmt.Errorf("load: %w", ebpf.ErrNotSupported), true},
		{Failed([]Result{{Feature: "tcx", State: Missing}}), true},
	} {
		if got := IsMissing(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

func TestFailed(t *testing.T) {
	if err := Failed([]Result{{"a", Works, "", ""}, {"b", Degraded, "", ""}}); err != nil {
		t.Error(err)
	}
	err := Failed([]Result{{"a", Missing, "", ""}, {"b", Works, "", ""}, {"c", Missing, "", ""}})
	if err == nil || err.Error() != "the agent cannot run here, 2 missing: a; c" {
		t.Errorf("got %v", err)
	}
}

func TestLockdown(t *testing.T) {
	for text, want := range map[string]string{
		"[none] integrity confidentiality\n": "none",
		"none [integrity] confidentiality\n": "integrity",
		"none integrity [confidentiality]\n": "confidentiality: the programs read no kernel memory by bpf_probe_read, so they load",
	} {
		if got := lockdown([]byte(text), nil); got.State != Works || got.Why != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if got := lockdown(nil, fs.ErrNotExist); got.State != Works {
		t.Errorf("%+v", got)
	}
	if got := lockdown(nil, fs.ErrPermission); got.State != Degraded {
		t.Errorf("%+v", got)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	err := Table(&b, []Result{
		{"tcx", Works, "egress and ingress", ""},
		{"BPF netfilter links", Missing, "attach: invalid\nargument", "use Linux 6.6"},
	})
	want := `FEATURE              STATE    WHY, AND WHAT TO DO
tcx                  works    egress and ingress
BPF netfilter links  missing  attach: invalid argument. To do: use Linux 6.6
`
	if diff := cmp.Diff(want, b.String()); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
