package check

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// capability is one that the agent uses.
type capability struct {
	bit    uint
	name   string
	needed bool   // else the agent runs with less
	use    string // what it is for
}

var capabilities = []capability{
	{unix.CAP_BPF, "CAP_BPF", true, "load programs, make maps"},
	{unix.CAP_PERFMON, "CAP_PERFMON", true, "programs at tracepoints"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", true, "programs on links and netfilter hooks"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", false, "enter the network namespaces of pods"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", false, "see which namespace a process of another user is in"},
}

// PrivilegeError says which capabilities the process lacks that it cannot do without.
type PrivilegeError struct{ Missing []string }

func (e *PrivilegeError) Error() string {
	return fmt.Sprintf("meshwatch needs root, or at least %s, to record in the kernel: run it with sudo", strings.Join(e.Missing, ", "))
}

func isPrivilege(err error) bool {
	var p *PrivilegeError
	return errors.As(err, &p)
}

func isFailed(err error) bool {
	var f *failedError
	return errors.As(err, &f)
}

// effective are the process's effective capabilities, as bits.
func effective() (uint64, error) {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

// seesProcesses says whether nothing but a process's own privileges can keep its namespace from us.
func seesProcesses() bool {
	have, err := effective()
	return err == nil && have&(1<<unix.CAP_SYS_PTRACE) != 0
}

func checkPrivileges() error {
	have, err := effective()
	if err != nil {
		return err
	}
	return lacking(have)
}

func lacking(have uint64) error {
	var missing []string
	for _, c := range capabilities {
		if c.needed && have&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if missing == nil {
		return nil
	}
	return &PrivilegeError{missing}
}

func privileges() []Result {
	have, err := effective()
	if err != nil {
		return []Result{{Feature: "capabilities", State: Missing, Why: err.Error()}}
	}
	return rate(have)
}

func rate(have uint64) []Result {
	var out []Result
	for _, c := range capabilities {
		r := Result{Feature: "capability " + c.name, State: Works, Why: c.use}
		if have&(1<<c.bit) == 0 {
			r.State, r.Do = Degraded, "run it with sudo, or give it this capability"
			if c.needed {
				r.State = Missing
			}
		}
		out = append(out, r)
	}
	return out
}
