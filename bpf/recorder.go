package bpf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Recorder is the loaded flight recorder. It starts switched off and attached to nothing.
type Recorder struct {
	Netfilter *Netfilter // nil where the kernel has no BPF netfilter links: there is no full depth
	Devices   *Devices   // nil where the kernel's tracepoints cannot read packets
	TC        *TC        // stands in for Devices then, else nil
	Sockets   *Sockets
	Trouble   *Trouble
	Inject    *Inject // nil unless asked for
	TLS       *TLS    // nil where the kernel cannot probe, or the machine is no x86-64: plaintext is not seen
	GoHTTP    *GoHTTP // nil where TLS is: in which goroutine Go programs ask is not seen
	ring      *Ring
	losses    *ebpf.Map
	maps      []*ebpf.Map
}

// Options of a Recorder.
type Options struct {
	Sizes Sizes
	// NoNetfilter leaves the netfilter programs out, as on a kernel before 6.4.
	NoNetfilter bool
	// Inject loads the programs that put request ids into requests; it names the fields that carry one, at most InjectNames-1 besides
	// RequestIDHeader. Nil: they are not loaded.
	Inject []string
	// TC takes tc's hooks, as on a kernel before 6.11.
	TC bool
}

// Load verifies and loads all programs: about half a second of CPU. The caller closes the Recorder.
func Load(o Options) (_ *Recorder, err error) {
	if err := o.Sizes.Validate(); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise memlock limit: %w", err)
	}
	r := &Recorder{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	shared, err := r.loadMaps(o.Sizes)
	if err != nil {
		return nil, err
	}
	load := loader{sizes: o.Sizes, opts: &ebpf.CollectionOptions{MapReplacements: shared}}
	if !o.NoNetfilter {
		if r.Netfilter, err = loadNetfilterProgs(load); err != nil {
			return nil, err
		}
	}
	if err = r.loadDevices(load, o.TC); err != nil {
		return nil, err
	}
	if r.Sockets, err = loadSocketProgs(load); err != nil {
		return nil, err
	}
	if r.Trouble, err = loadTroubleProgs(load); err != nil {
		return nil, err
	}
	if r.TLS, err = loadTLSProgs(load, r.ring.control); err != nil && !Refused(err) {
		return nil, err
	}
	if r.GoHTTP, err = loadGoHTTPProgs(load, r.ring.control); err != nil && !Refused(err) {
		return nil, err
	}
	if o.Inject != nil {
		if r.Inject, err = loadInjectProgs(load, r.ring.control, o.Inject); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// loadDevices loads what watches devices: by tracepoints, or by tc's hooks where they cannot read packets or it is asked for.
func (r *Recorder) loadDevices(load loader, tc bool) (err error) {
	if !tc {
		devices, err := loadDeviceProgs(load)
		if err == nil {
			r.Devices = devices
			return nil
		}
		var refused *ebpf.VerifierError
		if !errors.As(err, &refused) && !Refused(err) {
			return err
		}
	}
	r.TC, err = loadTCProgs(load)
	return err
}

// Attach starts what is for all namespaces at once.
func (r *Recorder) Attach() error {
	err := errors.Join(r.Sockets.Attach(), r.Trouble.Attach())
	if r.Devices != nil {
		err = errors.Join(err, r.Devices.Attach())
	}
	return err
}

// Deep says whether some namespace is recorded in full depth: whether Netfilter is attached anywhere. Devices are looked at
// more closely then, for what began in such a namespace. A flight under way misses some stamps when it changes.
func (r *Recorder) Deep(on bool) error {
	r.ring.deep(on)
	if r.Devices != nil {
		return r.Devices.deep(on)
	}
	return nil
}

// loadMaps makes the maps once; the programs of every object use the same. Those that programs address directly are data sections
// in the objects, as small as C allows (SHARED in c/flight.h), and here arrays of one value of the size asked for.
func (r *Recorder) loadMaps(s Sizes) (map[string]*ebpf.Map, error) {
	spec, err := loadSocket()
	if err != nil {
		return nil, fmt.Errorf("read embedded objects: %w", err)
	}
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadTls, loadGohttp} { // each has one that the sockets' programs do not use
		more, err := load()
		if err != nil {
			return nil, fmt.Errorf("read embedded objects: %w", err)
		}
		maps.Copy(spec.Maps, more.Maps)
	}
	shared := map[string]*ebpf.Map{}
	for key, m := range spec.Maps {
		name := strings.TrimPrefix(key, ".data.")
		if !strings.HasPrefix(name, "mw_") {
			continue // .rodata is each object's own
		}
		m.Name = name
		if name != key {
			resize(key, m, s)
		}
		made, err := ebpf.NewMap(m)
		if err != nil {
			return nil, fmt.Errorf("make map %s: %w", name, explain(err))
		}
		r.maps = append(r.maps, made)
		shared[key] = made
	}
	r.losses = shared["mw_losses"]
	r.ring, err = mapRing([...]*ebpf.Map{shared[".data.mw_control"], shared[".data.mw_flights"], shared[".data.mw_heads"], shared[".data.mw_excluded"]}, s.Flights)
	return shared, err
}

// resize makes a data section as large as the recorder's sizes say.
func resize(key string, m *ebpf.MapSpec, s Sizes) {
	switch key {
	case ".data.mw_flights":
		m.ValueSize = uint32(s.Flights) * uint32(unsafe.Sizeof(Flight{}))
	case ".data.mw_heads":
		m.ValueSize = headsSize + FramesBytes
	case ".data.mw_index":
		m.ValueSize = uint32(s.Index) * entrySize
	case ".data.mw_sockets":
		m.ValueSize = uint32(s.Sockets) * socketSize
	case ".data.mw_threads":
		m.ValueSize = threadsSize
	case ".data.mw_parked":
		m.ValueSize = parkedSize
	case ".data.mw_objects":
		m.ValueSize = objectsSize
	case ".data.mw_stalled":
		m.ValueSize = stalledSize
	case ".data.mw_tls":
		m.ValueSize = tlsSize
	case ".data.mw_gos":
		m.ValueSize = goSets * uint32(unsafe.Sizeof(gohttpGoProcess{}))
	case ".data.mw_trips":
		m.ValueSize = tripsSize
	case ".data.mw_gohttp":
		m.ValueSize = goSize
	}
	m.Flags |= unix.BPF_F_MMAPABLE
	m.Contents, m.Key, m.Value = nil, nil, nil
}

// loader loads one object with the shared maps.
type loader struct {
	sizes Sizes
	opts  *ebpf.CollectionOptions
}

func (l loader) load(name string, spec *ebpf.CollectionSpec, err error, into any) error {
	if err != nil {
		return fmt.Errorf("read embedded object %s: %w", name, err)
	}
	for key, m := range spec.Maps {
		if shared, ok := l.opts.MapReplacements[key]; ok {
			m.ValueSize, m.Key, m.Value = shared.ValueSize(), nil, nil
		}
	}
	vars := map[string]any{
		"ring_mask":    uint32(l.sizes.Flights - 1),
		"index_mask":   uint32(l.sizes.Index/indexWays - 1),
		"sockets_mask": uint32(l.sizes.Sockets/socketWays - 1),
	}
	for k, v := range vars {
		if variable, ok := spec.Variables[k]; ok {
			if err := variable.Set(v); err != nil {
				return fmt.Errorf("set %s in %s: %w", k, name, err)
			}
		}
	}
	opts := *l.opts
	opts.MapReplacements = map[string]*ebpf.Map{}
	for key, m := range l.opts.MapReplacements {
		if _, ok := spec.Maps[key]; ok {
			opts.MapReplacements[key] = m
		}
	}
	if err := spec.LoadAndAssign(into, &opts); err != nil {
		return fmt.Errorf("load %s programs: %w", name, explain(err))
	}
	return nil
}

// Ring is the recorder's memory, valid until Close.
func (r *Recorder) Ring() *Ring { return r.ring }

// MapMemory is the size of all maps in bytes, as accounted by the kernel for their values.
func (r *Recorder) MapMemory() (n int) {
	for _, m := range r.maps {
		n += int(m.ValueSize()) * int(m.MaxEntries())
	}
	return n
}

// CPUs measures for a while how many CPUs the programs use: the share of the time that they run, summed over CPUs. While it does, each
// run takes longer, for all BPF programs of the machine (bpf_stats).
func (r *Recorder) CPUs(ctx context.Context, during time.Duration) (cpus float64, err error) {
	counting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return 0, fmt.Errorf("have the kernel count the run time of BPF programs: %w", err)
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	before, err := r.runTime()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	select {
	case <-ctx.Done():
	case <-time.After(during):
	}
	after, err := r.runTime()
	return float64(after-before) / float64(time.Since(start)), err
}

// runTime is how long the programs have run since load while the kernel counted.
func (r *Recorder) runTime() (sum time.Duration, err error) {
	for _, p := range r.programs() {
		stats, err := p.Stats()
		if err != nil {
			return 0, fmt.Errorf("read the run time of %s: %w", p, err)
		}
		sum += stats.Runtime
	}
	return sum, nil
}

func (r *Recorder) programs() []*ebpf.Program {
	s, t := r.Sockets.objs, r.Trouble.objs
	out := []*ebpf.Program{s.MwArrive, s.MwRecv, s.MwSend, s.MwState, t.MwDrop, t.MwRetransmit, t.MwRstIn, t.MwRstOut}
	if d := r.Devices; d != nil {
		out = append(out, d.objs.MwQueue, d.objs.MwIngress)
	}
	if r.TC != nil {
		out = append(out, r.TC.objs.MwTc)
	}
	if i := r.Inject; i != nil {
		out = append(out, i.objs.MwOpen, i.objs.MwMsg)
	}
	if p := r.TLS; p != nil {
		out = append(out, p.objs.MwSslWrite, p.objs.MwSslWriteEx, p.objs.MwGoWrite, p.objs.MwSslRead, p.objs.MwSslReadEx, p.objs.MwSslReadEnd, p.objs.MwGoRead, p.objs.MwGoReadEnd)
	}
	if g := r.GoHTTP; g != nil {
		out = append(out, g.objs.MwGoTrip, g.objs.MwGoWrites)
	}
	if n := r.Netfilter; n != nil {
		out = append(out, n.objs.MwNfOutput, n.objs.MwNfStamp, n.objs.MwNfDeliver)
	}
	return out
}

// Close detaches what is still attached by this package's own links and frees programs and maps. Links that were
// handed out (Netfilter.Attach, TC.Attach) are their holders' to close.
func (r *Recorder) Close() error {
	var errs []error
	if r.ring != nil {
		r.ring.Enable(false)
	}
	for _, c := range []interface{ Close() error }{r.Netfilter, r.Devices, r.TC, r.Sockets, r.Trouble, r.TLS, r.GoHTTP, r.Inject} {
		errs = append(errs, c.Close())
	}
	if r.ring != nil {
		errs = append(errs, r.ring.close())
	}
	for _, m := range r.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// closeAll closes links in order and joins what went wrong.
func closeAll(links []link.Link) error {
	var errs []error
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
