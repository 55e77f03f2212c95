package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the program as users have it, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "meshwatch-cli")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)                      //nolint:errcheck // temporary
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // others run it too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "meshwatch")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X main.version=v1-test", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// needRoot skips, or fails where a skip is a failure.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
		t.Fatal("not root, and MESHWATCH_TEST_PRIVILEGED=1 says that the privileged tests must run")
	}
	t.Skip(why + " needs root")
}

type result struct {
	code        int
	out, errors string
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	return c
}

func finish(t *testing.T, c *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); c.ProcessState == nil {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

func call(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return finish(t, command(ctx, args...))
}

// wants checks code and error: a sentence that starts with the program's name, after the log of an agent that had started, and
// never a panic.
func (r result) wants(t *testing.T, code int, text string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.errors, text) {
		t.Errorf("exit code %d, want %d; error %q, want %q", r.code, code, r.errors, text)
	}
	if code == exitOK {
		return
	}
	said := "\n" + r.errors
	if !strings.Contains(said, "\nmeshwatch: ") || strings.Contains(r.errors, "goroutine ") || strings.Contains(r.errors, "Usage:") {
		t.Errorf("not a clear sentence: %q", r.errors)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		text string
	}{
		{"", exitOK, ""},
		{"--help", exitOK, ""},
		{"version", exitOK, ""},
		{"verison", exitUsage, `unknown command "verison"`},
		{"--nonsense", exitUsage, "unknown flag: --nonsense (see meshwatch --help)"},
		{"agent --nonsense", exitUsage, "unknown flag: --nonsense"},
		{"agent extra", exitUsage, `unknown command "extra" for "meshwatch agent"`},
		{"trace a b", exitUsage, "accepts at most 1 arg(s), received 2"},
		{"trace -n 0", exitUsage, "--number is 0: it must be from 1 to 1000"},
		{"hops -o xml", exitUsage, `"xml" is neither table nor json`},
		{"agent --output yaml", exitUsage, `bad configuration: output is "yaml": it must be one of none, json`},
		{"agent --control here", exitUsage, `bad configuration: control.socket is "here": it must be an absolute path of at most 107 bytes`},
		{"agent --metrics 1", exitUsage, `bad configuration: metrics.listen is "1": it must be an address and a port`},
		{"agent --otlp grpc", exitUsage, `bad configuration: export.otlp is "grpc": it must be one of auto, on, off`},
		{"agent --config /nonexistent/m.yaml", exitUsage, "bad configuration in /nonexistent/m.yaml: open /nonexistent/m.yaml: no such file or directory"},
		{"topology who a.demo.svc", exitUsage, `"a.demo.svc" is no address: give an IP address, or one with a port`},
		{"topology who", exitUsage, "accepts 1 arg(s), received 0"},
		{"topology nonsense", exitUsage, `unknown command "nonsense" for "meshwatch topology"`},
		{"path no-such-namespace --control /nonexistent/s", exitNoAgent, `no network namespace is called "no-such-namespace"`},
	} {
		call(t, strings.Fields(c.args)...).wants(t, c.code, c.text)
	}
	if got := call(t, "version").out; !strings.HasPrefix(got, "meshwatch v1-test linux/") {
		t.Errorf("version: %q", got)
	}
}

func TestBadConfiguration(t *testing.T) {
	file := write(t, "keep:\n  raito: 1\n")
	call(t, "agent", "--config", file).wants(t, exitUsage,
		"bad configuration in "+file+": line 2: unknown key keep.raito: keep knows ratio, per_second, slow, errors")
	file = write(t, "capture_headers: [Authorization]")
	call(t, "agent", "--config", file).wants(t, exitUsage,
		"capture_headers has Authorization: it carries credentials, which must not leave the process; take it off the list")
}

func TestNoAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range []string{"status", "audit", "audit -o json", "hops", "hops --once", "hops -o json", "topology workloads", "topology services -o json", "topology resources", "topology who 10.0.0.1", "topology routes demo/a", "topology status", "trace", "trace 0af76519-16cd-03dd-8448-eb211c80319c"} {
		call(t, append(strings.Fields(args), "--control", socket)...).wants(t, exitNoAgent,
			"no agent answers at "+socket+": is it running? (start it with `meshwatch agent`; --control names another socket)")
	}
}

func TestPathWithoutAgent(t *testing.T) {
	r := call(t, "path", fmt.Sprint(os.Getpid()), "--control", "/nonexistent/s")
	r.wants(t, exitOK, "")
	table := "LINK"
	if os.Geteuid() != 0 {
		table = "problem: enter network namespace"
	}
	if !strings.Contains(r.out, table) {
		t.Errorf("no %s in %q", table, r.out)
	}
	if r = call(t, "path", "-o", "json", "--control", "/nonexistent/s"); !strings.HasPrefix(r.out, "[") {
		t.Errorf("no JSON: %.200q", r.out)
	}
}

// asNobody makes the command run without privileges.
func asNobody(c *exec.Cmd) *exec.Cmd {
	if os.Geteuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		c.Dir = "/"
	}
	return c
}

func TestNotRoot(t *testing.T) {
	finish(t, asNobody(command(t.Context(), "agent", "--control", "/tmp/meshwatch-test/s"))).wants(t, exitMissing,
		"meshwatch needs root, or at least CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, to record in the kernel: run it with sudo")
	r := finish(t, asNobody(command(t.Context(), "check")))
	r.wants(t, exitMissing, "the agent cannot run here, ")
	if !strings.Contains(r.out, "capability CAP_BPF") || !strings.Contains(r.out, "missing") {
		t.Errorf("no table: %q", r.out)
	}
}

// A kernel without type information is made by hiding it.
func TestMissingKernelFeature(t *testing.T) {
	needRoot(t, "hiding /sys/kernel/btf")
	if found, _ := filepath.Glob("/boot/vmlinu*"); found != nil {
		t.Skip("type information may also be read from " + found[0])
	}
	for _, args := range []string{"agent --control /tmp/meshwatch-test/s", "check"} {
		c := command(t.Context(), strings.Fields(args)...)
		c.Args = append([]string{"sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$0" "$@"`, binary}, c.Args[1:]...)
		c.Path = "/bin/sh"
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		r := finish(t, c)
		r.wants(t, exitMissing, "type information (BTF)")
	}
}

func TestMetricsPortTaken(t *testing.T) {
	needRoot(t, "starting an agent")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // of a test
	socket := filepath.Join(t.TempDir(), "s")
	call(t, "agent", "--control", socket, "--metrics", l.Addr().String()).wants(t, exitError,
		"address already in use (--metrics or metrics.listen names another address, empty turns it off)")
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the control socket stayed: %v", err)
	}
}

func TestBadEnvironment(t *testing.T) {
	needRoot(t, "starting an agent")
	c := command(t.Context(), "agent", "--control", filepath.Join(t.TempDir(), "s"), "--metrics=", "--otlp", "on")
	c.Env = append(c.Env, "OTEL_EXPORTER_OTLP_PROTOCOL=pigeon")
	finish(t, c).wants(t, exitUsage, `OTEL_EXPORTER_OTLP_PROTOCOL="pigeon": unknown protocol`)
}

func TestBadTopology(t *testing.T) {
	needRoot(t, "starting an agent")
	call(t, "agent", "--control", filepath.Join(t.TempDir(), "s"), "--metrics=", "--topology", "/nonexistent/t.yaml").wants(t, exitUsage,
		"/nonexistent/t.yaml: no such file or directory")
	file := write(t, "workload: []\n")
	call(t, "agent", "--control", filepath.Join(t.TempDir(), "s"), "--metrics=", "--topology", file).wants(t, exitUsage, file)
}
