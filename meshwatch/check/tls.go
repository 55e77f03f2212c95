package check

import (
	"errors"
	"fmt"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/tlsfind"
	"github.com/meshwatch/meshwatch/meshwatch/tlsscan"
)

// tlsPatience is how long files are searched for TLS libraries. A second does for a hundred of them; the agent goes on as it runs.
const tlsPatience = 3 * time.Second

// libraries lists the TLS libraries that processes have, and those of which nobody is sure.
func libraries() []Result {
	const feature = "TLS libraries"
	scanner := tlsscan.New()
	list, err := scanner.Scan()
	for deadline := time.Now().Add(tlsPatience); err == nil && scanner.Waiting > 0 && time.Now().Before(deadline); {
		list, err = scanner.Scan()
	}
	if err != nil {
		return []Result{{feature, Degraded, err.Error(), "give the agent the host's /proc (hostPID: true)"}}
	}
	var out []Result
	for i := range list {
		out = append(out, library(&list[i]))
		if r, ok := netHTTP(&list[i]); ok {
			out = append(out, r)
		}
	}
	switch {
	case scanner.Waiting > 0:
		out = append(out, Result{feature, Works, fmt.Sprintf("not all files were searched within %v: there may be more", tlsPatience), ""})
	case out == nil:
		out = append(out, Result{feature, Works, "no process that may be looked at has one that is known", ""})
	}
	return out
}

// library rates what a file has.
func library(b *tlsscan.Binary) Result {
	r := Result{Feature: "TLS in " + b.Path, State: Works}
	processes := processesOf(b)
	if b.Err != nil {
		r.State, r.Why = Degraded, fmt.Sprintf("not read, in %s: %v", processes, b.Err)
		r.Do = "nothing if it has no TLS; else report this with where the file is from"
		return r
	}
	r.Why = fmt.Sprintf("%s by %s, in %s", b.Library.Name, b.Library.How, processes)
	if writes, reads := stepped(b.Library); writes || reads {
		r.Why += fmt.Sprintf("; %s are single-stepped: 12 µs a call instead of 1", calls(writes, reads))
	}
	return r
}

func processesOf(b *tlsscan.Binary) string {
	if len(b.Pids) == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", len(b.Pids))
}

// netHTTP rates whether requests that a Go program makes can be joined by goroutine with those that they are made for. False: it has no
// net/http.
func netHTTP(b *tlsscan.Binary) (Result, bool) {
	if b.Library == nil || b.Library.HTTP == nil && (b.Library.HTTPErr == nil || errors.Is(b.Library.HTTPErr, tlsfind.ErrNotHere)) {
		return Result{}, false
	}
	r := Result{Feature: "net/http in " + b.Path, State: Works}
	h := b.Library.HTTP
	if h == nil {
		r.State, r.Why = Degraded, fmt.Sprintf("not joined by goroutine, in %s: %v", processesOf(b), b.Library.HTTPErr)
		r.Do = "build it with Go 1.21 or later; else report this with the version of Go"
		return r, true
	}
	r.Why = "HTTP/1 client joined by goroutine, in " + processesOf(b)
	if h.RoundTrip.Stepped || h.Write.Stepped {
		r.Why += "; probes are single-stepped: 12 µs a call instead of 1"
	}
	return r, true
}

// stepped says whether the CPU is single-stepped where plaintext is written, and where it is read.
func stepped(l *tlsfind.Library) (writes, reads bool) {
	for _, p := range l.Points {
		if p.Kind == tlsfind.Read || p.Kind == tlsfind.ReadEx {
			reads = reads || p.Stepped
		} else {
			writes = writes || p.Stepped
		}
	}
	return writes, reads
}

func calls(writes, reads bool) string {
	switch {
	case writes && reads:
		return "writes and reads"
	case writes:
		return "writes"
	}
	return "reads"
}
