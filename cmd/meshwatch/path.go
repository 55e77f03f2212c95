package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/netpath"
)

func pathCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "path [NAMESPACE]",
		Short: "The datapath of a network namespace: links and what is at their other end, rules by hook",
		Long: `The datapath of a network namespace: links and what is at their other end, rules by hook. NAMESPACE is a name, a
pattern of names, an inode number or a process id; all namespaces without one. Asks the agent; where none answers it
looks for itself, which shows everything only to root.`,
		Args: usage(cobra.MaximumNArgs(1)),
	}
	as, agent := formatFlag(c), agentFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		state, err := datapath(c.Context(), agent())
		if err != nil {
			return err
		}
		word := ""
		if len(args) == 1 {
			word = inodeOf(args[0])
		}
		selected := state.Select(word)
		switch {
		case len(selected) == 0:
			return &notSeenError{strings.Join(args, " ")}
		case *as == "json":
			return printJSON(os.Stdout, selected)
		}
		return state.Table(os.Stdout, word)
	}
	return c
}

// inodeOf is the inode number of a process's network namespace where the word is a process id, else the word: a namespace
// lists only some of its processes.
func inodeOf(word string) string {
	if _, err := strconv.ParseUint(word, 10, 32); err != nil {
		return word
	}
	link, err := os.Readlink("/proc/" + word + "/ns/net")
	if err != nil {
		return word
	}
	return strings.TrimSuffix(strings.TrimPrefix(link, "net:["), "]")
}

// datapath is the agent's view, or what this process sees itself.
func datapath(ctx context.Context, agent *control.Client) (*netpath.State, error) {
	list, err := agent.Namespaces(ctx)
	if err == nil {
		return netpath.NewState(list, nil), nil
	}
	if nobody := (*control.NoAgentError)(nil); !errors.As(err, &nobody) {
		return nil, err
	}
	state, counts, err := netpath.Scan()
	if err != nil {
		return nil, err
	}
	if counts.Denied > 0 && os.Geteuid() != 0 {
		fmt.Fprintf(os.Stderr, "meshwatch: %d processes may not be looked at, so namespaces can be missing: use sudo\n", counts.Denied)
	}
	return state, nil
}

// notSeenError says that no namespace is called so.
type notSeenError struct{ word string }

func (e *notSeenError) Error() string {
	return fmt.Sprintf("no network namespace is called %q, has this inode number, or holds this process: `meshwatch path` lists all", e.word)
}
