package jaeger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Trace is one trace as GET /api/traces/ID gives it.
type Trace struct {
	Spans     []Span             `json:"spans"`
	Processes map[string]Process `json:"processes"`
	Warnings  []string           `json:"warnings"`
}

// Process is who a span is of.
type Process struct {
	ServiceName string `json:"serviceName"`
	Tags        []Tag  `json:"tags"`
}

// Span is one span; times are microseconds.
type Span struct {
	SpanID     string      `json:"spanID"`
	Operation  string      `json:"operationName"`
	References []Reference `json:"references"`
	StartTime  uint64      `json:"startTime"`
	Duration   uint64      `json:"duration"`
	Tags       []Tag       `json:"tags"`
	ProcessID  string      `json:"processID"`
	Warnings   []string    `json:"warnings"`
}

// Reference is a parent (CHILD_OF) or a link (FOLLOWS_FROM).
type Reference struct {
	Type   string `json:"refType"`
	SpanID string `json:"spanID"`
}

// Tag is an attribute.
type Tag struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

// Edge is a call between services as Jaeger derives it.
type Edge struct {
	Parent string `json:"parent"`
	Child  string `json:"child"`
	Calls  int    `json:"callCount"`
}

// Parent is the span id that s hangs under; empty: none.
func (s *Span) Parent() string {
	for _, r := range s.References {
		if r.Type == "CHILD_OF" {
			return r.SpanID
		}
	}
	return ""
}

// Tag is an attribute's value; nil: it has none of that name.
func (s *Span) Tag(key string) any {
	for _, t := range s.Tags {
		if t.Key == key {
			return t.Value
		}
	}
	return nil
}

// Service is the service.name of a span's resource.
func (t *Trace) Service(s *Span) string { return t.Processes[s.ProcessID].ServiceName }

// Trace asks for a trace until it has at least so many spans.
func (j *Jaeger) Trace(ctx context.Context, id string, spans int) (*Trace, error) {
	for have := 0; ; {
		status, body, err := j.get(ctx, "/api/traces/"+id)
		var answer struct{ Data []*Trace }
		switch {
		case err == nil && status == http.StatusOK:
			if err := json.Unmarshal(body, &answer); err != nil {
				return nil, fmt.Errorf("read trace %s: %w", id, err)
			}
			if have = len(answer.Data[0].Spans); have >= spans {
				return answer.Data[0], nil
			}
		case err == nil && status != http.StatusNotFound:
			return nil, fmt.Errorf("ask jaeger for trace %s: status %d: %s", id, status, body)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for trace %s: %d of %d spans: %w", id, have, spans, ctx.Err()), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Dependencies are the edges of all traces of the last hour.
func (j *Jaeger) Dependencies(ctx context.Context) ([]Edge, error) {
	q := url.Values{"endTs": {strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10)}, "lookback": {"3600000"}}
	status, body, err := j.get(ctx, "/api/dependencies?"+q.Encode())
	if err != nil {
		return nil, err
	}
	var answer struct{ Data []Edge }
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("ask jaeger for dependencies: status %d: %s", status, body)
	}
	return answer.Data, nil
}

func (j *Jaeger) get(ctx context.Context, path string) (status int, body []byte, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, j.Query+path, nil)
	if err != nil {
		return 0, nil, err
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, nil, fmt.Errorf("ask jaeger: %w", err)
	}
	defer a.Body.Close() //nolint:errcheck // only read
	body, err = io.ReadAll(a.Body)
	return a.StatusCode, body, err
}

// CheckTree says what keeps the spans from being one tree: more than one root, a parent that is not there, the same id
// twice, a circle, a warning of Jaeger's.
func CheckTree(t *Trace) error {
	parents := map[string]string{}
	var errs []error
	for _, w := range t.Warnings {
		errs = append(errs, errors.New(w))
	}
	for k := range t.Spans {
		s := &t.Spans[k]
		if _, twice := parents[s.SpanID]; twice {
			errs = append(errs, fmt.Errorf("span %s %q is there twice", s.SpanID, s.Operation))
		}
		parents[s.SpanID] = s.Parent()
		for _, w := range s.Warnings {
			errs = append(errs, fmt.Errorf("span %s %q: %s", s.SpanID, s.Operation, w))
		}
	}
	roots := 0
	for k := range t.Spans {
		s := &t.Spans[k]
		at := s.SpanID
		for range len(t.Spans) {
			if at == "" {
				break
			}
			up, ok := parents[at]
			if !ok {
				errs = append(errs, fmt.Errorf("span %s %q of %s: no span %s above it", s.SpanID, s.Operation, t.Service(s), at))
				up = ""
			}
			at = up
		}
		if at != "" {
			errs = append(errs, fmt.Errorf("span %s %q hangs in a circle", s.SpanID, s.Operation))
		}
		if s.Parent() == "" {
			roots++
		}
	}
	if roots != 1 {
		errs = append(errs, fmt.Errorf("%d roots, want one", roots))
	}
	return errors.Join(errs...)
}

// CheckEdges compares Jaeger's edges with the real calls, written "caller -> callee". Jaeger's memory store also counts each
// parent and child of one service; such are no edges between services and are left out on both sides.
func CheckEdges(got []Edge, want ...string) error {
	missing := map[string]bool{}
	for _, w := range want {
		missing[w] = true
	}
	var errs []error
	for _, e := range got {
		name := e.Parent + " -> " + e.Child
		if e.Parent != e.Child && !missing[name] && !slices.Contains(want, name) {
			errs = append(errs, fmt.Errorf("edge %s is no real call", name))
		}
		delete(missing, name)
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		errs = append(errs, fmt.Errorf("no edge %s", name))
	}
	return errors.Join(errs...)
}
