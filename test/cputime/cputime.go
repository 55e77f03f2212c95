// Package cputime says what benchmarks cost where others use the CPUs, too.
package cputime

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Used is what this process has used up to now, in its own code and in the kernel.
func Used(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
