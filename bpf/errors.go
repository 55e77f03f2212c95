package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrNoDevice says that a link was gone when it was to be attached.
var ErrNoDevice = unix.ENODEV

// explain adds to a kernel error what the user can do about it.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES) && !errors.As(err, &verifier):
		return fmt.Errorf("%w (meshwatch needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: run it as root or give it these)", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w (`meshwatch check` lists what this kernel has)", err)
	}
	return err
}
