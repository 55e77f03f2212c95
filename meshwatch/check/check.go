// Package check says what works on this kernel and with these privileges, what does not, why, and what to do. It tries rather
// than looks up: the programs are loaded, attached in a network namespace made for it, and a message is sent through them.
package check

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/meshwatch/meshwatch/bpf"
)

// State is how a feature stands.
type State string

// The states. Only a missing feature keeps the agent from running.
const (
	Works    State = "works"
	Degraded State = "degraded" // the agent runs and shows less
	Missing  State = "missing"
)

// Result is one feature.
type Result struct {
	Feature string `json:"feature"`
	State   State  `json:"state"`
	Why     string `json:"why,omitempty"`
	Do      string `json:"do,omitempty"`
}

// Run tries everything. About two seconds of CPU. A running agent is not disturbed.
func Run() []Result {
	out := privileges()
	out = append(out, kernel()...)
	out = append(out, programs()...)
	out = append(out, node()...)
	return append(out, libraries()...)
}

// Preflight says in one sentence what keeps the agent from running, as far as that is known without trying: a
// *PrivilegeError or a *bpf.MissingFeature.
func Preflight() error {
	if err := checkPrivileges(); err != nil {
		return err
	}
	return bpf.CheckFeatures()
}

// Failed says what is missing, nil when the agent can run.
func Failed(results []Result) error {
	var names []string
	for _, r := range results {
		if r.State == Missing {
			names = append(names, r.Feature)
		}
	}
	if names == nil {
		return nil
	}
	return &failedError{names}
}

type failedError struct{ names []string }

func (e *failedError) Error() string {
	return fmt.Sprintf("the agent cannot run here, %d missing: %s", len(e.names), strings.Join(e.names, "; "))
}

// IsMissing says whether an error comes of what the kernel lacks or does not allow.
func IsMissing(err error) bool {
	switch {
	case err == nil:
		return false
	case isPrivilege(err), isFailed(err):
		return true
	}
	return bpf.Refused(err)
}

// Table writes the results for people.
func Table(w io.Writer, results []Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FEATURE\tSTATE\tWHY, AND WHAT TO DO") //nolint:errcheck // kept by tw until Flush
	for _, r := range results {
		text := strings.Join(strings.Fields(r.Why), " ")
		if r.Do != "" {
			text += ". To do: " + r.Do
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", r.Feature, r.State, text) //nolint:errcheck // as above
	}
	return tw.Flush()
}
