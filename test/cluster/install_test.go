package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/tree"
)

// TestInstallInterrupted: who interrupts install.sh ends what it builds, too, and a second one says for what it waits.
func TestInstallInterrupted(t *testing.T) {
	want(t)
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	cache, fakes := t.TempDir(), t.TempDir()
	envoy, err := os.Readlink(tree.Cached(root, "envoy"))
	if err != nil {
		t.Fatal(err)
	}
	pids := filepath.Join(fakes, "pids")
	err = errors.Join(os.MkdirAll(filepath.Join(cache, filepath.Dir(envoy)), 0o755),
		os.WriteFile(filepath.Join(cache, envoy), []byte("#!/bin/sh\n"), 0o755),
		os.WriteFile(filepath.Join(fakes, "go"), []byte("#!/bin/sh\necho $$ >>"+pids+"\nexec sleep 300\n"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "MESHWATCH_TEST_CACHE="+cache, "PATH="+fakes+":"+os.Getenv("PATH"))
	first := startInstall(t, root, env, "building it")
	var pid int
	err = await.Until(ctxWithin(t, soon), func() bool {
		text, _ := os.ReadFile(pids) //nolint:errcheck // not yet
		n, _ := fmt.Sscan(string(text), &pid)
		return n == 1
	})
	if err != nil {
		t.Fatalf("install.sh builds nothing: %v", err)
	}
	second := startInstall(t, root, env, "waiting for it")
	second()
	first()
	if err := await.Until(ctxWithin(t, soon), func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }); err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Errorf("go build goes on without install.sh: %v", err)
	}
}

// startInstall starts install.sh as a shell's job, and waits until it has said something. interrupt is Ctrl-C.
func startInstall(t *testing.T, root string, env []string, words string) (interrupt func()) {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "test", "install.sh"), "cluster")
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	stop := context.AfterFunc(ctxWithin(t, soon), func() { _ = out.Close() })
	defer stop()
	said := bufio.NewScanner(out)
	for said.Scan() && !strings.Contains(said.Text(), words) {
	}
	if !strings.Contains(said.Text(), words) {
		t.Fatalf("install.sh does not say %q", words)
	}
	return func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		_ = cmd.Wait()
	}
}
