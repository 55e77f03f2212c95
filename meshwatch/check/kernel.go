package check

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/netpath"
)

// kernel looks at what the kernel says of itself.
func kernel() []Result {
	out := []Result{release(), typeInformation()}
	out = append(out, found("tracepoint", bpf.Tracepoints)...)
	out = append(out, found("kernel function", bpf.Kfuncs)...)
	return append(out, lockdown(os.ReadFile("/sys/kernel/security/lockdown")),
		Result{Feature: "kprobes, fentry", State: Works, Why: "not used, so it makes no difference whether the kernel has them"})
}

func release() Result {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Result{Feature: "kernel", State: Degraded, Why: err.Error()}
	}
	return Result{Feature: "kernel", State: Works, Why: "Linux " + unix.ByteSliceToString(u.Release[:]) +
		"; features are tried, the version is not looked at"}
}

func typeInformation() Result {
	r := Result{Feature: "type information (BTF)", State: Works, Why: "/sys/kernel/btf/vmlinux: programs fit this kernel's structures"}
	if _, err := bpf.Kfuncs(); err != nil {
		r.State, r.Why, r.Do = Missing, err.Error(), "use a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount /sys"
	}
	return r
}

func found(kind string, look func() ([]bpf.Feature, error)) (out []Result) {
	list, err := look()
	if err != nil {
		return nil // typeInformation says so
	}
	for _, f := range list {
		r := Result{Feature: kind + " " + f.Name, State: Works, Why: f.Use}
		if !f.Found {
			r.State, r.Do = Missing, "use Linux "+f.Since+" or later"
		}
		out = append(out, r)
	}
	return out
}

// lockdown rates what /sys/kernel/security/lockdown says: "none [integrity] confidentiality".
func lockdown(text []byte, err error) Result {
	r := Result{Feature: "lockdown", State: Works}
	_, rest, chosen := strings.Cut(string(text), "[")
	mode, _, _ := strings.Cut(rest, "]")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.Why = "the kernel has none, or securityfs is not mounted"
	case err != nil:
		r.State, r.Why = Degraded, err.Error()
	case chosen && mode == "confidentiality":
		r.Why = "confidentiality: the programs read no kernel memory by bpf_probe_read, so they load"
	default:
		r.Why = strings.TrimSpace(mode)
	}
	return r
}

// node looks at what is outside the kernel's BPF: processes, namespaces, bridges.
func node() []Result {
	return []Result{namespaces(), bridges(os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables"))}
}

func namespaces() Result {
	r := Result{Feature: "network namespaces", State: Works}
	state, counts, err := netpath.Scan()
	var problems []string
	if state != nil {
		for _, n := range state.Sorted() {
			if n.Problem != "" {
				problems = append(problems, n.Name+": "+n.Problem)
			}
		}
	}
	switch {
	case err != nil:
		r.State, r.Why, r.Do = Missing, err.Error(), "give the agent the host's /proc (hostPID: true)"
	case counts.Denied > 0 && !seesProcesses():
		r.State, r.Why = Degraded, fmt.Sprintf("%d processes may not be looked at: pods can be missing", counts.Denied)
		r.Do = "run it with sudo, or give it CAP_SYS_PTRACE"
	case len(problems) > 0:
		r.State, r.Why, r.Do = Degraded, strings.Join(problems, "; "), "`meshwatch path` shows what is there"
	default:
		r.Why = fmt.Sprintf("%d found by process and by mount", len(state.Namespaces))
		if counts.Denied > 0 { // of processes that have a capability that this one lacks
			r.Why += fmt.Sprintf("; %d processes may not be looked at even so", counts.Denied)
		}
	}
	return r
}

// bridges rates br_netfilter: without it bridged packets do not pass iptables, which is how the node is, not a fault.
func bridges(text []byte, err error) Result {
	r := Result{Feature: "br_netfilter", State: Works, Why: "bridged packets pass iptables here, and these hops are seen"}
	if err != nil || !bytes.Equal(bytes.TrimSpace(text), []byte("1")) {
		r.Why = "off: bridged packets do not pass iptables here, so there are no such hops to see"
	}
	return r
}
