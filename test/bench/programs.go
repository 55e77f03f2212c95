package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Program is what one BPF program did, by the kernel's own count (bpf_stats), which adds some 30 ns to every run.
type Program struct {
	Name           string  `json:"name"`
	RunsPerRequest float64 `json:"runs_per_request"`
	NsPerRun       float64 `json:"ns_per_run"`
	NsPerRequest   float64 `json:"ns_per_request"`
}

// Programs is a run with bpf_stats, recording or switched off.
type Programs struct {
	Programs       []Program `json:"programs"`
	RunsPerRequest float64   `json:"runs_per_request"`
	UsPerRequest   float64   `json:"us_per_request"`
}

// mine holds the agent's programs.
func (a *agent) mine() ([]*ebpf.Program, error) {
	if a.program != nil {
		return a.program, nil
	}
	ids, err := fdinfo(a.pid(), "prog_id")
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			return nil, fmt.Errorf("open the agent's program %d: %w", id, err)
		}
		a.program = append(a.program, p)
	}
	return a.program, nil
}

// programs measures them under the load there is, recording or switched off, in a run of its own: bpf_stats costs.
func (w *world) programs(ctx context.Context, on bool) error {
	p, err := w.a.programs(ctx, w.p.programs, on, w.count)
	if on {
		w.r.Recording = &p
	} else {
		w.r.Off = &p
	}
	return err
}

// programs counts the runs of the agent's programs over some time of a load that goes on.
func (a *agent) programs(ctx context.Context, d time.Duration, on bool, requests func() (uint64, error)) (out Programs, err error) {
	list, err := a.mine()
	if err != nil {
		return out, err
	}
	counting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return out, fmt.Errorf("switch bpf_stats on: %w", err)
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	a.record(on)
	if err := sleep(ctx, 100*time.Millisecond); err != nil {
		return out, err
	}
	before, err := readStats(list)
	if err != nil {
		return out, err
	}
	first, err := requests()
	if err != nil {
		return out, err
	}
	if err := sleep(ctx, d); err != nil {
		return out, err
	}
	after, err := readStats(list)
	if err != nil {
		return out, err
	}
	last, err := requests()
	if err != nil || last == first {
		return out, errors.Join(err, errors.New("count program runs: no requests"))
	}
	return perRequest(before, after, float64(last-first)), nil
}

type runs struct {
	count uint64
	time  time.Duration
}

func readStats(list []*ebpf.Program) (map[string]runs, error) {
	out := map[string]runs{}
	for _, p := range list {
		info, err := p.Info()
		if err != nil {
			return nil, fmt.Errorf("read program statistics: %w", err)
		}
		s, err := p.Stats()
		if err != nil {
			return nil, fmt.Errorf("read program statistics: %w", err)
		}
		r := out[info.Name]
		out[info.Name] = runs{r.count + s.RunCount, r.time + s.Runtime}
	}
	return out, nil
}

func perRequest(before, after map[string]runs, requests float64) (out Programs) {
	for name, r := range after {
		n, ns := float64(r.count-before[name].count), float64(r.time-before[name].time)
		if n == 0 {
			continue
		}
		out.Programs = append(out.Programs, Program{name, n / requests, ns / n, ns / requests})
		out.RunsPerRequest += n / requests
		out.UsPerRequest += ns / requests / 1000
	}
	slices.SortFunc(out.Programs, func(x, y Program) int { return cmp.Compare(y.NsPerRequest, x.NsPerRequest) })
	return out
}

// others is an error when programs of another agent are loaded: it would record this load too.
func (a *agent) others() error {
	own, err := fdinfo(a.pid(), "prog_id")
	if err != nil {
		return err
	}
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); err != nil {
			return nil // no more
		}
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone
		}
		info, err := p.Info()
		_ = p.Close()
		if err == nil && strings.HasPrefix(info.Name, "mw_") && !slices.Contains(own, uint32(id)) {
			return fmt.Errorf("another agent was recording at the same time (program %d, %s): stop it", id, info.Name)
		}
	}
}
