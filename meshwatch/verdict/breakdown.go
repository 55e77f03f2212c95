package verdict

import (
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Row is one stretch of a journey: a hop, or the processing inside the server process of an exchange.
type Row struct {
	Exchange int           // index in Journey.Exchanges
	Part     Part          //
	Hop      *journey.Hop  // points into the journey; nil for Processing
	Class    journey.Class //
	From, To uint64        // as recorded, ns of the journey's clock; Processing: request read and response sent
	Own      time.Duration // of the journey's duration, what only this row has; at most To - From
}

// Breakdown appends every stretch of the journey to rows: every hop that was measured and one Processing row per exchange,
// ordered by exchange, then part. The rows' Own sum to at most the duration, and to Judge's shares.
func Breakdown(j *journey.Journey, rows []Row) []Row {
	w := walk{j: j, tree: make([]node, len(j.Exchanges)), pieces: make([]piece, count(j))}
	w.run()
	for k := range w.pieces {
		rows = append(rows, row(j, &w.pieces[k]))
	}
	return rows
}

func row(j *journey.Journey, p *piece) Row {
	e := j.Exchanges[p.exchange]
	r := Row{Exchange: int(p.exchange), Part: p.part, Class: p.class.name(), Own: time.Duration(p.own)} //nolint:gosec // ns
	if p.part != Processing {
		r.Hop = hopOf(e, p)
		r.From, r.To = r.Hop.From, r.Hop.To
		return r
	}
	r.From = arrival(&e.Request)
	r.To = r.From + p.own // no response: until whoever waited gave up
	if e.Response != nil {
		r.To = max(r.From, e.Response.Start)
	}
	return r
}
