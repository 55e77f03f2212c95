package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshwatch/meshwatch/test/await"
	"github.com/meshwatch/meshwatch/test/tree"
)

// tag is in the environment of every process that is started here, not in that of containers.
const tag = "MESHWATCH_CLUSTER=1"

// spaces are the namespaces in which a command runs.
type spaces int

// The choices. Commands that read files of the caller's keep its mounts.
const (
	network spaces = iota
	networkAndMounts
)

// enter is the command line that runs a program in a node's namespaces.
func enter(node int, in spaces, argv []string) ([]string, error) {
	pid, err := keeper(node)
	if err != nil {
		return nil, err
	}
	line := []string{"nsenter", "--target=" + strconv.Itoa(pid), "--net"}
	if in == networkAndMounts {
		line = append(line, "--mount")
	}
	return append(append(line, "--"), argv...), nil
}

// command prepares a program in a node's namespaces and in a cgroup of its own, so that it ends with the cluster. The
// caller starts it and then calls started.
func (c *Cluster) command(node int, in spaces, name string, argv ...string) (cmd *exec.Cmd, started func(), err error) {
	line, err := enter(node, in, argv)
	if err != nil {
		return nil, nil, err
	}
	_, cgroup, err := sysCgroup(name)
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.Command(line[0], line[1:]...)
	cmd.Env = []string{
		tag,
		"PATH=" + strings.Join([]string{tree.Cached(c.root, "bin"), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}, ":"),
		"KUBECONFIG=" + kubeconfig("admin"),
		"HOME=" + path("home"), // what kubectl and helm cache
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	return cmd, func() { _ = cgroup.Close() }, nil
}

// serve starts a program that runs until the cluster is taken down. Its output goes to logs/nN-NAME.log.
func (c *Cluster) serve(node int, name string, argv ...string) error {
	name = nodeName(node) + "-" + name
	log, err := os.OpenFile(path("logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd, started, err := c.command(node, networkAndMounts, name, argv...)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer started()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setsid = true // outlives the caller's terminal
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	go func() { _ = cmd.Wait() }() // reaps it if it ends while this process lives; its end is seen by what no longer answers
	return nil
}

// run runs a program in a node to its end and returns what it wrote to its standard output. Its error says what it wrote to
// standard error.
func (c *Cluster) run(ctx context.Context, node int, in spaces, stdin io.Reader, argv ...string) ([]byte, error) {
	var out bytes.Buffer
	err := c.runTo(ctx, node, in, stdin, &out, argv...)
	return out.Bytes(), err
}

func (c *Cluster) runTo(ctx context.Context, node int, in spaces, stdin io.Reader, stdout io.Writer, argv ...string) error {
	cmd, started, err := c.command(node, in, "run", argv...)
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &stderr
	cmd.WaitDelay = time.Second // what it started and left may keep its output open
	err = cmd.Start()
	started()
	if err != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(argv[0]), err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(append([]string{filepath.Base(argv[0])}, argv[1:]...), " "),
			errors.Join(context.Cause(ctx), err), bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// Run runs a program of the machine in a node's network and mount namespaces.
func (c *Cluster) Run(ctx context.Context, node int, argv ...string) ([]byte, error) {
	return c.run(ctx, node, networkAndMounts, nil, argv...)
}

// processOf finds a process of ours by its cgroup.
func processOf(name string) (int, error) {
	trees, err := hierarchies()
	if err != nil {
		return 0, err
	}
	pids := members(filepath.Join(trees.v2, cgroupRoot, "sys", name))
	if len(pids) == 0 {
		return 0, fmt.Errorf("find process %s: it is not running", name)
	}
	return pids[0], nil
}

// Interactive runs a program in a node with this process's terminal, standard input and output.
func (c *Cluster) Interactive(ctx context.Context, node string, argv ...string) error {
	n, err := nodeNumber(node)
	if err != nil {
		return err
	}
	cmd, started, err := c.command(n, networkAndMounts, "run", argv...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Start()
	started()
	if err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	return cmd.Wait()
}

// end sends a process of ours a signal, and waits until nothing is left in its cgroup.
func end(ctx context.Context, pid int, name string, sig os.Signal) error {
	proc, err := os.FindProcess(pid) // holds a pidfd: not another process's by then
	if err != nil {
		return fmt.Errorf("end %s: %w", name, err)
	}
	defer func() { _ = proc.Release() }()
	if err := proc.Signal(sig); err != nil {
		return fmt.Errorf("end %s: %w", name, err)
	}
	if err := await.Until(ctx, func() bool { _, err := processOf(name); return err != nil }); err != nil {
		return fmt.Errorf("end %s: %w", name, err)
	}
	return nil
}
