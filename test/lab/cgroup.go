package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// quota is a share of one CPU as the scheduler accounts it, in microseconds: in the kernel's default period, or in a longer
// one where that would leave less than it takes as a quota.
func quota(percent float64) (quota, period int) {
	const defaultPeriod, leastQuota, longest = 100_000, 1_000, 1_000_000
	period = min(max(defaultPeriod, int(leastQuota*100/percent)), longest)
	return max(int(percent/100*float64(period)), leastQuota), period
}

// throttle puts the pod's sidecar into a cgroup with a share of one CPU.
func (l *Lab) throttle(pod string, percent float64) error {
	proc, err := l.sidecarOf(pod)
	if err != nil {
		return err
	}
	root, v2, err := l.cpuRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, netnsPrefix+l.ID+"-"+pod)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	quota, period := quota(percent)
	if v2 {
		err = write(dir, "cpu.max", fmt.Sprintf("%d %d", quota, period))
	} else {
		err = errors.Join(write(dir, "cpu.cfs_period_us", strconv.Itoa(period)), write(dir, "cpu.cfs_quota_us", strconv.Itoa(quota)))
	}
	if err != nil {
		return err
	}
	return write(dir, "cgroup.procs", strconv.Itoa(proc.PID))
}

// unthrottle puts it back into the root cgroup, and removes its own.
func (l *Lab) unthrottle(pod string) error {
	root, _, err := l.cpuRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, netnsPrefix+l.ID+"-"+pod)
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, pid := range strings.Fields(string(procs)) {
		err = errors.Join(err, write(root, "cgroup.procs", pid))
	}
	return errors.Join(err, os.Remove(dir))
}

func write(dir, file, value string) error {
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("set up cgroup: %w", err)
	}
	return nil
}

// cpuRoot is a hierarchy with the CPU controller: version 1 where it is mounted, else version 2, else version 1 mounted
// for this lab.
func (l *Lab) cpuRoot() (dir string, v2 bool, err error) {
	for _, r := range cpuRoots() {
		return r.dir, r.v2, nil
	}
	mount := l.path("cgroup")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		return "", false, fmt.Errorf("mount cgroup: %w", err)
	}
	if err := unix.Mount("cgroup", mount, "cgroup", 0, "cpu"); err != nil {
		return "", false, fmt.Errorf("mount cgroup with the CPU controller: %w", err)
	}
	return mount, false, nil
}

type cgroupRoot struct {
	dir string
	v2  bool
}

// cpuRoots are the mounted hierarchies with the CPU controller, version 1 first.
func cpuRoots() []cgroupRoot {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var v1, v2 []cgroupRoot
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		dir := f[1]
		switch {
		case f[2] == "cgroup" && strings.Contains(","+f[3]+",", ",cpu,"):
			v1 = append(v1, cgroupRoot{dir: dir})
		case f[2] == "cgroup2":
			enabled, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")) //nolint:errcheck // then it has none
			if strings.Contains(" "+strings.TrimSpace(string(enabled))+" ", " cpu ") {
				v2 = append(v2, cgroupRoot{dir: dir, v2: true})
			}
		}
	}
	return append(v1, v2...)
}

// cgroups are a lab's.
func cgroups(id string) []string {
	var found []string
	for _, r := range cpuRoots() {
		dirs, _ := filepath.Glob(filepath.Join(r.dir, netnsPrefix+id+"-*")) //nolint:errcheck // the pattern is right
		found = append(found, dirs...)
	}
	return found
}

// liftQuotas lets processes run that are to be ended: with too little CPU they take seconds for it.
func liftQuotas(id string) error {
	var err error
	for _, dir := range cgroups(id) {
		if exists(filepath.Join(dir, "cpu.max")) {
			err = errors.Join(err, write(dir, "cpu.max", "max"))
		} else {
			err = errors.Join(err, write(dir, "cpu.cfs_quota_us", "-1"))
		}
	}
	return err
}

// removeCgroups removes a lab's cgroups, whose processes are gone.
func removeCgroups(id string) error {
	var err error
	for _, dir := range cgroups(id) {
		err = errors.Join(err, os.Remove(dir))
	}
	return err
}
