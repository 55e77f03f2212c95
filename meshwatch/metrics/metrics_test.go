package metrics

import (
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
)

// fake is an agent of values.
type fake struct{ name string }

func (fake) Status() control.Status {
	return control.Status{
		Version: "v1", Recording: true, Attached: control.Attached{Namespaces: 3, Links: 8},
		Ring:     control.Ring{Records: 16384, Lag: 2, MapBytes: 6 << 20},
		Joiner:   control.Joiner{Flights: 12, Requests: 6, Responses: 5, Journeys: 1, Relays: 4, Raw: 7, Kept: 1},
		Losses:   []loss.Row{{Stage: "relay", Reason: "no-id", Count: 7}, {Stage: "reader", Reason: "lapped"}},
		Audit:    &audit.Report{Entries: 20, All: scored(""), Methods: []audit.Method{scored("request-id")}, Missing: []audit.Count{{Reason: "no-id", Count: 2}}},
		Topology: control.Topology{File: "t.yaml", Addresses: 4, Loaded: time.Unix(1767323000, 0)},
	}
}

func scored(method journey.Method) audit.Method {
	return audit.Method{
		Method: method, Right: 9, Wrong: 1,
		Precision: audit.Interval{Share: 0.9, Low: 0.6, High: 0.98, Of: 10}, Recall: audit.Interval{Share: 0.75, Low: 0.47, High: 0.91, Of: 12},
	}
}

func (f fake) HopSeries(bounds []float64) []observe.Value {
	buckets := map[float64]uint64{}
	for _, b := range bounds {
		if b >= 1e-3 {
			buckets[b] = 3
		}
	}
	l := observe.Labels{Source: f.name, Destination: "backend", Hop: "veth", Kind: "veth", Class: "network", Direction: "request", Zones: observe.ZonesAcross}
	return []observe.Value{{Labels: l, Count: 3, Sum: 0.003, Buckets: buckets}}
}

func TestCollect(t *testing.T) {
	want := `
# HELP meshwatch_losses_total What meshwatch could not keep, by stage and reason.
# TYPE meshwatch_losses_total counter
meshwatch_losses_total{reason="lapped",stage="reader"} 0
meshwatch_losses_total{reason="no-id",stage="relay"} 7
# HELP meshwatch_build_info 1, with the version of this build.
# TYPE meshwatch_build_info gauge
meshwatch_build_info{version="v1"} 1
# HELP meshwatch_topology_loaded_timestamp_seconds When the topology in use was read, 0: none.
# TYPE meshwatch_topology_loaded_timestamp_seconds gauge
meshwatch_topology_loaded_timestamp_seconds 1.767323e+09
# HELP meshwatch_raw_flights_total Messages recorded that are no HTTP/1.
# TYPE meshwatch_raw_flights_total counter
meshwatch_raw_flights_total 7
# HELP meshwatch_audit_entries_total Entries of access logs that were compared.
# TYPE meshwatch_audit_entries_total counter
meshwatch_audit_entries_total 20
# HELP meshwatch_audit_missing_total Joins that were not made although a proxy's access log has them, by why.
# TYPE meshwatch_audit_missing_total counter
meshwatch_audit_missing_total{reason="no-id"} 2
# HELP meshwatch_audit_relays_total Joins that a proxy's access log tells the truth about, by what it says.
# TYPE meshwatch_audit_relays_total counter
meshwatch_audit_relays_total{method="request-id",verdict="right"} 9
meshwatch_audit_relays_total{method="request-id",verdict="wrong"} 1
# HELP meshwatch_audit_ratio Precision and recall of joins by a proxy's access log, and where they lie with 95 % confidence (Wilson).
# TYPE meshwatch_audit_ratio gauge
meshwatch_audit_ratio{bound="high",method="all",of="precision"} 0.98
meshwatch_audit_ratio{bound="high",method="all",of="recall"} 0.91
meshwatch_audit_ratio{bound="high",method="request-id",of="precision"} 0.98
meshwatch_audit_ratio{bound="high",method="request-id",of="recall"} 0.91
meshwatch_audit_ratio{bound="low",method="all",of="precision"} 0.6
meshwatch_audit_ratio{bound="low",method="all",of="recall"} 0.47
meshwatch_audit_ratio{bound="low",method="request-id",of="precision"} 0.6
meshwatch_audit_ratio{bound="low",method="request-id",of="recall"} 0.47
meshwatch_audit_ratio{bound="value",method="all",of="precision"} 0.9
meshwatch_audit_ratio{bound="value",method="all",of="recall"} 0.75
meshwatch_audit_ratio{bound="value",method="request-id",of="precision"} 0.9
meshwatch_audit_ratio{bound="value",method="request-id",of="recall"} 0.75
`
	c := &collector{fake{"frontend"}}
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "meshwatch_losses_total", "meshwatch_build_info",
		"meshwatch_topology_loaded_timestamp_seconds", "meshwatch_raw_flights_total", "meshwatch_audit_entries_total", "meshwatch_audit_missing_total",
		"meshwatch_audit_relays_total", "meshwatch_audit_ratio"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.CollectAndLint(c)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// docs/metrics.md lists every metric of ours, with its labels.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, known []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(meshwatch_\\w+)` \\| (.*?) \\|").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1]+" "+strings.ReplaceAll(m[2], "`", ""))
	}
	pattern := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: {(.*)}}`)
	descs := []string{losses.String(), build.String(), hops.String()}
	for _, d := range ofAudit {
		descs = append(descs, d.String())
	}
	for _, m := range ofStatus {
		descs = append(descs, m.desc.String())
	}
	for _, d := range descs {
		m := pattern.FindStringSubmatch(d)
		known = append(known, m[1]+" "+strings.ReplaceAll(m[2], ",", ", "))
	}
	slices.Sort(documented)
	slices.Sort(known)
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("(-known +documented):\n%s", diff)
	}
}

func TestServer(t *testing.T) {
	s, err := Listen("127.0.0.1:0", fake{"not \xff UTF-8"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"/healthz": {"ok"},
		"/metrics": {
			`meshwatch_hop_seconds_bucket{class="network",destination="backend",direction="request",hop="veth",kind="veth",source="not � UTF-8",zones="across",le="0.001"} 3`,
			`process_resident_memory_bytes`, `go_goroutines`, `meshwatch_ring_lag_records 2`,
		},
	} {
		resp, err := http.Get("http://" + s.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %v", path, resp.Status, err)
		}
		_ = resp.Body.Close()
		for _, line := range want {
			if !strings.Contains(string(b), line) {
				t.Errorf("%s: no %s in\n%s", path, line, b)
			}
		}
	}
	_, err = Listen(s.Addr().String(), fake{}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "address already in use (--metrics or metrics.listen names another address, empty turns it off)") {
		t.Errorf("a second one: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
