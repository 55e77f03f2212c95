package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/tree"
)

// defaultSidecar is Envoy where test/install.sh could fetch it.
func defaultSidecar(root string) Sidecar {
	if exists(tree.Cached(root, "envoy")) {
		return SidecarEnvoy
	}
	return SidecarHAProxy
}

// Missing says why a lab cannot be built here, one error for each reason; nil when it can.
func Missing(sidecar Sidecar) error {
	root, err := tree.Root()
	if err != nil {
		return err
	}
	if sidecar == "" {
		sidecar = defaultSidecar(root)
	}
	return check(root, sidecar)
}

func check(root string, sidecar Sidecar) error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("build a lab: network namespaces need root, run it as root"))
	}
	for _, name := range []string{"ip", "iptables-restore", "ip6tables-restore", "haproxy", "wrk"} {
		if _, err := exec.LookPath(name); err != nil {
			errs = append(errs, fmt.Errorf("build a lab: %s is not installed, run test/install.sh", name))
		}
	}
	switch {
	case sidecar != SidecarEnvoy && sidecar != SidecarHAProxy:
		errs = append(errs, fmt.Errorf("build a lab: sidecar %q is not one of envoy, haproxy", sidecar))
	case sidecar == SidecarEnvoy && !exists(tree.Cached(root, "envoy")):
		errs = append(errs, errors.New("build a lab: envoy is not installed, run test/install.sh or choose haproxy"))
	}
	return errors.Join(errs...)
}

// buildPrograms builds what runs in pods: the app, and what speaks gRPC if that is asked for.
func (l *Lab) buildPrograms(ctx context.Context) error {
	err := build(ctx, l.root, "./test/lab/app", "lab-app", l.path("app"))
	if err == nil && l.Options.GRPC {
		err = build(ctx, l.root, "./test/lab/rpcapp", "lab-rpcapp", l.path("rpcapp"))
	}
	return err
}

// build builds a program, and copies it to where every user can run it.
func build(ctx context.Context, root, from, name, to string) error {
	bin := tree.Cached(root, "bin", name)
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return fmt.Errorf("build %s: %w", from, err)
	}
	unlock, err := lock(bin + ".lock") // go build replaces the file: another lab may be copying it
	if err != nil {
		return fmt.Errorf("build %s: %w", from, err)
	}
	defer unlock()
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-o", bin, from) // as make build: one cache
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", from, err, out)
	}
	return copyProgram(bin, to)
}

// lock waits for an exclusive lock on a file, and returns what gives it back.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy program %s: %w", from, err)
	}
	return nil
}

// envoy is the path of an Envoy that the sidecars' user can run: the cached one, or a copy when a directory above it
// is closed to others.
func (l *Lab) envoy() (string, error) {
	bin, err := filepath.EvalSymlinks(tree.Cached(l.root, "envoy"))
	if err != nil {
		return "", fmt.Errorf("find envoy: %w", err)
	}
	for d := filepath.Dir(bin); d != "/"; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return "", fmt.Errorf("find envoy: %w", err)
		}
		if info.Mode()&0o001 == 0 {
			to := l.path("envoy")
			if exists(to) {
				return to, nil
			}
			return to, copyProgram(bin, to)
		}
	}
	return bin, nil
}
