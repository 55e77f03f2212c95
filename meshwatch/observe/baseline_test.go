package observe

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/bpf"
)

func TestBaseline(t *testing.T) {
	const us = 1000
	for name, tt := range map[string]struct {
		before, after uint64 // ns
		batches       int    // that have left
	}{
		"as ever":                   {10 * us, 10 * us, 0},
		"twice as long":             {1000 * us, 2000 * us, 0},
		"many times of little":      {1 * us, 40 * us, 0},
		"many times as long":        {10 * us, 1000 * us, -1},
		"so long that it is usual":  {10 * us, 200 * us, -1},
		"a few that are very slow":  {10 * us, 10 * us, 0},
		"shorter":                   {1000 * us, 10 * us, 0},
		"never anything but slowly": {1000 * us, 1000 * us, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var b baseline
			batch := func(ns uint64) bool {
				times := slices.Repeat([]uint64{ns}, pendingFlights)
				if name == "a few that are very slow" {
					for i := range pendingFlights/2 - 1 {
						times[i] = 1e9
					}
				}
				return b.leaves(times)
			}
			for range 3 * learned {
				if batch(tt.before) {
					t.Fatal("left at once")
				}
			}
			left := 0
			for range 1000 {
				if batch(tt.after) {
					left++
				}
			}
			if tt.batches == 0 && left > 0 || tt.batches < 0 && (left < 5 || left > 500) {
				t.Errorf("left %d times", left)
			}
		})
	}
}

// Where the rules of a namespace have become slow, it is named, once, and no other one is.
func TestLeft(t *testing.T) {
	w := newWorld(t)
	way := func(outUs, overUs uint32) {
		f := bpf.Flight{StartNs: hour, SendNetns: nsPod, RecvNetns: nsPod, RecvSk: 1, Nstamps: 3}
		for i, m := range []mark{{0, 1, nsPod, 1}, {outUs, 3, nsPod, 1}, {outUs + overUs, 7, nsPod, 1}} {
			f.Stamps[i] = bpf.Stamp{Delta: m.us * 1000, Place: m.place()}
		}
		w.findPath(&f, &f, "request", 3, w.names.known()).measure(w.Observer, &f)
	}
	for range 2 * learned * pendingFlights {
		way(2, 5)
	}
	if got := w.Left(); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	for range pendingFlights {
		way(300, 5)
	}
	if diff := cmp.Diff([]uint32{nsPod}, w.Left()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := w.Left(); len(got) > 0 {
		t.Errorf("again: %v", got)
	}
}
