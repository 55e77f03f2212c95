package meshwatch

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/netpath"
)

func read(t *testing.T, paths ...string) string {
	t.Helper()
	var all strings.Builder
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

// rows are the cells of the table in docs/architecture.md whose header begins with these words.
func rows(t *testing.T, header string) (out [][]string) {
	t.Helper()
	page := read(t, "../docs/architecture.md")
	_, after, found := strings.Cut(page, "\n| "+header)
	if !found {
		t.Fatalf("no table %q", header)
	}
	for _, line := range strings.Split(after, "\n")[2:] {
		if !strings.HasPrefix(line, "| ") {
			break
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), "|"), " | ")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		out = append(out, cells)
	}
	return out
}

func column(rows [][]string, n int) (out []string) {
	for _, r := range rows {
		out = append(out, r[n])
	}
	slices.Sort(out)
	return out
}

func same(t *testing.T, what string, code, page []string) {
	t.Helper()
	slices.Sort(code)
	slices.Sort(page)
	if diff := cmp.Diff(slices.Compact(code), page); diff != "" {
		t.Errorf("%s (-code +page):\n%s", what, diff)
	}
}

func TestArchitectureLosses(t *testing.T) {
	var page []string
	for _, r := range rows(t, "stage | where") {
		for _, reason := range strings.Split(r[2], ", ") {
			page = append(page, r[0]+" "+reason)
		}
	}
	same(t, "losses", countedLosses(t), page)
}

func TestArchitectureLimits(t *testing.T) {
	sources := read(t, "../bpf/c/flight.h", "../bpf/c/start.h", "../bpf/c/claim.h", "../bpf/c/joined.h", "../bpf/socket.bpf.c", "../bpf/inject.bpf.c", "../bpf/c/read.h")
	for _, r := range rows(t, "limit | value") {
		m := regexp.MustCompile(`#define ` + r[0] + `\s+(\d+)`).FindStringSubmatch(sources)
		if m == nil || m[1] != r[1] {
			t.Errorf("%s is %s on the page, %q in the code", r[0], r[1], m)
		}
	}
}

func TestArchitectureMaps(t *testing.T) {
	source := read(t, "../bpf/c/flight.h", "../bpf/c/plain.h", "../bpf/c/tie.h", "../bpf/tls.bpf.c", "../bpf/inject.bpf.c", "../bpf/c/inject.h", "../bpf/c/scan.h", "../bpf/c/gohttp.h", "../bpf/gohttp.bpf.c", "../bpf/losses.go")
	table := rows(t, "map | holds")
	var names []string
	for _, m := range regexp.MustCompile(`(?:\} |SHARED\()(mw_\w+)(?: SEC\("\.maps"\)|\))`).FindAllStringSubmatch(source, -1) {
		names = append(names, m[1])
	}
	same(t, "maps", names, column(table, 0))
	s := bpf.DefaultSizes()
	reasons := len(regexp.MustCompile(`LossLOSS_\w+:`).FindAllString(source, -1))
	want := map[string]string{
		"mw_control":  "1 × 192 B",
		"mw_flights":  thousands(s.Flights) + " × " + strconv.Itoa(int(unsafe.Sizeof(bpf.Flight{}))) + " B",
		"mw_heads":    thousands(headsSize(t)) + " B + " + thousands(bpf.FramesBytes) + " B",
		"mw_index":    thousands(s.Index) + " × 8 B",
		"mw_sockets":  thousands(s.Sockets) + " × 32 B",
		"mw_losses":   strconv.Itoa(reasons) + " × 8 B",
		"mw_excluded": "256 × 8 B",
		"mw_threads":  "4,096 × 64 B",
		"mw_parked":   "2,048 × 40 B",
		"mw_stalled":  "512 × 40 B",
		"mw_objects":  "8,192 × 24 B",
		"mw_tls":      "256 × 16 B",
		"mw_tls_off":  "256 × 8 B",
		"mw_gos":      "1,024 × 8 B",
		"mw_trips":    "2,048 × 24 B",
		"mw_gohttp":   "256 × 16 B",
		"mw_go_off":   "256 × 8 B",

		"mw_conns": "80 B a connection", "mw_pods": "4,096 × 8 B", "mw_syns": "4,096 × 16 B", "mw_sidecar": "32,768 × 16 B", "mw_left": "4,096 × 8 B",
		"mw_injections": strconv.Itoa(outcomes(source)) + " × 8 B",
	}
	for _, r := range table {
		if r[2] != want[r[0]] {
			t.Errorf("%s: %q on the page, %q in the code", r[0], r[2], want[r[0]])
		}
	}
}

// outcomes counts enum outcome.
func outcomes(source string) int {
	_, enum, _ := strings.Cut(source, "enum outcome {")
	enum, _, _ = strings.Cut(enum, "OUTCOME_MAX")
	return len(regexp.MustCompile(`(?m)^\tOUTCOME_\w+,`).FindAllString(enum, -1))
}

// headsSize is HEADS_SIZE, as bpf/sizes.go has it.
func headsSize(t *testing.T) int {
	t.Helper()
	m := regexp.MustCompile(`#define HEADS_SIZE \((\d+) << (\d+)\)`).FindStringSubmatch(read(t, "../bpf/c/flight.h"))
	if m == nil {
		t.Fatal("no HEADS_SIZE")
	}
	n, _ := strconv.Atoi(m[1])
	shift, _ := strconv.Atoi(m[2])
	return n << shift
}

func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func TestArchitectureHooks(t *testing.T) {
	var code, page []string
	for h := netpath.HookOutput; h <= netpath.HookReset; h++ {
		code = append(code, fmt.Sprintf("%s %d", h, h))
	}
	for _, r := range rows(t, "hook | number") {
		page = append(page, r[0]+" "+r[1])
	}
	same(t, "hooks", code, page)
}

func TestArchitectureMethods(t *testing.T) {
	code := []string{string(journey.MethodRequestID), string(journey.MethodResponseID), string(journey.MethodTrace), string(journey.MethodProxyLog), string(journey.MethodGoroutine), string(journey.MethodThread)}
	same(t, "methods", code, column(rows(t, "method | evidence"), 0))
}

// Every package of the product has its line, and so has every program.
func TestArchitectureFolders(t *testing.T) {
	code := []string{"cmd/meshwatch", "bpf", "netpath", "topology", "meshwatch"}
	dirs, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range dirs {
		code = append(code, "meshwatch/"+filepath.Dir(file))
	}
	same(t, "folders", code, column(rows(t, "folder | what"), 0))
	programs, err := filepath.Glob("../bpf/*.bpf.c")
	if err != nil {
		t.Fatal(err)
	}
	for i := range programs {
		programs[i] = filepath.Base(programs[i])
	}
	same(t, "programs", programs, column(rows(t, "file | hooks"), 0))
}
