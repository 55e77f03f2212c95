package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/nets"
)

// tag is the environment variable by which a lab knows its processes when their records are lost.
const tag = "MESHWATCH_LAB"

// Process is something that the lab runs. A pid alone may be another process's by now; with its start time it is not.
type Process struct {
	Name  string `json:"name"`  // POD-app, POD-sidecar, POD-proxy, POD-load, or what runs beside the pods
	Pod   string `json:"pod"`   // empty: beside them
	PID   int    `json:"pid"`   //
	Start uint64 `json:"start"` // clock ticks since boot, from /proc/PID/stat
}

// describe looks a running process up.
func describe(name string, pid int) (Process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, fmt.Errorf("look up process %s: %w", name, err)
	}
	// The command name may hold anything, also spaces: the fields after it start behind the last parenthesis.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const startTime = 22 - 3 // proc(5) counts from 1, and fields starts at the third
	if len(fields) <= startTime {
		return Process{}, fmt.Errorf("look up process %s: %d fields in its stat", name, len(fields))
	}
	start, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("look up process %s: %w", name, err)
	}
	return Process{Name: name, PID: pid, Start: start}, nil
}

// Running says whether the process is still there. A zombie counts as gone.
func (p Process) Running() bool {
	fd, err := p.open()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !exited(fd, 0)
}

// open returns a pidfd of the process, or an error when it is gone.
func (p Process) open() (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return -1, fmt.Errorf("open process %s: %w", p.Name, err)
	}
	if now, err := describe(p.Name, p.PID); err != nil || now.Start != p.Start {
		return -1, errors.Join(fmt.Errorf("open process %s: pid %d is another one now", p.Name, p.PID), unix.Close(fd))
	}
	return fd, nil
}

// exited waits for the end of the process behind a pidfd.
func exited(fd int, wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	n, err := unix.Poll(fds, int(wait.Milliseconds()))
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(fds, int(wait.Milliseconds()))
	}
	return n > 0
}

// terminate ends processes: it asks all of them first, and kills those that are still there after a while.
func terminate(procs []Process) error {
	const grace, last = 3 * time.Second, 5 * time.Second
	var wg sync.WaitGroup
	errs := make([]error, len(procs))
	for i, p := range procs {
		fd, err := p.open()
		if err != nil {
			continue // gone
		}
		wg.Go(func() {
			defer unix.Close(fd)
			_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
			if exited(fd, grace) {
				return
			}
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			if !exited(fd, last) {
				errs[i] = fmt.Errorf("end process %s: pid %d survived SIGKILL for %s", p.Name, p.PID, last)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// tagged finds the lab's processes by their environment.
func tagged(id string) []Process {
	var found []Process
	want := []byte(tag + "=" + id + "\x00")
	files, _ := filepath.Glob("/proc/[0-9]*/environ") //nolint:errcheck // the pattern is right
	for _, f := range files {
		env, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(env, want) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f))) //nolint:errcheck // the pattern says so
		if p, err := describe("tagged", pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// spawner starts processes on a thread of its own that lives as long as the lab: the kernel sends a parent-death
// signal when the thread ends that started the child, not when the process does.
type spawner struct {
	jobs chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// start starts a command in a namespace; an empty name is the machine's own.
func (s *spawner) start(ns string, cmd *exec.Cmd) error {
	errs := make(chan error)
	s.jobs <- func() {
		if ns == "" {
			errs <- cmd.Start()
			return
		}
		err, _ := nets.Named(ns).Switch(cmd.Start)
		errs <- err
	}
	return <-errs
}

func (s *spawner) close() {
	close(s.jobs)
	<-s.done
}

// program says what to start in a pod.
type program struct {
	pod    Pod
	kind   string // app, sidecar, proxy, load; beside the pods a name
	uid    uint32
	path   string
	args   []string
	env    []string   // added to the lab's own
	stdout io.Writer  // nil: the log file
	files  []*os.File // inherited as descriptors 3 and on
}

// start starts a program in its pod, and records it. Its output goes to logs/NAME.log.
func (l *Lab) start(prog program) (*exec.Cmd, Process, error) {
	name := strings.TrimPrefix(prog.pod.Name+"-"+prog.kind, "-")
	log, err := os.OpenFile(l.path("logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, Process{}, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(prog.path, prog.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if prog.stdout != nil {
		cmd.Stdout = prog.stdout
	}
	cmd.ExtraFiles = prog.files
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), tag + "=" + l.ID}
	cmd.Env = append(cmd.Env, prog.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // Ctrl-C is for the lab, which then ends its processes in order
		Credential: &syscall.Credential{Uid: prog.uid, Gid: prog.uid},
	}
	if !l.Options.Detached || prog.stdout != nil { // what is read from here ends with here
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := l.spawner().start(prog.pod.Netns, cmd); err != nil {
		return nil, Process{}, fmt.Errorf("start %s: %w", name, err)
	}
	p, err := describe(name, cmd.Process.Pid)
	if err != nil {
		return nil, p, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	p.Pod = prog.pod.Name
	return cmd, p, l.record(p)
}

// serve starts a program that runs until it is stopped.
func (l *Lab) serve(prog program) error {
	cmd, _, err := l.start(prog)
	if err != nil {
		return err
	}
	l.children.Go(func() { _ = cmd.Wait() }) // its end is seen by what no longer answers
	return nil
}

// stopProcesses ends those of the lab's recorded processes that are chosen, and forgets them.
func (l *Lab) stopProcesses(chosen func(Process) bool) error {
	all, err := readProcesses(l.dir)
	if err != nil {
		return err
	}
	var procs []Process
	for _, p := range all {
		if chosen(p) {
			procs = append(procs, p)
		}
	}
	err = terminate(procs)
	for _, p := range procs {
		err = errors.Join(err, os.Remove(l.recordPath(p)))
	}
	return err
}

// command runs a program to its end; its error says what it printed.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	return commandError(name, args, out, err)
}

// commandIn runs a program in a namespace with stdin.
func commandIn(ns, stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := nets.Named(ns).Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return commandError(name, args, out.Bytes(), err)
}

func commandError(name string, args []string, out []byte, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
}
