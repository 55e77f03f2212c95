// Package record is how the lab's own programs say what they did: the truth about requests that no agent sees.
package record

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
)

// Record is what one side of a request says of it when it is over.
type Record struct {
	TruthID   string `json:"truth_id,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Target    string `json:"target"`          // without the query; gRPC: /SERVICE/METHOD
	Status    int    `json:"status"`          // of HTTP, or of gRPC
	Received  int    `json:"received"`        // messages, gRPC only
	Sent      int    `json:"sent"`            // messages, gRPC only
	Error     string `json:"error,omitempty"` // the side's own: it did not see the end
}

// Writer appends records to a file, each in one write. Its methods may be called by several goroutines at once. A nil Writer
// drops what it is given.
type Writer struct{ file *os.File }

// Open begins to append to a file. With an empty name the Writer is nil.
func Open(name string) (*Writer, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the file for records: %w", err)
	}
	return &Writer{f}, nil
}

// Add appends a record.
func (w *Writer) Add(r Record) error {
	if w == nil {
		return nil
	}
	line, err := json.Marshal(r)
	if err == nil {
		_, err = w.file.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// Close closes the file.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	return w.file.Close()
}

// Read yields a file's records. A line without its end is still being written, and is left out.
func Read(name string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f, err := os.Open(name)
		if err != nil {
			yield(Record{}, fmt.Errorf("read records: %w", err))
			return
		}
		defer f.Close()
		in := bufio.NewReaderSize(f, 64<<10)
		for {
			line, err := in.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				return
			}
			var r Record
			if err == nil {
				err = json.Unmarshal(line, &r)
			}
			if err != nil {
				yield(Record{}, fmt.Errorf("read records of %s: %w", name, err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}
