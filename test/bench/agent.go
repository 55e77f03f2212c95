package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/meshwatch/control"
)

// agent is the real program, as a user runs it, in a process of its own. Recording is switched from outside, by the word in
// the recorder's memory that the programs look at: that costs a store, and the agent knows nothing of it.
type agent struct {
	cmd     *exec.Cmd
	exited  chan error
	dir     string
	client  *control.Client
	word    []byte // mw_control, mapped
	bytes   uint64 // of all its maps, as the kernel accounts them
	program []*ebpf.Program
	started time.Duration // until it recorded and answered
}

// program is what is measured: the agent's, and its configuration, empty for the bench's own, which has these lines besides.
type program struct{ bin, config, lines string }

// asDefault is the depth of an agent whose configuration does not name one.
const asDefault = "default"

// configuration is what the bench has the agent read: one request in a hundred kept, as on a busy node, nothing recorded in other
// labs, and a depth.
func configuration(depth string, exclude []string) string {
	var b strings.Builder
	b.WriteString("keep: {ratio: 0.01, per_second: 0}\n")
	if depth != asDefault {
		fmt.Fprintf(&b, "depth: %s\n", depth)
	}
	if len(exclude) > 0 {
		b.WriteString("namespaces:\n  exclude:\n")
	}
	for _, pattern := range exclude {
		fmt.Fprintf(&b, "    - %q\n", pattern)
	}
	return b.String()
}

// knowsDepth says whether the agent has the key depth: it ends with an error that names the key if not.
func knowsDepth(ctx context.Context, prog program) (bool, error) {
	a, err := startAgent(ctx, prog, "edges", nil)
	if err == nil {
		return true, a.stop()
	}
	if strings.Contains(err.Error(), "depth") {
		return false, nil
	}
	return false, err
}

// startWithin bounds the agent's start: loading takes half a second of CPU, attaching to 250 namespaces more.
const startWithin = 60 * time.Second

// startAgent starts it as a user would, but that nothing goes out: no backend is measured.
func startAgent(ctx context.Context, prog program, depth string, exclude []string) (_ *agent, err error) {
	dir, err := os.MkdirTemp("", "meshwatch-bench")
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	a := &agent{dir: dir, exited: make(chan error, 1), client: control.NewClient(filepath.Join(dir, "control.sock"))}
	if prog.config == "" {
		prog.config = filepath.Join(dir, "agent.yaml")
		if err := os.WriteFile(prog.config, []byte(configuration(depth, exclude)+prog.lines), 0o644); err != nil {
			return nil, fmt.Errorf("start the agent: %w", errors.Join(err, os.RemoveAll(dir)))
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	defer log.Close() //nolint:errcheck // the agent has its own
	a.cmd = exec.Command(prog.bin, "agent", "--config", prog.config, "--otlp", "off", "--metrics", "127.0.0.1:0",
		"--control", filepath.Join(dir, "control.sock"))
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started, begin := make(chan error), time.Now()
	go func() { // the signal comes when the thread ends that started the child: this one waits for it
		runtime.LockOSThread()
		err := a.cmd.Start()
		started <- err
		if err == nil {
			a.exited <- a.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the agent: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	if err := a.ready(ctx); err != nil {
		return nil, errors.Join(err, a.stop())
	}
	a.started = time.Since(begin)
	return a, nil
}

// ready waits until it records, and answers.
func (a *agent) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		found, err := a.find()
		if err == nil && found && atomic.LoadUint32(a.enabled()) != 0 {
			if _, err := a.client.Status(ctx); err == nil {
				return nil
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil // it has ended: what is next says so
		}
		if err := errors.Join(err, sleep(ctx, 10*time.Millisecond), a.alive()); err != nil {
			log, _ := os.ReadFile(filepath.Join(a.dir, "log")) //nolint:errcheck // what there is
			return fmt.Errorf("wait for the agent to record: %w: %s", err, log)
		}
	}
}

// find maps the agent's control block and holds its programs, once they are there.
func (a *agent) find() (bool, error) {
	ids, err := fdinfo(a.cmd.Process.Pid, "map_id")
	if err != nil || a.word != nil {
		return a.word != nil, err
	}
	a.bytes = 0
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			continue // one of those it loads only to try
		}
		info, err := m.Info()
		if err == nil {
			n, _ := info.Memlock()
			a.bytes += n
			if info.Name == "mw_control" {
				a.word, err = unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			}
		}
		if err := errors.Join(err, m.Close()); err != nil {
			return false, fmt.Errorf("find the agent's memory: %w", err)
		}
	}
	return a.word != nil, nil
}

// The control block: bpf/c/flight.h has struct control.
func (a *agent) enabled() *uint32  { return (*uint32)(unsafe.Pointer(&a.word[0])) }
func (a *agent) flights() uint64   { return atomic.LoadUint64((*uint64)(unsafe.Pointer(&a.word[64]))) }
func (a *agent) headBytes() uint32 { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&a.word[128]))) }
func (a *agent) record(on bool)    { atomic.StoreUint32(a.enabled(), map[bool]uint32{true: 1}[on]) }
func (a *agent) pid() int          { return a.cmd.Process.Pid }
func (a *agent) freeze() error     { return a.cmd.Process.Signal(syscall.SIGSTOP) }
func (a *agent) thaw() error       { return a.cmd.Process.Signal(syscall.SIGCONT) }

// alive is an error when the process has ended.
func (a *agent) alive() error {
	select {
	case err := <-a.exited:
		a.exited <- err
		return fmt.Errorf("the agent has ended: %w", err)
	default:
		return nil
	}
}

// end ends the process. It may be called again.
func (a *agent) end() error {
	_ = a.thaw()
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // both fail when it has ended already
	var errs []error
	select {
	case err := <-a.exited:
		errs = append(errs, err)
	case <-time.After(10 * time.Second):
		errs = append(errs, errors.New("the agent does not stop: killed after 10 s"), a.cmd.Process.Kill(), <-a.exited)
	}
	err := errors.Join(errs...)
	a.exited <- err
	return err
}

// stop ends the process, and removes what it left.
func (a *agent) stop() error {
	var errs []error
	for _, p := range a.program {
		errs = append(errs, p.Close())
	}
	if a.word != nil {
		errs = append(errs, unix.Munmap(a.word))
	}
	if err := errors.Join(append(errs, a.end(), os.RemoveAll(a.dir))...); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	return nil
}
