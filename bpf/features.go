package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// MissingFeature says what of the kernel is missing, why it is needed and what to do.
type MissingFeature struct {
	Names []string
	Err   error // may be nil
}

func (e *MissingFeature) Error() string {
	text := fmt.Sprintf("this kernel lacks %s: meshwatch needs Linux 6.6 or later with CONFIG_DEBUG_INFO_BTF; `meshwatch check` tells more",
		strings.Join(e.Names, ", "))
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	return text
}

func (e *MissingFeature) Unwrap() error { return e.Err }

// Refused says whether an error of this package comes of what the kernel lacks or does not allow, rather than of what was asked.
func Refused(err error) bool {
	var missing *MissingFeature
	return errors.As(err, &missing) || errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EPERM)
}

// Feature is something of the kernel that the programs use, found by its name in the kernel's BTF.
type Feature struct {
	Name  string
	Since string // the Linux release that brought it
	Use   string // what is not seen without it
	Found bool
}

// tracepoints that the programs attach to (tp_btf).
var tracepoints = []Feature{
	{Name: "sock_send_length", Since: "6.3", Use: "who wrote a message, and where it ends"},
	{Name: "sock_recv_length", Since: "6.3", Use: "who read a message, and when"},
	{Name: "net_dev_queue", Since: "2.6.37", Use: "messages, where they leave (tc's hooks before Linux 6.11)"},
	{Name: "netif_receive_skb", Since: "2.6.37", Use: "full depth: devices on the way (tc's hooks before Linux 6.11)"},
	{Name: "tcp_probe", Since: "4.16", Use: "when a message came to the receiving socket"},
	{Name: "inet_sock_set_state", Since: "4.16", Use: "the end of a connection"},
	{Name: "tcp_retransmit_skb", Since: "4.15", Use: "segments that were sent again"},
	{Name: "kfree_skb", Since: "2.6.30", Use: "packets that the kernel dropped, and why"},
	{Name: "tcp_send_reset", Since: "4.15", Use: "connections that this node reset"},
	{Name: "tcp_receive_reset", Since: "4.15", Use: "connections that the other side reset"},
}

// kfuncs are kernel functions that the programs call.
var kfuncs = []Feature{
	{Name: "bpf_dynptr_from_skb", Since: "6.4", Use: "reading packets at netfilter hooks"},
	{Name: "bpf_cast_to_kern_ctx", Since: "6.2", Use: "which network namespace a packet is in"},
	{Name: "bpf_rdonly_cast", Since: "6.2", Use: "reading packet headers"},
}

// Tracepoints are those that the programs attach to. The error is a *MissingFeature where the kernel has no BTF.
func Tracepoints() ([]Feature, error) {
	return find(tracepoints, func(s *btf.Spec, name string) error {
		var t *btf.Typedef
		return s.TypeByName("btf_trace_"+name, &t)
	})
}

// Kfuncs are those that the programs call, as Tracepoints.
func Kfuncs() ([]Feature, error) {
	return find(kfuncs, func(s *btf.Spec, name string) error {
		var f *btf.Func
		return s.TypeByName(name, &f)
	})
}

func find(list []Feature, in func(*btf.Spec, string) error) ([]Feature, error) {
	list = slices.Clone(list)
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return list, &MissingFeature{Names: []string{"type information (BTF) at /sys/kernel/btf/vmlinux"}, Err: err}
	}
	for i := range list {
		list[i].Found = in(spec, list[i].Name) == nil
	}
	return list, nil
}

// CheckFeatures says what of Tracepoints and Kfuncs this kernel lacks: nil or a *MissingFeature. Some 10 ms, which Load saves.
func CheckFeatures() error {
	var missing []string
	for _, kind := range []struct {
		name string
		look func() ([]Feature, error)
	}{{"tracepoint", Tracepoints}, {"kernel function", Kfuncs}} {
		list, err := kind.look()
		if err != nil {
			return err
		}
		for i := range list {
			if !list[i].Found {
				missing = append(missing, fmt.Sprintf("%s %s (Linux %s)", kind.name, list[i].Name, list[i].Since))
			}
		}
	}
	if missing == nil {
		return nil
	}
	return &MissingFeature{Names: missing}
}
