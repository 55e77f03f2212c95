package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// group is a cgroup of processes whose CPU time the kernel adds up exactly: in µs, without ticks, with that of threads that have
// ended, by one read. Its controllers stay off: the processes compete as they would without it.
type group struct {
	dir, parent string
	stat        *os.File
}

// groupPrefix starts the names of cgroups.
const groupPrefix = "meshwatch-bench-"

// newGroup makes one, and removes empty ones that killed runs have left.
func newGroup(name string) (*group, error) {
	root, err := cgroup2()
	if err != nil {
		return nil, err
	}
	old, _ := filepath.Glob(filepath.Join(root, groupPrefix+"*")) //nolint:errcheck // the pattern is right
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(dir) // fails while someone is in it
		}
	}
	g := &group{dir: filepath.Join(root, fmt.Sprintf("%s%d-%s", groupPrefix, os.Getpid(), name)), parent: root}
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make a cgroup to count CPU time in: %w", err)
	}
	if g.stat, err = os.Open(filepath.Join(g.dir, "cpu.stat")); err != nil {
		return nil, errors.Join(fmt.Errorf("count CPU time: %w", err), os.Remove(g.dir))
	}
	return g, nil
}

// cgroup2 is where version 2 of the hierarchy is mounted.
func cgroup2() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("count CPU time: no cgroup2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

// add moves a process with all its threads into the group.
func (g *group) add(pid int) error {
	err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("count the CPU time of process %d: %w", pid, err)
	}
	return nil
}

// seconds is the CPU time used so far.
func (g *group) seconds() (float64, error) {
	var buf [1024]byte
	n, err := g.stat.ReadAt(buf[:], 0)
	if n == 0 {
		return 0, fmt.Errorf("count CPU time: %w", err)
	}
	return parseUsage(buf[:n])
}

func parseUsage(stat []byte) (float64, error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	us, ok := bytes.CutPrefix(line, []byte("usage_usec "))
	n, err := strconv.ParseUint(string(us), 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("count CPU time: cpu.stat begins with %q, not with usage_usec", line)
	}
	return float64(n) / 1e6, nil
}

// close removes the group; who is still in it goes back.
func (g *group) close() error {
	procs, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.procs")) //nolint:errcheck // then there are none
	for pid := range strings.FieldsSeq(string(procs)) {
		_ = os.WriteFile(filepath.Join(g.parent, "cgroup.procs"), []byte(pid), 0) // gone meanwhile
	}
	return errors.Join(g.stat.Close(), os.Remove(g.dir))
}

// softirqs reads the CPU time of the kernel's threads that carry packets when there are too many to do it on the way.
type softirqs []*os.File

func openSoftirqs() (list softirqs, err error) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm") //nolint:errcheck // the pattern is right
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(comm), "ksoftirqd/") {
			continue
		}
		f, err := os.Open(filepath.Join(filepath.Dir(name), "schedstat"))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("count CPU time: %w", err), list.close())
		}
		list = append(list, f)
	}
	return list, nil
}

func (l softirqs) seconds() (sum float64, err error) {
	for _, f := range l {
		var buf [128]byte
		n, err := f.ReadAt(buf[:], 0)
		if n == 0 {
			return 0, fmt.Errorf("read a thread's schedstat: %w", err)
		}
		first, _, _ := strings.Cut(string(buf[:n]), " ")
		ns, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read a thread's schedstat: %w", err)
		}
		sum += float64(ns) / 1e9
	}
	return sum, nil
}

func (l softirqs) close() error {
	var errs []error
	for _, f := range l {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

const ticks = 100 // a second, in /proc: USER_HZ is 100 on every architecture that Go runs on but alpha

// boot is the beginning of the time that is counted from: any will do, as only differences are used.
var boot = time.Now()

// machine is the CPU seconds that this machine worked (all time less idle and stolen time), and those that were stolen. The kernel
// counts both exactly and prints them in ticks; it serves to see what else runs, not to measure.
func machine() (busy, steal float64, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseMachine(b, time.Since(boot).Seconds())
}

func parseMachine(stat []byte, now float64) (busy, steal float64, err error) {
	cpus := bytes.Count(stat, []byte("\ncpu"))
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	const idle, iowait, stolen = 4, 5, 8 // proc(5)
	if len(fields) <= stolen || fields[0] != "cpu" || cpus == 0 {
		return 0, 0, fmt.Errorf("read /proc/stat: unknown form %q", line)
	}
	var v [3]float64
	for i, f := range []int{idle, iowait, stolen} {
		n, err := strconv.ParseUint(fields[f], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		v[i] = float64(n) / ticks
	}
	return now*float64(cpus) - v[0] - v[1] - v[2], v[2], nil
}

// self is the CPU seconds that this program used.
func self() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// The nice values of what is measured, and of this program, which looks at it on time.
const niceMeasured, niceBench = -19, -20

// favour has the scheduler prefer a process to the rest of the machine, so that a compiler beside it takes little. What is measured is
// preferred all alike. A process in a session of its own competes by its session's autogroup, where there are these.
func favour(pid, nice int) error {
	if err := unix.Setpriority(unix.PRIO_PGRP, pid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("prefer process %d: %w", pid, err)
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(strconv.Itoa(nice)), 0) // not every kernel has it
	return nil
}
