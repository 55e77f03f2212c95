package report

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/verdict"
)

const (
	timeColumns = 14   // "99.9 µs own" and a space on either side
	barShare    = 0.42 // of the width
	notable     = 0.01 // of the duration: a hop with less own time is only counted

	legend = cellLeg + " leg  " + cellOwn + " on its way, or at work  " + cellWait + " waits for legs below"
)

// Waterfall draws one journey: what it was and whose time it was, then every leg with its addresses, its flights and the
// process that received it, as a tree against time.
func Waterfall(w io.Writer, j *journey.Journey, clock journey.Clock, style Style) error {
	if len(j.Exchanges) == 0 {
		return nil
	}
	root := j.Exchanges[0]
	f := waterfall{Style: style, out: bufio.NewWriter(w), j: j, rows: make([][]verdict.Row, len(j.Exchanges)), children: make([][]int, len(j.Exchanges))}
	cells := int(barShare * float64(style.width()))
	f.scale = scale{span{root.Request.Start, max(root.End(), root.Request.Start+1)}, cells}
	f.label = style.width() - timeColumns - cells
	for _, r := range verdict.Breakdown(j, nil) {
		f.rows[r.Exchange] = append(f.rows[r.Exchange], r)
	}
	for i, e := range j.Exchanges {
		if e.Parent >= 0 && e.Parent < i {
			f.children[e.Parent] = append(f.children[e.Parent], i)
		}
	}
	f.head(clock)
	f.exchange(0, "", "")
	return f.out.Flush()
}

type waterfall struct {
	Style
	scale
	out      *bufio.Writer
	j        *journey.Journey
	rows     [][]verdict.Row // of each exchange
	children [][]int
	label    int // columns left of the time
}

func (f *waterfall) print(color, text string) {
	fmt.Fprintln(f.out, f.paint(color, cut(text, f.width())))
}

func (f *waterfall) head(clock journey.Clock) {
	root := f.j.Exchanges[0]
	f.print(bold, clean(join("  ", strings.TrimSpace(root.Method+" "+root.Host+root.Target), outcome(root), Human(f.j.Duration()),
		clock.Wall(root.Request.Start).UTC().Format("2006-01-02 15:04:05.000 UTC"))))
	id := f.j.Trace()
	ids := "trace " + hex.EncodeToString(id[:])
	if f.j.RequestID != "" {
		ids = "request id " + clean(f.j.RequestID) + "  " + ids
	}
	f.print(dim, ids)
	v := f.j.Verdict
	if v.Class == "" {
		v = verdict.Judge(f.j)
	}
	text := fmt.Sprintf("verdict: %s, %s", v.Class, percent(v.Share))
	if v.Class == journey.ClassMixed && len(v.Shares) > 0 {
		text = fmt.Sprintf("verdict: mixed, most %s with %s", v.Shares[0].Class, percent(v.Share))
	}
	if v.Where != "" {
		text += ": " + clean(v.Where)
	}
	f.print(bold+";"+classColor(v.Class), text)
	var shares []string
	for _, s := range v.Shares {
		shares = append(shares, string(s.Class)+" "+Human(s.Own))
	}
	f.print("", strings.Join(shares, " · "))
	if f.j.Unjoined != "" {
		f.print(dim, "not joined to what caused it: "+clean(f.j.Unjoined))
	}
	key := legend
	if columns(key) >= f.label+timeColumns {
		key = ""
	}
	scale := fit(key, f.label+timeColumns) + "0" + left(Human(f.j.Duration()), f.cells-1)
	fmt.Fprintf(f.out, "\n%s\n", f.paint(dim, scale))
}

// line is a label, a time and a bar.
func (f *waterfall) line(prefix, label, color, when, bar string) {
	text := fit(prefix+label, f.label-1)
	if r := []rune(text); len(r) > len([]rune(prefix)) {
		n := len([]rune(prefix))
		text = f.paint(dim, string(r[:n])) + string(r[n:])
	}
	fmt.Fprintf(f.out, "%s %s\n", text, strings.TrimRight(left(when, timeColumns-2)+"  "+f.paint(color, bar), " "))
}

// exchange draws exchange i and all below it. above is what the exchange it belongs to was: said again only where it differs.
func (f *waterfall) exchange(i int, prefix, above string) {
	e := f.j.Exchanges[i]
	color := ""
	if e.Error != "" || e.Status >= 500 {
		color = red
	}
	open := span{e.Began(), e.End()}
	what := join(" ", e.Method, e.Target, outcome(e))
	title := endLabel(&e.Leg.Client) + " → " + endLabel(&e.Leg.Server)
	if i > 0 && what != above {
		title += "  " + what
	}
	f.line(prefix+"┌ ", clean(title), color, Human(length(open)), f.bar(open, cellLeg, nil))
	details := f.details(i, e)
	if one := strings.Join(details, " · "); columns(prefix+one)+2 <= f.width() {
		details = []string{one}
	}
	for _, d := range details {
		f.print(dim, prefix+"│ "+clean(d))
	}
	if e.Connect != nil {
		f.flight(prefix+"│ ", i, "connect", e.Connect, verdict.Connect)
	}
	f.flight(prefix+"│ ", i, "request", &e.Request, verdict.Request)
	f.process(prefix+"│ ", i, e)
	for _, c := range f.children[i] {
		f.exchange(c, prefix+"│ ", what)
	}
	if e.Response == nil {
		f.print(dim, prefix+"└ no response seen")
		return
	}
	f.flight(prefix+"└ ", i, "response", e.Response, verdict.Response)
}

// details are what a leg's bar cannot say.
func (f *waterfall) details(i int, e *journey.Exchange) (lines []string) {
	c, s := &e.Leg.Client, &e.Leg.Server
	from, to := c.Local, c.Peer
	if !from.IsValid() {
		from, to = s.Peer, s.Local
	}
	if from.IsValid() {
		line := from.String() + " → " + to.String()
		switch {
		case e.Leg.NAT() && s.Peer != from:
			line += ", after NAT " + s.Peer.String() + " → " + s.Local.String()
		case e.Leg.NAT():
			line += ", after NAT → " + s.Local.String()
		}
		lines = append(lines, line)
	}
	if how := speaks(e); how != "" {
		lines = append(lines, how)
	}
	for _, r := range f.j.Relays {
		if r.To == i {
			lines = append(lines, fmt.Sprintf("joined by %s, %s sure, %d considered", r.Method, percent(r.Confidence), r.Candidates))
		}
	}
	for _, m := range []struct {
		name string
		*journey.Flight
	}{{"connect", e.Connect}, {"request", &e.Request}, {"response", e.Response}} {
		if m.Flight != nil && m.Retransmits > 0 {
			lines = append(lines, fmt.Sprintf("%s: sent again %d×", m.name, m.Retransmits))
		}
	}
	return lines
}

// speaks is what an exchange is beyond HTTP/1.1 in clear text.
func speaks(e *journey.Exchange) string {
	var words []string
	if e.TLS {
		words = append(words, "TLS")
	}
	if e.Stream != 0 {
		words = append(words, fmt.Sprintf("HTTP/2 stream %d", e.Stream))
	}
	if g := e.GRPC; g != nil {
		count := fmt.Sprintf("gRPC %s, %d messages up, %d down", g.Code(), g.Sent, g.Received)
		if !g.Exact {
			count += ", or more"
		}
		words = append(words, count)
	}
	return strings.Join(words, ", ")
}

func (f *waterfall) flight(prefix string, i int, name string, m *journey.Flight, part verdict.Part) {
	end := m.Recv
	var shown []verdict.Row
	hops := 0
	for _, r := range f.rows[i] {
		if r.Part != part {
			continue
		}
		hops++
		end = max(end, r.To)
		if f.AllHops || float64(r.Own) >= notable*float64(f.j.Duration()) {
			shown = append(shown, r)
		}
	}
	all := span{m.Start, max(m.Start, end)}
	more := strings.TrimSuffix(prefix, "└ ")
	if more != prefix && len(shown) > 0 { // the bracket closes with the last line
		prefix = more + "│ "
	}
	f.line(prefix, fmt.Sprintf("%s, %d hops", name, hops), "", Human(length(all)), f.bar(all, cellOwn, nil))
	for k, r := range shown {
		at := prefix
		if more+"│ " == prefix && k == len(shown)-1 && part == verdict.Response {
			at = more + "└ "
		}
		hop := span{r.From, r.To}
		f.line(at, "  "+clean(r.Hop.Place()), classColor(r.Class), Human(length(hop)), f.bar(hop, cellOwn, nil))
	}
}

func (f *waterfall) process(prefix string, i int, e *journey.Exchange) {
	s := &e.Leg.Server
	label := s.Process
	if label == "" {
		label = "process not seen"
	}
	if s.Pid != 0 {
		label += " " + strconv.Itoa(s.Pid)
	}
	if s.Thread != "" && s.Thread != s.Process {
		label += ", thread " + s.Thread
	}
	for _, r := range f.rows[i] {
		if r.Part != verdict.Processing {
			continue
		}
		var waits []span
		for _, c := range f.children[i] {
			made := f.j.Exchanges[c]
			until := made.End()
			if made.Response == nil && made.Error != "reset" { // nobody told the process that it was over
				until = max(until, r.To)
			}
			waits = append(waits, span{made.Began(), until})
		}
		f.line(prefix, clean(label), classColor(r.Class), Human(r.Own)+" own", f.bar(span{r.From, r.To}, cellOwn, waits))
	}
}

func outcome(e *journey.Exchange) string {
	switch {
	case e.Status != 0:
		return strconv.Itoa(e.Status)
	case e.Error != "":
		return e.Error
	}
	return ""
}

// endLabel names an end and, in a pod that has several processes, which.
func endLabel(e *journey.End) string {
	name := e.Name()
	switch {
	case name == "" && e.Local.IsValid():
		name = e.Local.Addr().String()
	case name == "":
		name = "?"
	}
	if e.Role == journey.RoleApp || e.Role == journey.RoleSidecar {
		name += " " + string(e.Role)
	}
	return name
}

func join(sep string, words ...string) string {
	var some []string
	for _, w := range words {
		if w != "" {
			some = append(some, w)
		}
	}
	return strings.Join(some, sep)
}

func length(s span) time.Duration { return time.Duration(s.to - s.from) } //nolint:gosec // to is not before from
