// Package bpf owns bpf(2): the flight recorder's programs, one Go handle for each, and the memory they share with user space.
//
// It needs Linux 6.6 (tcx), CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; no kprobe, no fentry, no syscall tracepoint, so that it
// loads where CONFIG_KPROBES is off and the kernel is locked down. See docs/architecture.md for the words.
package bpf
