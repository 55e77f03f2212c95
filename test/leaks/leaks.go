// Package leaks fails tests that leave something behind.
package leaks

import (
	"os"
	"testing"
)

// None fails the test when it leaves descriptors behind. It must be called before what it watches is made.
func None(tb testing.TB) {
	tb.Helper()
	if r, w, err := os.Pipe(); err == nil { // so that Go's own poller is there already
		_, _ = r.Close(), w.Close()
	}
	before := Descriptors(tb)
	tb.Cleanup(func() {
		for fd, what := range Descriptors(tb) {
			if before[fd] != what {
				tb.Errorf("leaked descriptor %s: %s", fd, what)
			}
		}
	})
}

// Descriptors are those that are open: number to what it leads to.
func Descriptors(tb testing.TB) map[string]string {
	tb.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	fds := map[string]string{}
	for _, e := range dir {
		if what, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			fds[e.Name()] = what
		}
	}
	return fds
}
