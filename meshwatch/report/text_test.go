package report

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
)

// golden compares with testdata/name; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", path, diff)
	}
}

func draw(t *testing.T, j *journey.Journey, s Style) string {
	t.Helper()
	var out bytes.Buffer
	if err := Waterfall(&out, j, journeytest.Epoch, s); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// fanOut is a gateway that asks two backends at once, of which one never answers.
func fanOut() *journey.Journey {
	j := journeytest.Demo()
	j.Exchanges, j.Relays = j.Exchanges[:3], j.Relays[:2]
	first, second := j.Exchanges[1], j.Exchanges[2]
	second.Parent, second.Request.Start = 0, first.Request.Start+50_000
	second.Response, second.Status, second.Error = nil, 0, "no-response"
	second.Leg.Server.Workload.Name = "backend"
	second.Target = "/\x1b[31mred"
	j.Exchanges[0].Target = "/\x1b]0;title\x07"
	j.Exchanges[0].Status = 504
	return j
}

func TestWaterfall(t *testing.T) {
	golden(t, "waterfall.txt", draw(t, journeytest.Demo(), Style{}))
	golden(t, "waterfall-hops.txt", draw(t, journeytest.Demo(), Style{Width: 140, AllHops: true}))
	golden(t, "waterfall-connect.txt", draw(t, journeytest.LostSYN(), Style{}))
	golden(t, "waterfall-color.txt", draw(t, fanOut(), Style{Width: 80, Color: true}))
	golden(t, "waterfall-fanout.txt", draw(t, fanOut(), Style{Width: 80}))
}

// No journey breaks the drawing, no line is wider than the terminal, and without colour no control character comes out.
func TestWaterfallFits(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 4))
		width := 1 + r.IntN(160)
		for line := range strings.Lines(draw(t, journeytest.Random(r, 12), Style{Width: width, AllHops: seed%2 == 0})) {
			line = strings.TrimSuffix(line, "\n")
			if n := columns(line); n > max(width, MinWidth) || strings.ContainsAny(line, "\x1b\x07") || strings.HasSuffix(line, " ") {
				t.Fatalf("seed %d, width %d: %d columns: %q", seed, width, n, line)
			}
		}
	}
	if strings.ContainsAny(draw(t, fanOut(), Style{}), "\x1b\x07") {
		t.Error("what a client sent reached the terminal")
	}
	if err := Waterfall(io.Discard, &journey.Journey{}, journey.Clock{}, Style{}); err != nil {
		t.Error(err)
	}
}

func TestHops(t *testing.T) {
	rows := []HopRow{
		{"backend app", "backend", "backend → backend", "socket wait", "socket-wait", 120345, 21 * time.Microsecond, 1200 * time.Microsecond, 0.71},
		{"node", "frontend", "frontend → backend", "iptables FORWARD", "iptables", 120345, 1100, 18 * time.Microsecond, 0.042},
		{"node", "gateway", "gateway → frontend", "veth", "veth", 7, 900, 2 * time.Second, 0.0004},
		{"frontend sidecar", "frontend", "frontend ← backend", "socket wait", "socket-wait", 120345, 21 * time.Microsecond, 1200 * time.Microsecond, 0.12},
		{"network", "frontend", "frontend → backend", "retransmission wait", "retransmit", 86, 207 * time.Millisecond, 216 * time.Millisecond, 0.08},
	}
	for name, s := range map[string]Style{"hops.txt": {}, "hops-narrow.txt": {Width: 80}, "hops-color.txt": {Width: 120, Color: true, Rows: 2}} {
		var out bytes.Buffer
		if err := Hops(&out, rows, s); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
}

func TestOwner(t *testing.T) {
	for want, c := range map[string]struct {
		class    journey.Class
		workload string
	}{
		"backend app": {journey.ClassApp, "backend"}, "frontend sidecar": {journey.ClassSidecar, "frontend"}, "gateway": {journey.ClassGateway, "gateway"},
		"node": {journey.ClassNode, "backend"}, "network": {journey.ClassNetwork, "backend"}, "db": {journey.ClassUnknown, "db"}, "app": {journey.ClassApp, ""},
	} {
		if got := Owner(c.class, c.workload); got != want {
			t.Errorf("%v: %q, want %q", c, got, want)
		}
	}
}

func TestHuman(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ns", 999: "999 ns", 1000: "1.00 µs", 12_345: "12.3 µs", 123_456: "123 µs", 999_499: "999 µs", 999_500: "1.00 ms",
		9_996_000: "10.0 ms", 1_234 * time.Millisecond: "1.23 s", 999_500 * time.Microsecond: "1.00 s", 90 * time.Second: "90.0 s", -1500: "-1.50 µs",
	} {
		if got := Human(d); got != want {
			t.Errorf("%d ns: %s, want %s", d, got, want)
		}
	}
	for p, want := range map[float64]string{0: "0 %", 0.0123: "1.2 %", 0.5: "50 %", 0.999: "99.9 %", 1: "100 %"} {
		if got := percent(p); got != want {
			t.Errorf("%v: %s, want %s", p, got, want)
		}
	}
}
