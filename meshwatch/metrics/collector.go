package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshwatch/meshwatch/meshwatch/audit"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/inject"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
)

// Source is the agent. Its methods are called from several goroutines at once.
type Source interface {
	Status() control.Status
	// Hops are the distributions since the start, with buckets for these bounds (seconds, ascending).
	HopSeries(bounds []float64) []observe.Value
}

// bounds of meshwatch_hop_seconds: an iptables hook takes a microsecond, a slow application seconds.
var bounds = []float64{
	1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10,
}

// metric is one value of a Status.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*control.Status) float64
}

func counter(name, help string, value func(*control.Status) uint64) metric {
	return metric{desc(name, help), prometheus.CounterValue, func(s *control.Status) float64 { return float64(value(s)) }}
}

func gauge(name, help string, value func(*control.Status) float64) metric {
	return metric{desc(name, help), prometheus.GaugeValue, value}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshwatch_"+name, help, labels, nil)
}

var (
	losses = desc("losses_total", "What meshwatch could not keep, by stage and reason.", "stage", "reason")
	build  = desc("build_info", "1, with the version of this build.", "version")
	hops   = desc("hop_seconds", "Time of a hop, or inside a process (direction processing), over all requests.",
		"source", "destination", "hop", "kind", "class", "direction", "zones")
)

// Of the audit, where access logs are listened for.
var (
	auditRelays  = desc("audit_relays_total", "Joins that a proxy's access log tells the truth about, by what it says.", "method", "verdict")
	auditMissing = desc("audit_missing_total", "Joins that were not made although a proxy's access log has them, by why.", "reason")
	auditShare   = desc("audit_ratio", "Precision and recall of joins by a proxy's access log, and where they lie with 95 % confidence (Wilson).", "method", "of", "bound")
	auditEntries = desc("audit_entries_total", "Entries of access logs that were compared.")
)

var ofAudit = []*prometheus.Desc{auditRelays, auditMissing, auditShare, auditEntries}

var ofStatus = []metric{
	counter("flights_total", "Messages recorded.", func(s *control.Status) uint64 { return s.Joiner.Flights }),
	counter("raw_flights_total", "Messages recorded that are no HTTP/1.", func(s *control.Status) uint64 { return s.Joiner.Raw }),
	counter("requests_total", "Requests seen, once for each leg.", func(s *control.Status) uint64 { return s.Joiner.Requests }),
	counter("responses_total", "Responses seen, once for each leg.", func(s *control.Status) uint64 { return s.Joiner.Responses }),
	counter("relays_total", "Exchanges joined to the one that caused them.", func(s *control.Status) uint64 { return s.Joiner.Relays }),
	counter("journeys_total", "Journeys: requests with all their legs.", func(s *control.Status) uint64 { return s.Joiner.Journeys }),
	counter("journeys_kept_total", "Journeys that became spans.", func(s *control.Status) uint64 { return s.Joiner.Kept }),
	gauge("recording", "1 while flights are recorded.", func(s *control.Status) float64 { return truth(s.Recording) }),
	gauge("recorded_share", "Share of the time that is recorded, below 1 where the budget does not allow more. Counts are of what was recorded.", func(s *control.Status) float64 { return s.Budget.Share }),
	gauge("agent_cpus_used", "CPUs that the agent uses.", func(s *control.Status) float64 { return s.Budget.AgentUsed }),
	gauge("recorder_cpus_used", "CPUs that the BPF programs use, where there is a budget for them.", func(s *control.Status) float64 { return s.Budget.RecorderUsed }),
	gauge("namespaces", "Network namespaces that are recorded.", func(s *control.Status) float64 { return float64(s.Attached.Namespaces) }),
	gauge("deep_namespaces", "Network namespaces that are recorded in full depth, now.", func(s *control.Status) float64 { return float64(s.Attached.Deep) }),
	gauge("attached_links", "Links with tc's hooks, where the kernel's tracepoints do not do.", func(s *control.Status) float64 { return float64(s.Attached.Links) }),
	gauge("denied_processes", "Processes whose network namespace may not be looked at.", func(s *control.Status) float64 { return float64(s.Attached.Denied) }),
	gauge("place_conflicts", "Places that a stamp does not tell apart.", func(s *control.Status) float64 { return float64(s.Attached.Conflicts) }),
	counter("injected_requests_total", "Requests that were given a request id.", injected(func(i *inject.State) uint64 { return i.Injected })),
	counter("inject_had_id_total", "Requests of the same workloads that had one.", injected(func(i *inject.State) uint64 { return i.HadID })),
	counter("inject_connections_total", "Connections of the same workloads to their own sidecars.", injected(func(i *inject.State) uint64 { return i.Connections })),
	gauge("inject_workloads", "Workloads whose requests are given ids, 0 where that is off.", func(s *control.Status) float64 {
		if s.Inject == nil || !s.Inject.On {
			return 0
		}
		return float64(len(s.Inject.Workloads))
	}),
	gauge("ring_records", "Flights that the recorder's memory holds.", func(s *control.Status) float64 { return float64(s.Ring.Records) }),
	gauge("ring_lag_records", "Flights that wait to be read; at meshwatch_ring_records they are lost.", func(s *control.Status) float64 { return float64(s.Ring.Lag) }),
	gauge("bpf_map_bytes", "Memory of all BPF maps.", func(s *control.Status) float64 { return float64(s.Ring.MapBytes) }),
	gauge("topology_addresses", "Addresses that the topology knows.", func(s *control.Status) float64 { return float64(s.Topology.Addresses) }),
	gauge("topology_loaded_timestamp_seconds", "When the topology in use was read, 0: none.", func(s *control.Status) float64 { return unix(s.Topology.Loaded) }),
	gauge("kubernetes_connected", "1 while the API server answers, 0 as well where it is not asked.", kubernetes(func(k *control.Kubernetes) float64 { return truth(k.Connected) })),
	gauge("kubernetes_updated_timestamp_seconds", "When the API server last told of a change, 0: never.", kubernetes(func(k *control.Kubernetes) float64 { return unix(k.Updated) })),
	gauge("kubernetes_objects", "Objects of the API server that are kept.", kubernetes(func(k *control.Kubernetes) float64 { return float64(k.Objects) })),
	gauge("kubernetes_unreadable_resources", "Resources of the API server that the service account may not read.", kubernetes(func(k *control.Kubernetes) float64 { return float64(len(k.Missing)) })),
}

func kubernetes(value func(*control.Kubernetes) float64) func(*control.Status) float64 {
	return func(s *control.Status) float64 {
		if s.Kubernetes == nil {
			return 0
		}
		return value(s.Kubernetes)
	}
}

func injected(value func(*inject.State) uint64) func(*control.Status) uint64 {
	return func(s *control.Status) uint64 {
		if s.Inject == nil {
			return 0
		}
		return value(s.Inject)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}

// text makes a label value of a name: a process may call itself anything.
func text(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// collector reads the Source at each scrape.
type collector struct{ src Source }

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range append([]*prometheus.Desc{losses, build, hops}, ofAudit...) {
		ch <- d
	}
	for _, m := range ofStatus {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.src.Status()
	ch <- prometheus.MustNewConstMetric(build, prometheus.GaugeValue, 1, s.Version)
	for _, m := range ofStatus {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&s))
	}
	for _, l := range s.Losses {
		ch <- prometheus.MustNewConstMetric(losses, prometheus.CounterValue, float64(l.Count), l.Stage, l.Reason)
	}
	if s.Audit != nil {
		collectAudit(ch, s.Audit)
	}
	for _, v := range c.src.HopSeries(bounds) {
		l := v.Labels
		ch <- prometheus.MustNewConstHistogram(hops, v.Count, v.Sum, v.Buckets,
			text(l.Source), text(l.Destination), text(l.Hop), l.Kind, l.Class, l.Direction, l.Zones)
	}
}

func collectAudit(ch chan<- prometheus.Metric, r *audit.Report) {
	ch <- prometheus.MustNewConstMetric(auditEntries, prometheus.CounterValue, float64(r.Entries))
	for _, m := range r.Missing {
		ch <- prometheus.MustNewConstMetric(auditMissing, prometheus.CounterValue, float64(m.Count), m.Reason)
	}
	for _, m := range r.Methods {
		method := string(m.Method)
		ch <- prometheus.MustNewConstMetric(auditRelays, prometheus.CounterValue, float64(m.Right), method, "right")
		ch <- prometheus.MustNewConstMetric(auditRelays, prometheus.CounterValue, float64(m.Wrong), method, "wrong")
		collectShares(ch, &m, method)
	}
	collectShares(ch, &r.All, "all")
}

func collectShares(ch chan<- prometheus.Metric, m *audit.Method, method string) {
	for of, i := range map[string]audit.Interval{"precision": m.Precision, "recall": m.Recall} {
		for bound, value := range map[string]float64{"value": i.Share, "low": i.Low, "high": i.High} {
			if i.Of > 0 {
				ch <- prometheus.MustNewConstMetric(auditShare, prometheus.GaugeValue, value, method, of, bound)
			}
		}
	}
}
