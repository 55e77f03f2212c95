package meshwatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

func lostLines(set *loss.Set, reason string) uint64 { return count(set, "output", reason) }

func count(set *loss.Set, stage, reason string) uint64 {
	for _, row := range set.Rows() {
		if row.Stage == stage && row.Reason == reason {
			return row.Count
		}
	}
	return 0
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestLineWriter(t *testing.T) {
	var out bytes.Buffer
	var lost loss.Set
	l := newLineWriter(&out, journeytest.Epoch, &lost, quiet())
	for range 300 { // more than is written at once
		l.Offer(journeytest.Demo())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 300 {
		t.Fatalf("%d lines for 300 journeys", len(lines))
	}
	for i, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Fatalf("line %d is no JSON: %s", i, line)
		}
	}
	if n := lostLines(&lost, "queue-full") + lostLines(&lost, "write-failed"); n != 0 {
		t.Errorf("%d lost", n)
	}
}

// stuck is a reader of standard output that does not read until it is let go.
type stuck struct {
	go_   chan struct{}
	lines int
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.go_
	s.lines += bytes.Count(b, []byte("\n"))
	return len(b), nil
}

// Nobody reads standard output: journeys are counted as lost, and Offer never waits.
func TestLineWriterOfSlowReader(t *testing.T) {
	out := &stuck{go_: make(chan struct{})}
	var lost loss.Set
	l := newLineWriter(out, journeytest.Epoch, &lost, quiet())
	j := &journey.Journey{}
	const n = 2 * outputQueue
	for range n { // returns at once, else the test never ends
		l.Offer(j)
	}
	close(out.go_)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	full := lostLines(&lost, "queue-full")
	if full == 0 || uint64(out.lines)+full != n {
		t.Errorf("%d offered, %d written, %d counted as lost", n, out.lines, full)
	}
}

var errClosed = errors.New("closed")

// closing is a pipe whose reader goes after some bytes.
type closing struct {
	left  int
	lines int
}

func (c *closing) Write(b []byte) (int, error) {
	n := min(c.left, len(b))
	c.left -= n
	c.lines += bytes.Count(b[:n], []byte("\n"))
	if n < len(b) {
		return n, errClosed
	}
	return n, nil
}

func TestLineWriterOfClosedOutput(t *testing.T) {
	var lost loss.Set
	var log bytes.Buffer
	out := &closing{left: 100 << 10}
	l := newLineWriter(out, journeytest.Epoch, &lost, slog.New(slog.NewTextHandler(&log, nil)))
	const n = 100
	for range n {
		l.Offer(journeytest.Demo())
	}
	if err := l.Close(); !errors.Is(err, errClosed) {
		t.Errorf("Close: %v", err)
	}
	if failed := lostLines(&lost, "write-failed"); out.lines == 0 || uint64(out.lines)+failed != n {
		t.Errorf("%d offered, %d written, %d counted as lost", n, out.lines, failed)
	}
	if said := strings.Count(log.String(), "cannot write journeys"); said != 1 {
		t.Errorf("said %d times: %s", said, &log)
	}
}
