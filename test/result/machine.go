package result

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Machine is where a run was, as far as it matters for the figures. It names nobody's host.
type Machine struct {
	Kernel string `json:"kernel"` // release
	CPUs   int    `json:"cpus"`   // that this process may use
	Memory uint64 `json:"memory_bytes"`
}

func thisMachine() (Machine, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Machine{}, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		return Machine{}, fmt.Errorf("ask for the size of memory: %w", err)
	}
	return Machine{unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), uint64(s.Totalram) * uint64(s.Unit)}, nil //nolint:unconvert // 32 bits elsewhere
}
