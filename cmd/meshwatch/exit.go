package main

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshwatch/meshwatch/meshwatch"
	"github.com/meshwatch/meshwatch/meshwatch/check"
	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/otlp"
)

// The exit codes, part of the interface: docs/troubleshooting.md.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 2 // command line, configuration or environment
	exitMissing = 3 // a kernel feature or a privilege
	exitNoAgent = 4 // or the agent has not what was asked for
)

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string {
	text, _, _ := strings.Cut(e.err.Error(), "\n") // cobra adds suggestions below
	return text + " (see meshwatch --help)"
}

func (e *usageError) Unwrap() error { return e.err }

// usage makes what args refuses a usageError.
func usage(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if err := args(c, given); err != nil {
			return &usageError{err}
		}
		return nil
	}
}

func exitCode(err error) int {
	var (
		command  *usageError
		config   *meshwatch.ConfigError
		setting  *otlp.SettingError
		noAgent  *control.NoAgentError
		notFound *control.NotFoundError
		notSeen  *notSeenError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &command), errors.As(err, &config), errors.As(err, &setting):
		return exitUsage
	case errors.As(err, &noAgent) && errors.Is(err, fs.ErrPermission), check.IsMissing(err):
		return exitMissing
	case errors.As(err, &noAgent), errors.As(err, &notFound), errors.As(err, &notSeen), errors.Is(err, errNoAccessLog):
		return exitNoAgent
	}
	return exitError
}
