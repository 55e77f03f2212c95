package meshwatch

import (
	"cmp"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/observe"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/netpath"
)

// Status is for `meshwatch status` and /metrics.
func (a *Agent) Status() control.Status {
	c, at, seen := a.counts.Load(), a.attached.Counts(), a.watcher.Counts()
	s := control.Status{
		Version: a.env.Version, Pid: os.Getpid(), Started: a.started, Recording: a.wanted.Load() && (a.recorder.Ring().Enabled() || a.meter.share() < 1), Depth: a.depths.String(),
		Attached: control.Attached{Namespaces: at.Namespaces, Deep: at.Deep, Links: at.Links, Denied: seen.Denied, Conflicts: seen.Conflicts},
		Ring: control.Ring{
			Records: a.recorder.Ring().Len(), Read: c.Reader.Read, Open: c.Reader.Open, Lag: c.Reader.Lag, MapBytes: a.recorder.MapMemory(),
		},
		Joiner: control.Joiner{
			Flights: c.Joiner.Flights, Requests: c.Joiner.Requests, Responses: c.Joiner.Responses,
			Journeys: c.Joiner.Trees, Relays: c.Joiner.Relays, Raw: c.Joiner.Raw, Kept: c.Kept,
		},
		Budget: a.meter.state(),
		Export: control.Export{On: a.exporter != nil},
		Memory: resident(),
		Losses: a.allLosses(),
	}
	if a.exporter != nil {
		s.Export.Endpoint, s.Export.State = a.exporter.State()
	}
	if a.injects != nil {
		state := a.injects.State()
		s.Inject = &state
	}
	if a.said != nil {
		s.Audit = a.said.audit.Report()
	}
	if a.probes != nil {
		s.TLS = a.probes.Binaries()
	}
	if t := a.topology.Load(); t != nil {
		s.Topology = *t
	}
	if a.xds != nil {
		x := a.xds.Status()
		s.Topology.ControlPlane = a.cfg.Topology.XDS.Address
		s.Topology.Connected, s.Topology.Since, s.Topology.Refused, s.Topology.Problem = x.Connected, x.Since, x.Refused, x.Problem
	}
	if a.governor != nil {
		s.Topology.Proxies = a.governor.state()
	}
	if a.kube != nil {
		k := a.kube.Status()
		s.Kubernetes = &control.Kubernetes{
			Connected: k.Connected, Ready: k.Ready, Since: k.Since, Updated: k.Updated, Objects: k.Objects, Changes: k.Changes, Missing: k.Missing,
			Absent: k.Absent, Problem: k.Problem,
		}
	}
	return s
}

// allLosses are the agent's and the kernel part's.
func (a *Agent) allLosses() []loss.Row {
	rows := a.losses.Rows()
	kernel, err := a.recorder.Losses()
	if err != nil {
		a.env.Log.Warn("cannot read the recorder's losses", "error", err)
	}
	for reason, n := range kernel {
		rows = append(rows, loss.Row{Stage: "recorder", Reason: reason, Count: n})
	}
	if a.injects != nil {
		rows = append(rows, a.injects.Losses()...)
	}
	rows = append(rows, loss.Row{Stage: "netpath", Reason: "namespace-unreadable", Count: a.watcher.Counts().Failed})
	slices.SortFunc(rows, func(x, y loss.Row) int { return cmp.Or(cmp.Compare(x.Stage, y.Stage), cmp.Compare(x.Reason, y.Reason)) })
	return rows
}

// resident is the process's resident memory in bytes, 0 when /proc does not say.
func resident() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize()) //nolint:gosec // positive
}

// Hops is the live table: every hop and process since the last reset, by its share of all time measured.
func (a *Agent) Hops(reset bool) []report.HopRow {
	values := a.observer.Recent(reset)
	var total float64
	for i := range values {
		total += values[i].Sum
	}
	rows := make([]report.HopRow, 0, len(values))
	for _, v := range values {
		row := report.HopRow{
			Owner:   report.Owner(journey.Class(v.Labels.Class), v.Labels.Destination), // who works, or has not read yet
			Service: v.Labels.Source, Leg: v.Labels.Source + " → " + v.Labels.Destination, Hop: v.Labels.Hop, Kind: v.Labels.Kind, Count: v.Count,
			P50: seconds(v.P50), P99: seconds(v.P99),
		}
		switch v.Labels.Direction {
		case "connect": // the same way as a request, but not the same time
			row.Hop = "connect: " + row.Hop
		case "response": // the flight goes back: sent by the callee
			row.Service, row.Leg = v.Labels.Destination, v.Labels.Destination+" ← "+v.Labels.Source
		case "processing":
			row.Leg = v.Labels.Source
		}
		if v.Labels.Zones == observe.ZonesAcross {
			row.Leg += ", across zones"
		}
		if total > 0 {
			row.Share = v.Sum / total
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(x, y report.HopRow) int {
		return cmp.Or(cmp.Compare(y.Share, x.Share), cmp.Compare(x.Leg, y.Leg), cmp.Compare(x.Hop, y.Hop))
	})
	return rows
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// HopSeries are the distributions since the start.
func (a *Agent) HopSeries(bounds []float64) []observe.Value { return a.observer.Total(bounds) }

// Journey finds a kept journey by request id or trace id; nil: none.
func (a *Agent) Journey(id string) *journey.Journey { return a.recent.find(id) }

// Recent are the latest kept journeys, newest first.
func (a *Agent) Recent(n int) []control.Summary {
	var out []control.Summary
	for _, j := range a.recent.latest(n) {
		root, trace := j.Exchanges[0], j.Trace()
		s := control.Summary{
			Start: a.clock.Wall(root.Request.Start), TraceID: hex.EncodeToString(trace[:]), RequestID: j.RequestID,
			Root: root.Method + " " + root.Host + root.Target, Status: root.Status, Duration: j.Duration(), Legs: len(j.Exchanges),
			Class: j.Verdict.Class, Where: j.Verdict.Where,
		}
		for _, e := range j.Exchanges {
			if e.Error != "" {
				s.Error = e.Error
			}
		}
		out = append(out, s)
	}
	return out
}

// Deepen records the network namespaces that a word selects in full depth for a while, and names them.
func (a *Agent) Deepen(word string, during time.Duration) []string { return a.depths.ask(word, during) }

// Namespaces are the network namespaces as the agent sees them.
func (a *Agent) Namespaces() []*netpath.Namespace { return a.names.State().Sorted() }
