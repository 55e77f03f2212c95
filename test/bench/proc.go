package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const ticks = 100 // a second, in /proc: USER_HZ is 100 on every architecture that Go runs on but alpha

// machineBusy is the CPU seconds since boot that this machine worked: all time less idle and stolen time. The kernel measures
// idle time, but only samples at its tick what runs, and the agent's timers beat with the tick.
func machineBusy() (float64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(b, float64(time.Since(boot).Nanoseconds())/1e9)
}

// boot is the beginning of the time that parseBusy counts from: any will do, as only differences are used.
var boot = time.Now()

func parseBusy(stat []byte, now float64) (float64, error) {
	cpus := bytes.Count(stat, []byte("\ncpu"))
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	const idle, iowait, steal = 4, 5, 8 // proc(5)
	if len(fields) <= steal || fields[0] != "cpu" || cpus == 0 {
		return 0, fmt.Errorf("read /proc/stat: unknown form %q", line)
	}
	rest := 0.0
	for _, i := range []int{idle, iowait, steal} {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		rest += float64(n) / ticks
	}
	return now*float64(cpus) - rest, nil
}

// threadsCPU is the CPU seconds that the threads of processes used which are alive now, exact to the latest switch or tick.
func threadsCPU(pids []int) (sum float64, err error) {
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/task", pid)
		tasks, err := os.ReadDir(dir)
		if err != nil {
			return 0, fmt.Errorf("a process of the load is gone: %w", err)
		}
		for _, t := range tasks {
			b, err := os.ReadFile(dir + "/" + t.Name() + "/schedstat")
			if err != nil {
				continue // ended meanwhile
			}
			first, _, _ := strings.Cut(string(b), " ")
			ns, err := strconv.ParseUint(first, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read a thread's schedstat: %w", err)
			}
			sum += float64(ns) / 1e9
		}
	}
	return sum, nil
}

// processCPU is the CPU seconds that a process used, of all its threads; the kernel counts them exactly.
func processCPU(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseCPU(b)
}

func parseCPU(stat []byte) (float64, error) {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3 // proc(5) counts from 1, and fields starts at the third
	if len(fields) <= stime {
		return 0, fmt.Errorf("read a process's stat: %d fields", len(fields))
	}
	user, err := strconv.ParseUint(fields[utime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read a process's stat: %w", err)
	}
	system, err := strconv.ParseUint(fields[stime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read a process's stat: %w", err)
	}
	return float64(user+system) / ticks, nil
}

// memory is a value of /proc/PID/status in MB (10^6 bytes): VmRSS is resident now, VmHWM at most so far.
func memory(pid int, key string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("read /proc/%d/status: no %s", pid, key)
}

// fdinfo collects the numbers that a process's descriptors have under a key, such as map_id, each once.
func fdinfo(pid int, key string) (ids []uint32, err error) {
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	seen := map[uint32]bool{}
	for _, e := range entries {
		b, err := os.ReadFile(dir + "/" + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(b)) {
			value, ok := strings.CutPrefix(line, key+":")
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if ok && err == nil && !seen[uint32(n)] {
				seen[uint32(n)] = true
				ids = append(ids, uint32(n))
			}
		}
	}
	return ids, nil
}
