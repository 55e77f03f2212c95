package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

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
