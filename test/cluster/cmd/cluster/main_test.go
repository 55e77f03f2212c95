package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// TestStatus: a program that `in` ran has said what was wrong; whatever else fails because a program failed, we must say.
func TestStatus(t *testing.T) {
	exit := exec.Command("sh", "-c", "exit 7").Run()
	for _, c := range []struct {
		err    error
		status int
		said   string
	}{
		{nil, 0, ""},
		{exit, 7, ""},
		{fmt.Errorf("build a cluster: %w", exit), 1, "build a cluster"},
		{errors.Join(errors.New("wait"), exit), 1, "wait"},
	} {
		var said bytes.Buffer
		if got := status(c.err, &said); got != c.status || !strings.Contains(said.String(), c.said) || c.said == "" && said.Len() > 0 {
			t.Errorf("%v: status %d, said %q; want %d, %q", c.err, got, &said, c.status, c.said)
		}
	}
}
