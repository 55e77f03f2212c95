package report

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Line is a journey read back from its JSON form.
type Line struct {
	journey.Journey
	Schema      int
	Start       time.Time // wall clock
	StartUnixNS int64
	Duration    time.Duration
}

// Decode reads what AppendJSON wrote. Unknown fields are ignored, as a newer agent may have written them.
func Decode(line []byte) (*Line, error) {
	var head struct {
		Schema      int           `json:"schema"`
		TraceID     string        `json:"trace_id"`
		Start       time.Time     `json:"start"`
		StartUnixNS int64         `json:"start_unix_ns"`
		Duration    time.Duration `json:"duration_ns"`
		Exchanges   []struct {
			Trace struct {
				TraceID string `json:"trace_id"`
				SpanID  string `json:"span_id"`
				Sampled bool   `json:"sampled"`
				Decided bool   `json:"decided"`
				Format  string `json:"format"`
			} `json:"trace"`
		} `json:"exchanges"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("decode journey: %w", err)
	}
	if head.Schema != Schema {
		return nil, fmt.Errorf("decode journey: schema %d, this version reads %d", head.Schema, Schema)
	}
	l := &Line{Schema: head.Schema, Start: head.Start, StartUnixNS: head.StartUnixNS, Duration: head.Duration}
	if err := json.Unmarshal(line, &l.Journey); err != nil {
		return nil, fmt.Errorf("decode journey: %w", err)
	}
	if err := fromHex(l.TraceID[:], head.TraceID); err != nil {
		return nil, fmt.Errorf("decode journey: trace_id: %w", err)
	}
	for k := range head.Exchanges {
		t, e := &head.Exchanges[k].Trace, l.Exchanges[k]
		e.Trace = journey.TraceContext{Sampled: t.Sampled, Decided: t.Decided, Format: t.Format}
		if err := fromHex(e.Trace.TraceID[:], t.TraceID); err != nil {
			return nil, fmt.Errorf("decode journey: exchange %d: trace_id: %w", k, err)
		}
		if err := fromHex(e.Trace.SpanID[:], t.SpanID); err != nil {
			return nil, fmt.Errorf("decode journey: exchange %d: span_id: %w", k, err)
		}
	}
	return l, nil
}

// fromHex fills id; an empty text leaves it zero.
func fromHex(id []byte, text string) error {
	if text == "" {
		return nil
	}
	if len(text) != 2*len(id) {
		return fmt.Errorf("%q has not %d hexadecimal digits", text, 2*len(id))
	}
	_, err := hex.Decode(id, []byte(text))
	return err
}
