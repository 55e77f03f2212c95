package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// RequestIDHeader is the field that an Inject puts into requests.
const RequestIDHeader = "X-Request-ID"

// InjectedBytes is by how much a request grows.
const InjectedBytes = 52 // INJECTED_BYTES in c/inject.h

// InjectNames is how many names of fields a request may have an id by.
const InjectNames = 8 // FIELDS in inject.bpf.c

// InjectPorts is how many ports one namespace's rules may redirect to.
const InjectPorts = len(injectPod{}.Ports)

// Inject holds the programs that put request ids into requests that have none (inject.bpf.c).
type Inject struct {
	objs struct {
		injectPrograms
		MwInjections *ebpf.Map `ebpf:"mw_injections"`
		MwLeft       *ebpf.Map `ebpf:"mw_left"`
		MwPods       *ebpf.Map `ebpf:"mw_pods"`
		MwSidecar    *ebpf.Map `ebpf:"mw_sidecar"`
	}
	control *netfilterControl
	links   []link.Link
	pods    map[uint32]injectPod
}

// Outcomes are what became of connections to sidecars and of the requests on them.
type Outcomes struct {
	Connections uint64 // to a selected workload's own sidecar that were opened
	Injected    uint64 // requests that were given an id
	HadID       uint64 // requests that have one
	// Missed counts, by reason, requests that were left without an id, and connections that were left alone from some byte on.
	Missed map[string]uint64
}

// missedReasons are the names of enum outcome in inject.bpf.c, but for those of Outcomes' own fields: labels of metrics, so stable.
var missedReasons = [...]string{
	injectOutcomeOUTCOME_BUSY:         "busy",
	injectOutcomeOUTCOME_LONG_LINE:    "long-line",
	injectOutcomeOUTCOME_NO_MEMORY:    "no-memory",
	injectOutcomeOUTCOME_NOT_HTTP:     "not-http",
	injectOutcomeOUTCOME_ODD_HEAD:     "odd-head",
	injectOutcomeOUTCOME_SPLIT_HEAD:   "split-head",
	injectOutcomeOUTCOME_LONG_HEAD:    "long-head",
	injectOutcomeOUTCOME_BODY_UNKNOWN: "body-unknown",
	injectOutcomeOUTCOME_PIPELINED:    "pipelined",
	injectOutcomeOUTCOME_TUNNEL:       "tunnel",
	injectOutcomeOUTCOME_LOST_TRACK:   "lost-track",
	injectOutcomeOUTCOME_BLOCKING:     "blocking-socket",
	injectOutcomeOUTCOME_REFUSED:      "refused-by-kernel",
}

var _ = [1]struct{}{}[len(missedReasons)-int(injectOutcomeOUTCOME_MAX)] // every reason has a name

// MissedReasons are the keys of Outcomes.Missed.
func MissedReasons() []string {
	return slices.DeleteFunc(missedReasons[:], func(s string) bool { return s == "" })
}

// loadInjectProgs loads them. names are fields whose presence means that a request has an id, besides RequestIDHeader.
func loadInjectProgs(l loader, control *netfilterControl, names []string) (*Inject, error) {
	i := &Inject{control: control, pods: map[uint32]injectPod{}}
	spec, err := loadInject()
	if err != nil {
		return i, fmt.Errorf("read embedded object inject: %w", err)
	}
	spec.Maps[".data.mw_syns"].Name = "mw_syns"
	for name, v := range words(names) {
		if err := spec.Variables[name].Set(v); err != nil {
			return i, fmt.Errorf("set %s in inject: %w", name, err)
		}
	}
	return i, l.load("inject", spec, nil, &i.objs)
}

// words are the hashes that the programs look for.
func words(names []string) map[string]any {
	var fields [InjectNames]uint64
	for n := range fields {
		fields[n] = word(strings.ToLower(RequestIDHeader))
	}
	for n, name := range names[:min(len(names), InjectNames-1)] {
		fields[n+1] = word(strings.ToLower(name))
	}
	var methods [7]uint64 // METHODS
	for n, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		methods[n] = word(m)
	}
	return map[string]any{
		"id_fields": fields, "methods": methods, "word_connect": word("CONNECT"), "word_http10": word("HTTP/1.0"), "word_http11": word("HTTP/1.1"),
		"word_length": word("content-length"), "word_coding": word("transfer-encoding"), "word_upgrade": word("upgrade"),
	}
}

// word is FNV-1a of 64 bits, as inject.bpf.c has it.
func word(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return h
}

// Attach has the programs look at connections that are opened from now on in the namespaces of Select, by whatever process. It ends
// with this one, however that ends: connections go on without.
func (i *Inject) Attach() error {
	cgroup, err := rootCgroup()
	if err != nil {
		return err
	}
	// first, so that no connection is taken without a program
	msg, err := link.AttachRawLink(link.RawLinkOptions{Target: i.objs.MwSidecar.FD(), Program: i.objs.MwMsg, Attach: ebpf.AttachSkMsgVerdict})
	if err != nil {
		return fmt.Errorf("attach %s to its map: %w", i.objs.MwMsg, explain(err))
	}
	i.links = append(i.links, msg)
	open, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupSockOps, Program: i.objs.MwOpen})
	if err != nil {
		return fmt.Errorf("attach %s to cgroup %s: %w", i.objs.MwOpen, cgroup, explain(err))
	}
	i.links = append(i.links, open)
	store(&i.control.Inject, true)
	return nil
}

// Select says in which network namespaces, by inode number, requests are given ids: those that go to a local port to which the
// namespace's rules redirect, at most InjectPorts of them. In a namespace that is no longer among them nothing is touched any more.
func (i *Inject) Select(ports map[uint32][]uint16) error {
	var errs []error
	for netns := range i.pods {
		if _, ok := ports[netns]; !ok {
			if err := i.objs.MwPods.Delete(netns); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, fmt.Errorf("leave namespace %d alone: %w", netns, err))
			}
			delete(i.pods, netns)
		}
	}
	for netns, list := range ports {
		var pod injectPod
		copy(pod.Ports[:], list)
		if i.pods[netns] == pod {
			continue
		}
		if err := i.objs.MwPods.Put(netns, &pod); err != nil {
			errs = append(errs, fmt.Errorf("take namespace %d: %w", netns, err))
			continue
		}
		i.pods[netns] = pod
	}
	return errors.Join(errs...)
}

// Switch stops it, for good on the connections that there are, or has it begin with those that will be opened. Programs stay attached.
func (i *Inject) Switch(on bool) { store(&i.control.Inject, on) }

// Release has the kernel treat connections that are left alone as if they had never been looked at. It is to be called now and then.
func (i *Inject) Release() error {
	for {
		var cookie uint64
		err := i.objs.MwLeft.LookupAndDelete(nil, &cookie)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read which connections are left alone: %w", err)
		}
		if err := i.objs.MwSidecar.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, unix.EINVAL) { // it is closed
			return fmt.Errorf("leave a connection alone: %w", err)
		}
	}
}

// Outcomes are since load: a map look-up for each.
func (i *Inject) Outcomes() (o Outcomes, err error) {
	o.Missed = make(map[string]uint64, len(missedReasons))
	var perCPU []uint64
	for n, name := range missedReasons {
		if err := i.objs.MwInjections.Lookup(uint32(n), &perCPU); err != nil { //nolint:gosec // a few
			return o, fmt.Errorf("read counter %d of injections: %w", n, err)
		}
		var sum uint64
		for _, c := range perCPU {
			sum += c
		}
		switch injectOutcome(n) { //nolint:gosec // as above
		case injectOutcomeOUTCOME_CONNECTION:
			o.Connections = sum
		case injectOutcomeOUTCOME_INJECTED:
			o.Injected = sum
		case injectOutcomeOUTCOME_HAS_ID:
			o.HadID = sum
		default:
			o.Missed[name] = sum
		}
	}
	return o, nil
}

// Close detaches and frees the programs. Connections go on without.
func (i *Inject) Close() error {
	if i == nil {
		return nil
	}
	store(&i.control.Inject, false)
	errs := []error{closeAll(i.links)}
	for _, c := range []interface{ Close() error }{&i.objs.injectPrograms, i.objs.MwInjections, i.objs.MwLeft, i.objs.MwPods, i.objs.MwSidecar} {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
