package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/meshwatch/meshwatch/test/result"
)

// bar is what a mesh keeps of its throughput and what a request may cost more, in µs; 0: none is set.
type bar struct{ throughput, cpu float64 }

// Bars by scenario and depth. An agent that does not know depths records everything.
var bars = map[string]map[string]bar{
	"haproxy": {"auto": {0.95, 5}, "full": {0.90, 0}, asDefault: {0.90, 0}},
	"envoy":   {"auto": {0.98, 6}, "full": {0.95, 0}, asDefault: {0.95, 0}},
	"bulk":    {"auto": {0.98, 0}, asDefault: {0.98, 0}},
}

const (
	coresBar   = 0.2  // of the agent at 10,000 requests a second
	rssBar     = 150  // MB
	idleRSSBar = 60   // MB
	mapsBar    = 16   // MB
	startBar   = 3    // s, with 100 pod namespaces
	idleBar    = 0.01 // cores: what 1,000 idle connections may seem to cost, as nothing is measured better
)

// A control may miss by this much: less than any bar turns on.
const (
	ratioSlack = 0.005
	costSlack  = 1.0 // µs
	coresSlack = 0.005
)

// judge notes which figures are not to be used: those whose control contradicts itself, and those that are too vague for their bar.
func (r *Report) judge() {
	b := bars[r.Scenario][r.Depth]
	if t := r.Throughput; t != nil {
		r.control("throughput", t.Kernel.AA, 1, ratioSlack)
		r.control("throughput with the agent at work", t.Whole.AA, 1, ratioSlack)
		r.control("CPU per request under the saturating load, in µs", t.Cost.AA, 0, costSlack)
		if w := t.Whole.On; w.N > 0 && w.High < t.All.Low {
			r.note("with the agent at work the throughput is %s, less than its CPU time accounts for: it costs more than that", w.text(3))
		}
		r.vague("throughput", t.All, b.throughput, (1-b.throughput)/2)
		if r.CPU != nil && t.Covered < leastCovered {
			r.unsound("only %.0f %% of the messages in the slices were recorded: these are too short for this load", 100*t.Covered)
		}
	}
	if c := r.CPU; c != nil {
		r.control("CPU per request in µs", c.Kernel.AA, 0, costSlack)
		r.vague("CPU per request in µs", c.All, b.cpu, b.cpu/2)
	}
	if i := r.Idle; i != nil {
		r.control("cores with idle connections", i.AA, 0, coresSlack)
	}
	if i := r.Inject; i != nil {
		r.control("throughput with ids given", i.Throughput.AA, 1, ratioSlack)
	}
	if a := r.Attached; a != nil {
		r.control("throughput with programs attached", a.Throughput.AA, 1, ratioSlack)
	}
}

// leastCovered is the share of messages that slices of a mesh must have recorded: after each switch the first write of a connection is
// not. Other traffic has its flights limited by other things.
const leastCovered = 0.95

func (r *Report) control(what string, aa Estimate, want, slack float64) {
	if aa.N > 0 && !aa.agrees(want, slack) {
		r.unsound("%s: where nothing was switched the figure is %s, not %g (A/A)", what, aa.text(3), want)
	}
}

// vague notes a figure whose interval has its bar in it and is wider than the bar needs. A wide one on one side of its bar decides.
func (r *Report) vague(what string, e Estimate, bar, width float64) {
	if bar != 0 && e.Low < bar && bar < e.High && e.half() > width {
		r.unsound("%s is %s: too vague to say whether it meets %g; give it more --quads or a machine with less else to do", what, e.text(3), bar)
	}
}

// addBars adds what was measured to the result.
func addBars(out *result.Result, reports []*Report) {
	rss := 0.0
	for _, r := range reports {
		b, name := bars[r.Scenario][r.Depth], r.Scenario+"_"+r.Depth
		if r.Throughput != nil && b.throughput != 0 {
			out.Bar(name+"_throughput", r.Throughput.All.Median, "of unobserved", result.Higher, b.throughput)
		}
		if r.CPU != nil && b.cpu != 0 {
			out.Bar(name+"_cpu_per_request", r.CPU.All.Median, "µs", result.Lower, b.cpu)
		}
		if r.CPU != nil {
			out.Bar(name+"_agent_at_10k", r.CPU.Agent.Median*1e4/1e6, "cores", result.Lower, coresBar)
		}
		if r.Agent != nil {
			rss = max(rss, r.Agent.RSS)
		}
		if i := r.Idle; i != nil {
			out.Bar("idle_rss", i.RSS, "MB", result.Lower, idleRSSBar)
			out.Bar("idle_connections", i.Kernel.Median+i.Agent.Median, "cores", result.Lower, idleBar)
		}
		if n := r.Node; n != nil {
			out.Bar("start_100_namespaces", n.Start.Median, "s", result.Lower, startBar)
			out.Bar("maps", float64(n.MapBytes)/1e6, "MB", result.Lower, mapsBar)
		}
	}
	if rss > 0 {
		out.Bar("rss", rss, "MB", result.Lower, rssBar)
	}
}

// table prints a report's details.
func (r *Report) table(w io.Writer, what string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var b strings.Builder
	row := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	row("\n%s, depth %s\tmedian (95 %% interval)\tA/A", what, r.Depth)
	if t := r.Throughput; t != nil {
		t.rows(row, r.Unit)
		row("  the programs' own time (bpf_stats, recording less off)\t%.1f %% of that", 100*(r.Recording.UsPerRequest-r.Off.UsPerRequest)/t.OffCost)
	}
	if c := r.CPU; c != nil {
		row("CPU per request at %.0f/s, on − off, kernel part, µs\t%s\t%s", c.Reached, c.Kernel.On.text(1), c.Kernel.AA.text(1))
		row("  agent, µs\t%s", c.Agent.text(1))
		row("  both, µs\t%s", c.All.text(1))
		if r.Recording != nil {
			own := r.Recording.UsPerRequest - r.Off.UsPerRequest
			row("  by the programs' own time (bpf_stats, recording less off), µs\t%.1f, with the agent %.1f", own, own+c.Agent.Median)
		}
		row("  switched off a request costs %.0f µs, load included; %d quads dropped", c.Off, c.Kernel.Dropped)
	}
	if i := r.Idle; i != nil {
		row("cores more with %d idle connections, kernel part\t%s\t%s", i.Connections, i.Kernel.text(4), i.AA.text(4))
		row("  agent (alone %.4f)\t%s\t%s", i.Alone, i.Agent.text(4), i.AgentAA.text(4))
		row("  %.1f program runs a second; agent %.0f MB resident", i.Runs, i.RSS)
	}
	if n := r.Node; n != nil {
		row("start with %d pods (%d namespaces, %d links), s\t%s", n.Pods, n.Namespaces, n.Links, n.Start.text(2))
		row("stop, s\t%s", n.Stop.text(2))
		row("  maps %.1f MB, agent %.0f MB resident", float64(n.MapBytes)/1e6, n.RSS)
	}
	if a := r.Attached; a != nil {
		row("throughput, attached and switched off / not attached\t%s\t%s", a.Throughput.On.text(3), a.Throughput.AA.text(3))
		row("CPU per request, saturated, µs\t%s\t%s", a.Cost.On.text(1), a.Cost.AA.text(1))
		row("  %d links, %d quads dropped; not attached a request costs %.0f µs", a.Links, a.Throughput.Dropped, a.OffCost)
	}
	if i := r.Inject; i != nil {
		i.rows(row)
	}
	if a := r.Agent; a != nil {
		row("agent at %.0f/s: %.3f cores, %.0f MB resident (peak %.0f), maps %.1f MB", a.Rate, a.Cores, a.RSS, a.RSSPeak, float64(a.MapBytes)/1e6)
		row("  %.2f flights a request, %.0f B each; %.3f journeys and %.2f exchanges a request; losses: %s", a.Flights, a.FlightSize, a.Journeys, a.Exchanges, losses(a.Losses))
	}
	if r.Recording != nil {
		r.programRows(row)
	}
	for _, n := range r.Notes {
		row("note: %s", n)
	}
	for _, n := range r.Unsound {
		row("UNSOUND: %s", n)
	}
	if _, err := io.WriteString(tw, b.String()); err != nil {
		return err
	}
	return tw.Flush()
}

func (t *Throughput) rows(row func(string, ...any), unit string) {
	row("throughput, on / off, kernel part\t%s\t%s", t.Kernel.On.text(3), t.Kernel.AA.text(3))
	row("  agent, µs of CPU a %s\t%s", cmp.Or(unit, "request"), t.Agent.text(2))
	row("  both, by CPU time\t%s", t.All.text(3))
	if t.Whole.On.N > 0 {
		row("  both, in slices with the agent at work\t%s\t%s", t.Whole.On.text(3), t.Whole.AA.text(3))
	}
	row("CPU per request, saturated, kernel part, µs\t%s\t%s", t.Cost.On.text(2), t.Cost.AA.text(2))
	row("  switched off %.0f/s at %.2f µs; %d + %d quads dropped; cores used by others %.2f, stolen %.2f, unused %.2f; %.0f %% of messages recorded in slices",
		t.Off, t.OffCost, t.Kernel.Dropped, t.Whole.Dropped, t.Others, t.Steal, t.Unused, 100*t.Covered)
}

func (r *Report) programRows(row func(string, ...any)) {
	row("BPF program\truns/request, ns/run, µs/request\tswitched off: ns/run")
	off := map[string]Program{}
	for _, p := range r.Off.Programs {
		off[p.Name] = p
	}
	for _, p := range r.Recording.Programs {
		if p.NsPerRequest >= 1 {
			row("  %s\t%.2f × %.0f = %.2f\t%.0f", p.Name, p.RunsPerRequest, p.NsPerRun, p.NsPerRequest/1000, off[p.Name].NsPerRun)
		}
	}
	row("  all\t%.1f runs, %.2f µs\t%.2f µs", r.Recording.RunsPerRequest, r.Recording.UsPerRequest, r.Off.UsPerRequest)
}

func losses(m map[string]uint64) string {
	names := slices.SortedFunc(maps.Keys(m), func(x, y string) int { return cmp.Or(cmp.Compare(m[y], m[x]), cmp.Compare(x, y)) })
	for i, n := range names {
		names[i] = fmt.Sprintf("%s %d", n, m[n])
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}
