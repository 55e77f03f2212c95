package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticks are the CPUs' times since boot.
type ticks struct{ all, idle uint64 }

// cpus reads them; zero where /proc does not say.
func cpus() ticks {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return ticks{}
	}
	return parseTicks(string(stat))
}

// parseTicks reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; what follows is in
// user and nice already.
func parseTicks(stat string) (t ticks) {
	line, _, _ := strings.Cut(stat, "\n")
	for i, f := range strings.Fields(line) {
		if i < 1 || i > 8 {
			continue
		}
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return ticks{}
		}
		t.all += n
		if i == 4 || i == 5 {
			t.idle += n
		}
	}
	return t
}

// busy is the share of the CPUs' time between two readings in which they worked.
func busy(from, to ticks) float64 {
	if to.all <= from.all {
		return 0
	}
	return 1 - float64(to.idle-from.idle)/float64(to.all-from.all)
}

// tooBusy is from where a demonstration is about the machine's other work: who waits for a CPU looks slow himself.
const tooBusy = 0.9

// excuse says so.
func (e evidence) excuse() string {
	if e.busy < tooBusy {
		return ""
	}
	return fmt.Sprintf(" The CPUs were %.0f %% busy meanwhile, which is more than the demo's own work: a process that waits for a CPU counts as slow.",
		100*e.busy)
}
