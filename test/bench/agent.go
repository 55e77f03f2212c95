package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
}

// program is what is measured: the agent's, and its configuration, empty for none.
type program struct{ bin, config string }

// startWithin bounds the agent's start: loading takes half a second of CPU.
const startWithin = 20 * time.Second

// build builds the agent of this tree into dir.
func build(ctx context.Context, root, dir string) (string, error) {
	bin := filepath.Join(dir, "meshwatch")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", bin, "./cmd/meshwatch")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w: %s", err, out)
	}
	return bin, nil
}

// startAgent starts it with everything as by default, but that nothing goes out: no backend is measured.
func startAgent(ctx context.Context, prog program) (_ *agent, err error) {
	dir, err := os.MkdirTemp("", "meshwatch-bench")
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	a := &agent{dir: dir, exited: make(chan error, 1), client: control.NewClient(filepath.Join(dir, "control.sock"))}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	defer log.Close() //nolint:errcheck // the agent has its own
	a.cmd = exec.Command(prog.bin, "agent", "--config", prog.config, "--otlp", "off", "--metrics", "127.0.0.1:0",
		"--control", filepath.Join(dir, "control.sock"))
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
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
	return a, nil
}

// ready waits until it records, and answers.
func (a *agent) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		found, err := a.find()
		if err != nil {
			return err
		}
		if found && atomic.LoadUint32(a.enabled()) != 0 {
			if _, err := a.client.Status(ctx); err == nil {
				return nil
			}
		}
		if err := errors.Join(a.alive(), sleep(ctx, 50*time.Millisecond)); err != nil {
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
func (a *agent) enabled() *uint32      { return (*uint32)(unsafe.Pointer(&a.word[0])) }
func (a *agent) flights() uint64       { return atomic.LoadUint64((*uint64)(unsafe.Pointer(&a.word[64]))) }
func (a *agent) headBytes() uint32     { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&a.word[128]))) }
func (a *agent) record(on bool)        { atomic.StoreUint32(a.enabled(), map[bool]uint32{true: 1}[on]) }
func (a *agent) pid() int              { return a.cmd.Process.Pid }
func (a *agent) freeze() error         { return a.cmd.Process.Signal(syscall.SIGSTOP) }
func (a *agent) thaw() error           { return a.cmd.Process.Signal(syscall.SIGCONT) }
func (a *agent) cpu() (float64, error) { return processCPU(a.pid()) }

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

// stop ends the process, and removes what it left.
func (a *agent) stop() error {
	var errs []error
	for _, p := range a.program {
		errs = append(errs, p.Close())
	}
	if a.word != nil {
		errs = append(errs, unix.Munmap(a.word))
	}
	_ = a.thaw()
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // both fail when it has ended already
	select {
	case err := <-a.exited:
		errs = append(errs, err)
	case <-time.After(10 * time.Second):
		errs = append(errs, errors.New("the agent does not stop: killed after 10 s"), a.cmd.Process.Kill(), <-a.exited)
	}
	if err := errors.Join(append(errs, os.RemoveAll(a.dir))...); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	return nil
}
