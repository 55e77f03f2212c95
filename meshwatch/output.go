package meshwatch

import (
	"bufio"
	"io"
	"log/slog"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/report"
)

// outputQueue is how many journeys wait for a slow reader of stdout: some 2 s at 4,000 a second, 10 KB each.
const outputQueue = 8192

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
	out := bufio.NewWriterSize(w, 256<<10)
	var line []byte
	for j := range l.queue {
		line = append(report.AppendJSON(line[:0], j, clock), '\n')
		_, err := out.Write(line)
		if err == nil && len(l.queue) == 0 {
			err = out.Flush()
		}
		if err != nil {
			failed.Add(1)
			if first == nil {
				log.Error("cannot write journeys to standard output", "error", err)
				first = err
			}
		}
	}
	if err := out.Flush(); first == nil {
		first = err
	}
	return first
}

// Close writes what is queued.
func (l *lineWriter) Close() error {
	close(l.queue)
	return <-l.done
}
