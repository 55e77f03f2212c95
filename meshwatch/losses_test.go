package meshwatch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/inject"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
	"github.com/meshwatch/meshwatch/meshwatch/otlp"
	"github.com/meshwatch/meshwatch/topology/kube"
	"github.com/meshwatch/meshwatch/topology/proxy"
)

// docs/troubleshooting.md has every loss that the code counts, and no other.
func TestLossesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "## Losses")
	if !found {
		t.Fatal("no section on losses")
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z]+) \| ([a-z-]+) \|`).FindAllStringSubmatch(table, -1) {
		if m[1] != "stage" {
			documented = append(documented, m[1]+" "+m[2])
		}
	}
	counted := countedLosses(t)
	slices.Sort(documented)
	slices.Sort(counted)
	if diff := cmp.Diff(slices.Compact(counted), documented); diff != "" {
		t.Errorf("(-counted +documented):\n%s", diff)
	}
}

// countedLosses finds where losses are counted in the sources.
func countedLosses(t *testing.T) (out []string) {
	pair := regexp.MustCompile(`(?:\b(?:Counter|Count|c)\(|Stage: )"([a-z]+)", (?:Reason: )?"([a-z-]+)"`)
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range pair.FindAllSubmatch(b, -1) {
			out = append(out, string(m[1])+" "+string(m[2]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../bpf/losses.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`LossLOSS_\w+:\s+"([a-z-]+)"`).FindAllSubmatch(b, -1) {
		out = append(out, "recorder "+string(m[1]))
	}
	for _, reason := range []string{otlp.ReasonQueueFull, otlp.ReasonExportFailed, otlp.ReasonRejected, otlp.ReasonShutdown} {
		out = append(out, otlp.Stage+" "+reason)
	}
	for _, reason := range bpf.MissedReasons() {
		out = append(out, inject.Stage+" "+reason)
	}
	for _, reason := range []string{kube.LostForbidden, kube.LostAway, kube.LostBad} {
		out = append(out, "topology "+reason)
	}
	for _, why := range proxy.Unsaid() {
		out = append(out, observe.LostRoute+" "+string(why))
	}
	return out
}
