package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/meshwatch/meshwatch/test/lab"
	"github.com/meshwatch/meshwatch/test/result"
)

// The bars: what a mesh keeps of its throughput and what a request may cost more, in µs; what the agent may take, in MB.
var throughputBar = map[lab.Sidecar]float64{lab.SidecarHAProxy: 0.87, lab.SidecarEnvoy: 0.92}

const (
	cpuBar = 20.0
	rssBar = 150.0
)

// What an A/A interval may be off by, and how wide it may be to either side, before the run says nothing: below what the bars
// allow for recording.
const (
	ratioOff, ratioWidth = 0.015, 0.025
	costOff, costWidth   = 5.0, 10.0 // µs
)

// judge notes why a mesh's figures are not to be used.
func (m *Mesh) judge() {
	for _, c := range []struct {
		what            string
		e               Estimate
		want, by, width float64
	}{
		{"throughput, full agent's slices", m.Throughput.FullDummy, 1, ratioOff, ratioWidth},
		{"throughput, kernel's slices", m.Throughput.KernelDummy, 1, ratioOff, ratioWidth},
		{"CPU per request in µs", m.CPU.Dummy, 0, costOff, costWidth},
	} {
		if !c.e.agrees(c.want, c.by, c.width) {
			m.Unsound = append(m.Unsound, fmt.Sprintf("A/A of %s is %.3f (%.3f to %.3f): it must contain %g ± %g and be no wider than ± %g. "+
				"Something else disturbs this machine, or --quads is too few", c.what, c.e.Median, c.e.Low, c.e.High, c.want, c.by, c.width))
		}
	}
}

// bars adds what was measured to the result.
func bars(r *result.Result, meshes map[lab.Sidecar]*Mesh) {
	rss := 0.0
	for _, name := range slices.Sorted(maps.Keys(meshes)) {
		m := meshes[name]
		r.Bar(string(name)+"_throughput", m.Throughput.Full.Median, "of unobserved", result.Higher, throughputBar[name])
		r.Bar(string(name)+"_cpu_per_request_us", m.CPU.More.Median, "µs", result.Lower, cpuBar)
		rss = max(rss, m.Agent.RSS)
	}
	r.Bar("rss_mb", rss, "MB", result.Lower, rssBar)
}

// table prints a mesh's details.
func (m *Mesh) table(w io.Writer, name lab.Sidecar) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	t, c, a := m.Throughput, m.CPU, m.Agent
	var b strings.Builder
	row := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	row("\n%s mesh\ton / off\t95 %% interval\tA/A", name)
	row("throughput, full agent\t%.3f\t%.3f–%.3f\t%s", t.Full.Median, t.Full.Low, t.Full.High, t.FullDummy.ratio())
	row("throughput, kernel part alone\t%.3f\t%.3f–%.3f\t%s", t.Kernel.Median, t.Kernel.Low, t.Kernel.High, t.KernelDummy.ratio())
	row("CPU per request, more\t%.1f µs\t%.1f–%.1f\t%.1f (%.1f–%.1f)", c.More.Median, c.More.Low, c.More.High, c.Dummy.Median, c.Dummy.Low, c.Dummy.High)
	row("  the same, of mesh, load and agent alone\t%.1f µs\t%.1f–%.1f\t%.1f (%.1f–%.1f)", c.OwnMore.Median, c.OwnMore.Low, c.OwnMore.High, c.OwnDummy.Median, c.OwnDummy.Low, c.OwnDummy.High)
	row("  switched off: %.0f requests/s saturated; %.0f µs a request at %.0f/s, load generator included", t.Unobserved, c.Off, c.Reached)
	row("  the rest of the machine: %.2f cores, saturated; %.2f at the fixed rate", t.Others, c.Others)
	row("  agent: %.2f s CPU per 10,000 requests (%.1f µs each, %.2f cores; saturated %.2f), %.0f MB resident (peak %.0f), maps %.1f MB",
		a.CPUPer10k, a.CPUUs, a.Cores, t.AgentCores, a.RSS, a.RSSPeak, float64(a.MapBytes)/1e6)
	row("  %.2f flights a request, %.0f B each; %.3f journeys and %.2f exchanges a request", a.FlightsPerRequest, a.BytesPerFlight, a.Journeys, a.Exchanges)
	row("  losses at the fixed rate: %s", losses(a.Losses))
	row("\nBPF program\truns/request\tns/run\tµs/request\tswitched off, ns/run")
	off := map[string]Program{}
	for _, p := range m.Off.Programs {
		off[p.Name] = p
	}
	for _, p := range m.Recording.Programs {
		row("%s\t%.2f\t%.0f\t%.2f\t%.0f", p.Name, p.RunsPerRequest, p.NsPerRun, p.NsPerRequest/1000, off[p.Name].NsPerRun)
	}
	row("all\t%.1f\t\t%.2f\t%.2f µs/request", m.Recording.RunsPerRequest, m.Recording.UsPerRequest, m.Off.UsPerRequest)
	if _, err := io.WriteString(tw, b.String()+"\n"); err != nil {
		return err
	}
	return tw.Flush()
}

func (e Estimate) ratio() string { return fmt.Sprintf("%.3f (%.3f–%.3f)", e.Median, e.Low, e.High) }

func losses(m map[string]uint64) string {
	names := slices.SortedFunc(maps.Keys(m), func(x, y string) int { return cmp.Or(cmp.Compare(m[y], m[x]), cmp.Compare(x, y)) })
	for i, n := range names {
		names[i] = fmt.Sprintf("%s %d", n, m[n])
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}
