package netpath

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// procTable reads which process is in which network namespace. The agent itself counts as being where it was started,
// since its threads visit others.
type procTable struct {
	dir       *os.File // /proc
	self      int
	selfNetns uint32
	host      uint32 // namespace of pid 1, else of the agent
	known     map[int]*known
	tick      uint64
	last      pollResult
	pulse     string // of the look that made last
}

// known is a process whose namespace was read. Processes seldom change it, but young ones do (runc forks, then unshares), so
// those younger than youth calls are read at every look, others after rotation calls: a change is seen within 1.5 s.
type known struct {
	inum              uint32
	first, last, read uint64 // calls: at which it came, was listed, was read
}

const (
	youth    = 4
	rotation = 3
)

func openProcTable() (*procTable, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("open /proc: %w", err)
	}
	p := &procTable{dir: dir, self: os.Getpid(), known: map[int]*known{}}
	own, err := p.netns("self")
	if err != nil {
		dir.Close() //nolint:errcheck,gosec // read only
		return nil, fmt.Errorf("read our network namespace: %w", err)
	}
	p.selfNetns, p.host = own, own
	if first, err := p.netns("1"); err == nil {
		p.host = first
	}
	return p, nil
}

func (p *procTable) close() error { return p.dir.Close() }

// members is one namespace's processes: the lowest pids and how many there are.
type members struct {
	pids  []int
	count int
}

// pollResult is one look at all processes. It is not changed once made.
type pollResult struct {
	byNetns  map[uint32]*members
	denied   int // processes whose namespace we may not read
	vanished int // exited, or were zombies, while we looked
}

// read looks at all processes, or returns what it saw before when no task came or went since; then it looks all the same
// at every rotation-th call, for those that moved.
func (p *procTable) read() (pollResult, error) {
	p.tick++
	pulse := tasks()
	if pulse != "" && pulse == p.pulse && p.tick%rotation != 0 {
		return p.last, nil
	}
	res, err := p.look()
	if err == nil {
		p.last, p.pulse = res, pulse
	}
	return res, err
}

// tasks is the number of tasks and the newest pid, from /proc/loadavg: "0.1 0.2 0.3 1/345 6789". Empty when unreadable.
func tasks() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	_, counts, _ := bytes.Cut(data, []byte("/"))
	return string(counts)
}

// look costs a listing of /proc and, for young processes and a part of the others, a readlink: 4 to 10 µs each.
func (p *procTable) look() (pollResult, error) {
	res := pollResult{byNetns: map[uint32]*members{}}
	if _, err := p.dir.Seek(0, 0); err != nil {
		return res, fmt.Errorf("rewind /proc: %w", err)
	}
	names, err := p.dir.Readdirnames(-1)
	if err != nil {
		return res, fmt.Errorf("list /proc: %w", err)
	}
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		inum := p.selfNetns // our own entry cannot be missed: /proc lists us
		if pid != p.self {
			inum, err = p.remember(pid, name)
		}
		switch {
		case err == nil:
			res.add(inum, pid)
		case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
			res.denied++
		default:
			res.vanished++
		}
	}
	maps.DeleteFunc(p.known, func(_ int, k *known) bool { return k.last != p.tick })
	for _, m := range res.byNetns {
		slices.Sort(m.pids)
		m.count = len(m.pids)
		m.pids = m.pids[:min(len(m.pids), MaxPids)]
	}
	if m := res.byNetns[p.selfNetns]; !slices.Contains(m.pids, p.self) {
		m.pids[MaxPids-1] = p.self // the one that we surely may open; the highest, so the order stays
	}
	return res, nil
}

// remember is the namespace of a process, read unless it was lately.
func (p *procTable) remember(pid int, name string) (uint32, error) {
	k := p.known[pid]
	if k != nil && p.tick-k.first >= youth && p.tick-k.read < rotation {
		k.last = p.tick
		return k.inum, nil
	}
	inum, err := p.netns(name)
	if err != nil {
		return 0, err
	}
	if k == nil {
		k = &known{first: p.tick}
		p.known[pid] = k
	}
	k.inum, k.last, k.read = inum, p.tick, p.tick
	return inum, nil
}

func (r *pollResult) add(inum uint32, pid int) {
	m := r.byNetns[inum]
	if m == nil {
		m = &members{}
		r.byNetns[inum] = m
	}
	m.pids = append(m.pids, pid)
}

func (p *procTable) netns(pid string) (uint32, error) {
	var buf [32]byte // "net:[4294967295]" has 16
	n, err := unix.Readlinkat(int(p.dir.Fd()), pid+"/ns/net", buf[:])
	if err != nil {
		return 0, err
	}
	inum, ok := parseNetLink(buf[:n])
	if !ok {
		return 0, fmt.Errorf("read %q: not a network namespace", buf[:n])
	}
	return inum, nil
}

// processName is "pid:<pid> <comm>", without the comm of a process that has gone.
func processName(pid int) string {
	name := "pid:" + strconv.Itoa(pid)
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if comm = bytes.TrimSpace(comm); err == nil && len(comm) > 0 {
		name += " " + string(comm)
	}
	return name
}
