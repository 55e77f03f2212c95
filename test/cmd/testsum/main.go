// Command testsum reads the output of go test -json, shows packages and failures as they come, and closes with what was
// skipped and why, and with "N passed, N failed, N skipped". It exits 1 when something failed, also a build.
package main

import (
	"fmt"
	"os"
)

func main() {
	s, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
	if s.failed > 0 {
		os.Exit(1)
	}
}
