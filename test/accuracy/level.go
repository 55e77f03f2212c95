package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/report"
	"github.com/meshwatch/meshwatch/test/lab"
)

// level is what was measured at one number of connections.
type level struct {
	Scenario    string         `json:"scenario"`
	Kind        string         `json:"load_kind"`   // keep-alive, churn or mixed
	Workers     int            `json:"workers"`     // of each proxy
	Connections int            `json:"connections"` // of gRPC: calls under way at a time
	Load        lab.LoadResult `json:"load"`
	Rate        float64        `json:"requests_per_second"`
	Score       score          `json:"score"`
	Percent     float64        `json:"complete_percent"`
	Lost        []loss.Row     `json:"losses"` // the agent's own count, from before the load until it was idle again
	Silent      map[string]int `json:"silent"` // incomplete requests that its counters do not account for
}

// runner measures.
type runner struct {
	root     string // of the module
	dir      string // for temporary files
	bin      string
	scenario string
	options  lab.Options
	depth    string
	duration time.Duration
	rate     float64
	nice     int
	lines    string // of YAML, for the agent
	warmUp   time.Duration
	dump     string // directory for what is not complete, "": none
}

// name tells levels apart in the result: the number alone in clear text.
func (out *level) name() string {
	name := fmt.Sprint(out.Connections)
	if out.Scenario != cleartext {
		name = out.Scenario + "_" + name
	}
	if out.Kind != keepAlive {
		name += "_" + out.Kind
	}
	return name
}

// run measures one level in a lab of its own.
func (r *runner) run(ctx context.Context, load string, connections int) (_ *level, err error) {
	o := r.options
	o.PerConnection = perConnection(load)
	l, err := lab.Up(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	a, err := r.startAgent(ctx, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.out.Close()) }()
	if o.GRPC { // of a connection that is older than the agent, not every compressed head can be read: see oddities
		if err := l.Reconnect(); err != nil {
			return nil, err
		}
	}
	out := &level{Scenario: r.scenario, Kind: load, Connections: connections, Workers: cmp.Or(o.Threads, labWorkers)}
	if err := errors.Join(out.load(ctx, l, a, r), a.stop()); err != nil {
		return nil, err
	}
	t, err := readTruth(expect(l, r.depth), out.Load.Run, l.AccessLog, !out.drained())
	if err == nil && o.GRPC {
		err = t.readCalls(l.Records)
	}
	if err != nil {
		return nil, err
	}
	s := newScorer(t)
	if err := r.readJourneys(ctx, a.out, s, out.name()); err != nil {
		return nil, err
	}
	out.Score = s.finish()
	out.Percent = out.Score.percent()
	out.Silent = silent(out.Score.Incomplete, out.Lost, out.Score.Requests[stateNames[underWay]])
	return out, out.sound()
}

// load sends the load between two looks at what the agent has lost.
func (out *level) load(ctx context.Context, l *lab.Lab, a *agent, r *runner) error {
	if r.warmUp > 0 {
		if _, err := l.Wrk(ctx, out.request(r, r.warmUp)); err != nil {
			return err
		}
	}
	before, err := a.ask.Status(ctx)
	if err != nil {
		return err
	}
	out.Load, err = out.send(ctx, l, r)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	out.Rate = out.Load.Rate()
	var after control.Status
	if after, err = settle(ctx, a.ask); err != nil {
		return err
	}
	out.Lost = since(before.Losses, after.Losses)
	return nil
}

// labWorkers are those of a proxy where lab.Options.Threads does not say.
const labWorkers = 2

// sharing is how many of gRPC's calls share a connection at a time.
const sharing = 16

func (out *level) send(ctx context.Context, l *lab.Lab, r *runner) (lab.LoadResult, error) {
	if l.Options.GRPC {
		return l.RPC(ctx, lab.Load{
			Connections: max(1, out.Connections/sharing), Streams: out.Connections, Duration: r.duration, Methods: callMethods(),
			PerConnection: perConnection(out.Kind),
		})
	}
	return l.Wrk(ctx, out.request(r, r.duration))
}

// request is wrk's load.
func (out *level) request(r *runner, d time.Duration) lab.Load {
	var path string
	if r.rate > 0 {
		path = fmt.Sprintf("/?up.sleep=%s", time.Duration(float64(out.Connections)/r.rate*float64(time.Second)).Round(100*time.Microsecond))
	}
	return lab.Load{
		Path: path, Connections: out.Connections, Duration: d, Truth: true, Varied: varied(out.Scenario), Drain: out.drained(),
		PerConnection: perConnection(out.Kind),
	}
}

// drained says whether wrk waits for all answers before it stops. In clear text it does not, as in every version.
func (out *level) drained() bool { return out.Scenario != cleartext || out.Kind != keepAlive }

// sound says what makes the figures worthless.
func (out *level) sound() error {
	const disagree = 0.001 // of the requests whose logs have no line or another port
	least := 1000
	if out.Kind != keepAlive {
		least = 200 // a request with its handshakes takes ten times as long
	}
	n := out.Score.Requests[stateNames[logsDisagree]]
	logged := sum(out.Score.Requests)
	switch {
	case uint64(logged) < out.Load.Requests: //nolint:gosec // a count
		return fmt.Errorf("%d connections: the load had %d answers, the gateway logged %d", out.Connections, out.Load.Requests, logged)
	case out.Score.Scored+out.Score.Streams.Scored < least:
		return fmt.Errorf("%d connections: only %d requests can be scored", out.Connections, out.Score.Scored)
	case float64(n) > disagree*float64(out.Score.Scored):
		return fmt.Errorf("%d connections: the access logs disagree about %d of %d requests", out.Connections, n, out.Score.Scored+n)
	}
	return nil
}

// readJourneys scores everything that the agent has written. Decoding takes most of the time: a goroutine for each CPU.
func (r *runner) readJourneys(ctx context.Context, f *os.File, s judge, name string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read journeys: %w", err)
	}
	const workers = 2
	var wg sync.WaitGroup
	lines, errs := make(chan []byte, workers), make([]error, workers)
	d := dumper{dir: r.dump, name: name}
	var mu sync.Mutex // guards s and d
	for i := range workers {
		wg.Go(func() {
			for text := range lines {
				line, err := report.Decode(text)
				mu.Lock()
				if err == nil {
					err = d.write(s.line(line), text, &line.Journey)
				}
				mu.Unlock()
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	in := bufio.NewReaderSize(f, 1<<20)
	var err error
	for err == nil {
		var text []byte
		if text, err = in.ReadBytes('\n'); err == nil {
			lines <- text
			err = ctx.Err()
		} else if err == io.EOF && len(text) > 0 {
			err = errors.New("read journeys: the last line has no end")
		}
	}
	close(lines)
	wg.Wait()
	if err == io.EOF {
		err = nil
	}
	return errors.Join(append(errs, err)...)
}

// judge is told every journey that an agent wrote, and says what is wrong with it.
type judge interface{ line(*report.Line) string }

// dumper writes the first journeys in which something is wrong, each as it came from the agent.
type dumper struct {
	dir     string
	name    string // of the level
	written int
}

const maxDumps = 20 // of each level

func (d *dumper) write(why string, text []byte, j *journey.Journey) error {
	if d.dir == "" || why == "" || d.written == maxDumps {
		return nil
	}
	d.written++
	name := fmt.Sprintf("%s-%02d-%s.json", d.name, d.written, strings.ReplaceAll(why, " ", "-"))
	if err := os.WriteFile(filepath.Join(d.dir, name), text, 0o644); err != nil { //nolint:gosec // for everyone
		return fmt.Errorf("dump journey %s: %w", j.RequestID, err)
	}
	return nil
}
