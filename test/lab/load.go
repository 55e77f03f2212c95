package lab

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meshwatch/meshwatch/test/tree"
)

var (
	//go:embed wrk.lua
	wrkScript []byte
	//go:embed pace.lua
	paceScript []byte
)

// Load says what the client sends to the gateway. Zero fields mean the default.
type Load struct {
	Connections int           // default 16
	Threads     int           // wrk only; default 1
	Duration    time.Duration // default 10 s
	Path        string        // default /
	QPS         float64       // of all connections together, not for Wrk; 0: as fast as it goes
	Truth       bool          // Wrk only: every request has an x-truth-id of its own, at the cost of some Lua
	Varied      bool          // Wrk only, with Truth: 1,000 different targets under Path
	Drain       bool          // Wrk only, with Truth: it pauses at the end until all is answered
	Streams     int           // RPC only: calls under way at a time, over all connections; default Connections
	Methods     []string      // RPC only: what is called in turn; default rpc.Echo

	// Wrk only, with Truth, and RPC: N requests on a connection, 0: any number. Wrk ends one after each with a probability of 1/N.
	PerConnection int
}

// LoadResult is what the load generator measured.
type LoadResult struct {
	Requests uint64        `json:"requests"` // answered, whatever the status
	Duration time.Duration `json:"duration_ns"`
	Mean     time.Duration `json:"mean_ns"`
	P50      time.Duration `json:"p50_ns"`
	P90      time.Duration `json:"p90_ns"`
	P99      time.Duration `json:"p99_ns"`
	P999     time.Duration `json:"p999_ns"`
	Max      time.Duration `json:"max_ns"`
	Failed   uint64        `json:"failed"`   // of Requests: answered with a status of 400 or above (Fortio: not 200)
	Broken   uint64        `json:"broken"`   // connections that broke, and requests without an answer
	Timeouts uint64        `json:"timeouts"` // of Broken, for wrk: no answer within 10 s
	Run      string        `json:"run"`      // Truth: what the ids start with
}

// Rate is the throughput in requests per second.
func (r LoadResult) Rate() float64 {
	if r.Duration == 0 {
		return 0
	}
	return float64(r.Requests) / r.Duration.Seconds()
}

func (w Load) check() error {
	if w.PerConnection < 0 {
		return fmt.Errorf("send load: a connection cannot have %d requests: say 0 for any number, or more", w.PerConnection)
	}
	return nil
}

func (w Load) withDefaults() Load {
	w.Connections = or(w.Connections, 16)
	w.Threads = or(w.Threads, 1)
	w.Duration = or(w.Duration, 10*time.Second)
	w.Path = or(w.Path, "/")
	return w
}

// runs numbers the loads of this process, so that no id is used twice.
var runs atomic.Uint64

func (l *Lab) newRun() string { return fmt.Sprintf("%s-%d-%d", l.ID, os.Getpid(), runs.Add(1)) }

// drainTime is longer than a request takes in a mesh that works.
const drainTime = time.Second

// Wrk sends as fast as it gets answers, from the client, until the duration is over. When ctx is done first it stops
// wrk, and returns what wrk measured up to then.
func (l *Lab) Wrk(ctx context.Context, w Load) (LoadResult, error) {
	if err := w.check(); err != nil {
		return LoadResult{}, err
	}
	w = w.withDefaults()
	script := l.path("conf", "wrk.lua")
	if err := os.WriteFile(script, wrkScript, 0o644); err != nil {
		return LoadResult{}, fmt.Errorf("write wrk's script: %w", err)
	}
	var quiet time.Duration
	if w.Drain {
		quiet = drainTime
	}
	args := []string{
		"-c", strconv.Itoa(w.Connections), "-t", strconv.Itoa(w.Threads), "-d", fmt.Sprintf("%.0fs", (w.Duration + quiet).Seconds()),
		"--timeout", "10s", "-s", script, l.GatewayURL() + w.Path,
	}
	var run string
	if w.Truth {
		run = l.newRun()
		args = append(args, "--", run, strconv.Itoa(w.PerConnection), strconv.FormatBool(w.Varied))
		if w.Drain {
			args = append(args, strconv.FormatInt(w.Duration.Milliseconds(), 10))
		}
	}
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return LoadResult{}, fmt.Errorf("send load: %w", err)
	}
	out, err := l.load(ctx, wrk, args)
	if err != nil {
		return LoadResult{}, err
	}
	r, err := parseWrk(out)
	r.Run, r.Duration = run, r.Duration-quiet
	return r, err
}

// parseWrk reads what wrk.lua prints last.
func parseWrk(out []byte) (LoadResult, error) {
	var v struct {
		Requests   uint64 `json:"requests"`
		DurationUS int64  `json:"duration_us"`
		Connect    uint64
		Read       uint64
		Write      uint64
		Status     uint64
		Timeout    uint64
		MeanUS     float64 `json:"mean_us"`
		P50US      int64   `json:"p50_us"`
		P90US      int64   `json:"p90_us"`
		P99US      int64   `json:"p99_us"`
		P999US     int64   `json:"p999_us"`
		MaxUS      int64   `json:"max_us"`
	}
	line := out[bytes.LastIndexByte(out, '{')+1:]
	if err := json.Unmarshal(append([]byte("{"), line...), &v); err != nil {
		return LoadResult{}, fmt.Errorf("read wrk's result: %w: %s", err, out)
	}
	us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	return LoadResult{
		Requests: v.Requests, Duration: us(v.DurationUS), Mean: us(int64(v.MeanUS)),
		P50: us(v.P50US), P90: us(v.P90US), P99: us(v.P99US), P999: us(v.P999US), Max: us(v.MaxUS),
		Failed: v.Status, Broken: v.Connect + v.Read + v.Write + v.Timeout, Timeouts: v.Timeout,
	}, nil
}

// StartLoad has wrk send until the lab is taken down: each connection after pauses of its own, which make the rate about
// QPS as long as answers are quick. Duration does not count.
func (l *Lab) StartLoad(w Load) error {
	w = w.withDefaults()
	script := l.path("conf", "pace.lua")
	if err := os.WriteFile(script, paceScript, 0o644); err != nil {
		return fmt.Errorf("write wrk's script: %w", err)
	}
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return fmt.Errorf("send load: %w", err)
	}
	pause := 0.0 // ms
	if w.QPS > 0 {
		pause = 1000 * float64(w.Connections) / w.QPS
	}
	client, _ := l.Pod("client")
	const forever = "8760h" // wrk wants an end
	return l.serve(program{pod: client, kind: "load", uid: appUID, path: wrk, args: []string{
		"-c", strconv.Itoa(w.Connections), "-t", strconv.Itoa(w.Threads), "-d", forever, "-s", script, l.GatewayURL() + w.Path,
		"--", strconv.FormatFloat(pause, 'f', 3, 64),
	}})
}

// Fortio sends at a fixed rate, from the client. It needs test/install.sh run. When ctx is done first it stops fortio,
// and returns what fortio measured up to then.
func (l *Lab) Fortio(ctx context.Context, w Load) (LoadResult, error) {
	w = w.withDefaults()
	fortio := tree.Cached(l.root, "bin", "fortio")
	if !exists(fortio) {
		return LoadResult{}, errors.New("send load: fortio is not built, run test/install.sh")
	}
	out, err := l.load(ctx, fortio, []string{
		"load", "-quiet", "-loglevel", "Error", "-json", "-", "-p", "50,90,99,99.9", "-allow-initial-errors",
		"-qps", strconv.FormatFloat(w.QPS, 'f', -1, 64), "-c", strconv.Itoa(w.Connections), "-t", w.Duration.String(),
		l.GatewayURL() + w.Path,
	})
	if err != nil {
		return LoadResult{}, err
	}
	return parseFortio(out)
}

func parseFortio(out []byte) (LoadResult, error) {
	var v struct {
		ActualDuration    time.Duration
		RetCodes          map[string]uint64
		DurationHistogram struct {
			Count       uint64
			Avg, Max    float64
			Percentiles []struct{ Percentile, Value float64 }
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return LoadResult{}, fmt.Errorf("read fortio's result: %w: %s", err, out)
	}
	sec := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	h := v.DurationHistogram
	r := LoadResult{Requests: h.Count, Duration: v.ActualDuration, Mean: sec(h.Avg), Max: sec(h.Max)}
	for _, p := range h.Percentiles {
		switch p.Percentile {
		case 50:
			r.P50 = sec(p.Value)
		case 90:
			r.P90 = sec(p.Value)
		case 99:
			r.P99 = sec(p.Value)
		case 99.9:
			r.P999 = sec(p.Value)
		}
	}
	for code, n := range v.RetCodes {
		switch code {
		case "200":
		case "-1":
			r.Broken += n
		default:
			r.Failed += n
		}
	}
	return r, nil
}

// load runs a load generator in the client to its end, and returns what it printed.
func (l *Lab) load(ctx context.Context, path string, args []string) ([]byte, error) {
	client, _ := l.Pod("client")
	var out bytes.Buffer
	cmd, proc, err := l.start(program{pod: client, kind: "load", uid: appUID, path: path, args: args, stdout: &out})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGINT) }) // both print what they have
	err = cmd.Wait()
	stop()
	err = errors.Join(err, os.Remove(l.recordPath(proc)))
	if err != nil {
		return nil, fmt.Errorf("send load with %s: %w: %s", filepath.Base(path), err, out.Bytes())
	}
	return out.Bytes(), nil
}
