package meshwatch

import (
	"bytes"
	"io"
	"log/slog"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// outputQueue is how many journeys wait for a slow reader of stdout: some 2 s at 4,000 a second, 10 KB each.
const outputQueue = 8192

const outputChunk = 256 << 10 // bytes that are written at once when more is waiting

// lineWriter writes a line a journey on a goroutine of its own, so that a slow reader costs journeys, counted, not records.
type lineWriter struct {
	queue chan *journey.Journey
	done  chan error
	full  *loss.Counter
}

func newLineWriter(w io.Writer, clock journey.Clock, set *loss.Set, log *slog.Logger) *lineWriter {
	l := &lineWriter{queue: make(chan *journey.Journey, outputQueue), done: make(chan error, 1), full: set.Counter("output", "queue-full")}
	failed := set.Counter("output", "write-failed")
	go func() { l.done <- l.run(w, clock, failed, log) }()
	return l
}

// Offer queues a journey and returns at once.
func (l *lineWriter) Offer(j *journey.Journey) {
	select {
	case l.queue <- j:
	default:
		l.full.Add(1)
	}
}

func (l *lineWriter) run(w io.Writer, clock journey.Clock, failed *loss.Counter, log *slog.Logger) (first error) {
	var lines []byte
	for j := range l.queue {
		lines = append(report.AppendJSON(lines, j, clock), '\n')
		if len(l.queue) > 0 && len(lines) < outputChunk {
			continue
		}
		if n, err := w.Write(lines); err != nil {
			failed.Add(uint64(bytes.Count(lines[n:], []byte("\n")))) //nolint:gosec // not negative
			if first == nil {
				log.Error("cannot write journeys to standard output", "error", err)
				first = err
			}
		}
		lines = lines[:0]
	}
	return first
}

// Close writes what is queued.
func (l *lineWriter) Close() error {
	close(l.queue)
	return <-l.done
}
