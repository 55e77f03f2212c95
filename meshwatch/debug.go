package meshwatch

import (
	"fmt"
	"os"
)

func (a *Agent) Debug() {
	fmt.Fprintf(os.Stderr, "%+v\n", *a.counts.Load())
	for _, r := range a.losses.Rows() {
		if r.Count > 0 {
			fmt.Fprintf(os.Stderr, "  %s/%s %d\n", r.Stage, r.Reason, r.Count)
		}
	}
	if l, err := a.recorder.Losses(); err == nil {
		for k, v := range l {
			if v > 0 {
				fmt.Fprintf(os.Stderr, "  kernel/%s %d\n", k, v)
			}
		}
	}
}
