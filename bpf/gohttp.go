package bpf

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// GoHTTP holds the probes on Go's net/http (gohttp.bpf.c). x86-64 only. One goroutine uses it.
type GoHTTP struct {
	objs    gohttpPrograms
	control *netfilterControl
	trips   []GoTrips
	off     []uint64
	known   []gohttpGoProcess
	maps    [3][]byte
	used    [goBinaries]bool
}

// GoPoints are where the probes on net/http's client go, in the file, and where a goroutine of that binary has what: offsets in struct g
// of the runtime.
type GoPoints struct {
	RoundTrip, Write uint64 // (*persistConn).roundTrip and persistConnWriter.Write, with arguments and R14 as where they begin
	Goid, ParentGoid uint16
}

// GoTrips count what became of a binary's round trips since its probes were attached.
type GoTrips = gohttpGoBinary

// GoProbes are on one binary, wherever it runs, until Close.
type GoProbes struct {
	Links
	g  *GoHTTP
	at int
}

const goBinaries = 256 // GO_BINARIES in c/gohttp.h

// ErrTooManyGoBinaries says that no more binaries can have probes.
var ErrTooManyGoBinaries = fmt.Errorf("more than %d binaries with Go's net/http", goBinaries)

func loadGoHTTPProgs(l loader, control *netfilterControl) (*GoHTTP, error) {
	g := &GoHTTP{control: control}
	spec, err := loadGohttp()
	if err := l.load("gohttp", spec, err, &g.objs); err != nil {
		return nil, err
	}
	for i, name := range [...]string{".data.mw_gohttp", ".data.mw_go_off", ".data.mw_gos"} {
		if g.maps[i], err = mmap(l.opts.MapReplacements[name]); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	g.trips = unsafe.Slice((*GoTrips)(unsafe.Pointer(&g.maps[0][0])), goBinaries)
	g.off = unsafe.Slice((*uint64)(unsafe.Pointer(&g.maps[1][0])), excludedBits/64)
	g.known = unsafe.Slice((*gohttpGoProcess)(unsafe.Pointer(&g.maps[2][0])), goSets)
	return g, nil
}

// Attach puts probes on a binary, for all processes that run it now or later. path is read once. A round trip costs two traps, about 1 µs
// each.
func (g *GoHTTP) Attach(path string, points GoPoints) (*GoProbes, error) {
	p := &GoProbes{g: g, at: slices.Index(g.used[:], false)}
	if p.at < 0 {
		return nil, ErrTooManyGoBinaries
	}
	g.trips[p.at] = GoTrips{}
	exe, err := link.OpenExecutable(path)
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", path, err)
	}
	cookie := uint64(p.at) | uint64(points.Goid)<<32 | uint64(points.ParentGoid)<<48 //nolint:gosec // not negative
	for _, at := range []struct {
		prog   *ebpf.Program
		offset uint64
	}{{g.objs.MwGoWrites, points.Write}, {g.objs.MwGoTrip, points.RoundTrip}} {
		l, err := exe.UprobeMulti(nil, at.prog, &link.UprobeMultiOptions{Addresses: []uint64{at.offset}, Cookies: []uint64{cookie}})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("probe %s: %w", path, explain(err)), p.Links.Close())
		}
		p.links = append(p.links, l)
	}
	g.use(p.at, true)
	return p, nil
}

// Trips count since Attach.
func (p *GoProbes) Trips() GoTrips {
	t := &p.g.trips[p.at]
	return GoTrips{Trips: atomic.LoadUint64(&t.Trips), Tied: atomic.LoadUint64(&t.Tied)}
}

// Close takes the probes off.
func (p *GoProbes) Close() error {
	p.g.use(p.at, false)
	return p.Links.Close()
}

// use notes what is probed, and tells the sockets' programs.
func (g *GoHTTP) use(at int, on bool) {
	g.used[at] = on
	store(&g.control.Go, slices.Contains(g.used[:], true))
}

// Exclude says in which network namespaces, by inode number, nothing is noted, as Ring.Exclude.
func (g *GoHTTP) Exclude(namespaces []uint32) { exclude(g.off, namespaces) }

// Forget makes room: processes that are gone are no longer known.
func (g *GoHTTP) Forget(alive func(pid int) bool) {
	for i := range g.known {
		at := &g.known[i].Tgid
		if pid := atomic.LoadUint32(at); pid != 0 && !alive(int(pid)) {
			atomic.CompareAndSwapUint32(at, pid, 0)
		}
	}
}

// Known says how many processes are.
func (g *GoHTTP) Known() (n int) {
	for i := range g.known {
		if atomic.LoadUint32(&g.known[i].Tgid) != 0 {
			n++
		}
	}
	return n
}

// Close frees the programs. Probes are their holders' to close, before.
func (g *GoHTTP) Close() error {
	if g == nil {
		return nil
	}
	return errors.Join(g.objs.Close(), unmap(g.maps[:]))
}

// What SendTid has in place of a thread, see c/gohttp.h.
const (
	goroutineFlag  = 1 << 31
	goroutineAsked = 1 << 30
	goroutineMask  = goroutineAsked - 1
)

// Goroutine is the one that a message of a Go program is of, by the low 30 bits of its number: that which asked for a request of net/http's
// client, else that which wrote. parent started it; 0: not known. False: a thread wrote it.
func (f *Flight) Goroutine() (number, parent uint32, ok bool) {
	if f.SendTid&goroutineFlag == 0 {
		return 0, 0, false
	}
	if f.SendTid&goroutineAsked != 0 {
		parent = f.SendAddr4
	}
	return f.SendTid & goroutineMask, parent, true
}

// Thread is the one that wrote a message; 0: it is not known, see Goroutine.
func (f *Flight) Thread() uint32 {
	if f.SendTid&goroutineFlag != 0 {
		return 0
	}
	return f.SendTid
}
