// Package result is how the commands that measure say what they found: a file test/results/NAME.json and the same as a
// table. Whether the bars are met is in the result; a command's exit status says whether its run was sound.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/meshwatch/meshwatch/test/tree"
)

// Better says on which side of its bar a value should be.
type Better string

// The sides.
const (
	Higher Better = "higher"
	Lower  Better = "lower"
)

// Bar is a measured value and what it should be at least (Higher) or at most (Lower).
type Bar struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Bar    float64 `json:"bar"`
	Better Better  `json:"better"`
	Met    bool    `json:"met"`
}

// Result is what one run measured. Make it with New, when the run begins.
type Result struct {
	Command string    `json:"command"` // what to type to measure again
	Machine Machine   `json:"machine"`
	When    time.Time `json:"when"` // when the run began, UTC
	Bars    []Bar     `json:"bars"`
	Details any       `json:"details"` // whatever explains the bars; the command prints it itself

	name string
}

// New begins a result that will be test/results/NAME.json. command is what one types, without paths of this machine.
func New(name, command string) (*Result, error) {
	m, err := thisMachine()
	if err != nil {
		return nil, err
	}
	return &Result{Command: command, Machine: m, When: time.Now().UTC().Truncate(time.Second), Bars: []Bar{}, name: name}, nil
}

// Bar adds a value with its bar.
func (r *Result) Bar(name string, value float64, unit string, better Better, bar float64) {
	met := value >= bar
	if better == Lower {
		met = value <= bar
	}
	r.Bars = append(r.Bars, Bar{name, value, unit, bar, better, met})
}

// Save writes the file, in place of an older one, and prints the bars to w. An error means that the run is not sound.
func (r *Result) Save(w io.Writer) error {
	root, err := tree.Root()
	if err != nil {
		return err
	}
	file := filepath.Join("test", "results", r.name+".json")
	if err := r.write(filepath.Join(root, file)); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return errors.Join(r.Table(w), line(w, "written to "+file))
}

func (r *Result) write(file string) error {
	for _, b := range r.Bars {
		if math.IsNaN(b.Value) || math.IsInf(b.Value, 0) { // JSON has no such numbers, and nothing was measured
			return fmt.Errorf("bar %s has no value: %v", b.Name, b.Value)
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Table prints the bars for people.
func (r *Result) Table(w io.Writer) error {
	m := r.Machine
	head := fmt.Sprintf("%s, %s: %d CPUs, %.0f GiB, Linux %s\n", r.Command, r.When.Format(time.RFC3339), m.CPUs, float64(m.Memory)/(1<<30), m.Kernel)
	if err := line(w, head); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows := []string{"BAR\tVALUE\tSHOULD BE\tMET"}
	for _, b := range r.Bars {
		sign, met := "≥", "yes"
		if b.Better == Lower {
			sign = "≤"
		}
		if !b.Met {
			met = "NO"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s %s\t%s", b.Name, amount(b.Value, b.Unit), sign, amount(b.Bar, b.Unit), met))
	}
	for _, row := range rows {
		if err := line(tw, row); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// amount writes a number with its unit, to five digits: nothing here is measured better.
func amount(v float64, unit string) string {
	text := strconv.FormatFloat(v, 'g', 5, 64)
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		text = strconv.FormatFloat(v, 'f', 0, 64)
	}
	if unit == "" {
		return text
	}
	return text + " " + unit
}

func line(w io.Writer, text string) error {
	_, err := fmt.Fprintln(w, text)
	return err
}
