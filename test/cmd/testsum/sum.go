package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is a line of go test -json, see go doc test2json, or of go build -json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of a build event
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// name is of a test, or with an empty test of a package as a whole.
type name struct{ pkg, test string }

// sum is what was seen so far. A test with subtests counts only if it failed or was skipped itself: its subtests count.
type sum struct {
	w                       io.Writer
	output                  map[name][]string // of tests that are running
	parents                 map[name]bool
	builds                  map[string][]string
	skips                   []string
	passed, failed, skipped int
}

func summarize(r io.Reader, w io.Writer) (*sum, error) {
	s := &sum{w: w, output: map[name][]string{}, parents: map[name]bool{}, builds: map[string][]string{}}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			s.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read test events: %w", err)
		}
	}
	s.rest()
	s.close()
	return s, nil
}

func (s *sum) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Action == "" {
		fmt.Fprintf(s.w, "%s", line) // of go itself, such as what it downloads
		return
	}
	switch e.Action {
	case "build-output":
		s.builds[e.ImportPath] = append(s.builds[e.ImportPath], e.Output)
	case "build-fail": // its packages' fail tells
	case "run":
		if at := strings.LastIndexByte(e.Test, '/'); at > 0 {
			s.parents[name{e.Package, e.Test[:at]}] = true
		}
	case "output":
		n := name{e.Package, e.Test}
		s.output[n] = append(s.output[n], e.Output)
	case "pass", "fail", "skip":
		s.end(&e)
	}
}

func (s *sum) end(e *event) {
	n := name{e.Package, e.Test}
	if e.Test == "" {
		s.endPackage(e)
		return
	}
	out := s.output[n]
	delete(s.output, n)
	switch {
	case e.Action == "fail":
		if !s.parents[n] {
			s.failed++
		}
		fmt.Fprintf(s.w, "%s", strings.Join(out, ""))
	case e.Action == "skip":
		s.skipped++
		s.skips = append(s.skips, fmt.Sprintf("%s %s: %s", short(e.Package), e.Test, reason(out)))
	case !s.parents[n]:
		s.passed++
	}
}

func (s *sum) endPackage(e *event) {
	n := name{e.Package, ""}
	out := slices.DeleteFunc(s.output[n], func(line string) bool { return strings.HasPrefix(line, "FAIL") })
	delete(s.output, n)
	switch e.Action {
	case "fail":
		if e.FailedBuild != "" {
			fmt.Fprint(s.w, strings.Join(s.builds[e.FailedBuild], ""))
			s.failed++
		} else if running := s.unfinished(e.Package); running != nil { // killed, or out of time
			s.failed++
			fmt.Fprintf(s.w, "%s", strings.Join(running, ""))
		}
		fmt.Fprintf(s.w, "%sFAIL  %s  %.1f s\n", strings.Join(out, ""), short(e.Package), e.Elapsed)
		s.failed = max(s.failed, 1)
	case "pass":
		fmt.Fprintf(s.w, "ok    %s  %.1f s\n", short(e.Package), e.Elapsed)
	}
}

// unfinished is the output of a package's tests that never ended.
func (s *sum) unfinished(pkg string) []string {
	var out []string
	for n, lines := range s.output {
		if n.pkg == pkg {
			out = append(out, lines...)
			delete(s.output, n)
		}
	}
	return out
}

// rest shows what never came to an end, when go test itself was ended.
func (s *sum) rest() {
	for n, lines := range s.output {
		if n.test != "" {
			s.failed++
			fmt.Fprintf(s.w, "%s%s %s did not end\n", strings.Join(lines, ""), short(n.pkg), n.test)
		}
	}
}

func (s *sum) close() {
	if len(s.skips) > 0 {
		fmt.Fprintln(s.w, "\nskipped:")
		for _, line := range slices.Sorted(slices.Values(s.skips)) {
			fmt.Fprintln(s.w, " ", line)
		}
	}
	fmt.Fprintf(s.w, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}

var position = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// reason is what a test said when it was skipped.
func reason(out []string) string {
	for _, line := range slices.Backward(out) {
		if m := position.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

func short(pkg string) string { return strings.TrimPrefix(pkg, "github.com/meshwatch/meshwatch/") }
