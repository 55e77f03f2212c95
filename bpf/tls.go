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

// TLS holds the probes on TLS libraries (tls.bpf.c). x86-64 only.
type TLS struct {
	objs    tlsPrograms
	control *netfilterControl
	calls   []TLSCalls
	off     []uint64
	maps    [2][]byte
	used    [tlsBinaries]uint32 // enum tls_probe of what is probed
}

// TLSKind says whose function a probe is on: its arguments are where that one has them.
type TLSKind uint8

// The kinds.
const (
	TLSWrite     TLSKind = iota // int SSL_write(SSL *, const void *, int)
	TLSWriteEx                  // int SSL_write_ex(SSL *, const void *, size_t, size_t *)
	TLSGoWrite                  // func (*tls.Conn) Write([]byte) (int, error)
	TLSRead                     // int SSL_read(SSL *, void *, int), where it begins and where it returns
	TLSReadEx                   // int SSL_read_ex(SSL *, void *, size_t, size_t *)
	TLSGoRead                   // func (*tls.Conn) Read([]byte) (int, error), where it begins
	TLSGoReadEnd                // each RET of it
	tlsKinds
)

// TLSPoint is where a probe goes.
type TLSPoint struct {
	Kind   TLSKind
	Offset uint64 // in the file
}

// TLSCalls count what became of a binary's calls since its probes were attached.
type TLSCalls = tlsTlsBinary

// Probes are on one binary, wherever it runs, until Close.
type Probes struct {
	Links
	t      *TLS
	at     int
	probes uint32 // enum tls_probe
}

const tlsBinaries = 256 // TLS_BINARIES in c/plain.h

// ErrTooManyBinaries says that no more binaries can have probes.
var ErrTooManyBinaries = fmt.Errorf("more than %d binaries with TLS", tlsBinaries)

func loadTLSProgs(l loader, control *netfilterControl) (*TLS, error) {
	t := &TLS{control: control}
	spec, err := loadTls()
	if err := l.load("tls", spec, err, &t.objs); err != nil {
		return nil, err
	}
	for i, name := range [...]string{".data.mw_tls", ".data.mw_tls_off"} {
		m := l.opts.MapReplacements[name]
		if t.maps[i], err = mmap(m); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	t.calls = unsafe.Slice((*TLSCalls)(unsafe.Pointer(&t.maps[0][0])), tlsBinaries)
	t.off = unsafe.Slice((*uint64)(unsafe.Pointer(&t.maps[1][0])), excludedBits/64)
	return t, nil
}

// Attach puts probes on a binary, for all processes that run it now or later. path is read once. A probe costs each call a trap, and
// one at a return another: about 1 µs where its instruction is emulated, 12 µs where it is single-stepped.
func (t *TLS) Attach(path string, points []TLSPoint) (*Probes, error) {
	p := &Probes{t: t, at: slices.Index(t.used[:], 0)}
	if p.at < 0 {
		return nil, ErrTooManyBinaries
	}
	t.calls[p.at] = TLSCalls{}
	exe, err := link.OpenExecutable(path)
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", path, err)
	}
	for kind := range tlsKinds {
		var opts link.UprobeMultiOptions
		for _, at := range points {
			if at.Kind == kind {
				opts.Addresses, opts.Cookies = append(opts.Addresses, at.Offset), append(opts.Cookies, uint64(p.at)) //nolint:gosec // not negative
			}
		}
		if opts.Addresses == nil {
			continue
		}
		if err := p.attach(exe, kind, &opts); err != nil {
			return nil, errors.Join(fmt.Errorf("probe %s: %w", path, explain(err)), p.Links.Close())
		}
	}
	t.use(p.at, p.probes)
	return p, nil
}

// attach puts one kind of probes on.
func (p *Probes) attach(exe *link.Executable, kind TLSKind, opts *link.UprobeMultiOptions) error {
	objs := &p.t.objs
	prog := [...]*ebpf.Program{
		TLSWrite: objs.MwSslWrite, TLSWriteEx: objs.MwSslWriteEx, TLSGoWrite: objs.MwGoWrite, TLSRead: objs.MwSslRead, TLSReadEx: objs.MwSslReadEx,
		TLSGoRead: objs.MwGoRead, TLSGoReadEnd: objs.MwGoReadEnd,
	}[kind]
	l, err := exe.UprobeMulti(nil, prog, opts)
	if err != nil {
		return err
	}
	p.links = append(p.links, l)
	p.probes |= probesOf[kind]
	if kind != TLSRead && kind != TLSReadEx {
		return nil
	}
	l, err = exe.UretprobeMulti(nil, objs.MwSslReadEnd, opts)
	if err != nil {
		return err
	}
	p.links = append(p.links, l)
	return nil
}

// probesOf is the enum tls_probe of a kind.
var probesOf = [...]uint32{
	TLSWrite:     uint32(netfilterTlsProbeTLS_WRITES),
	TLSWriteEx:   uint32(netfilterTlsProbeTLS_WRITES),
	TLSGoWrite:   uint32(netfilterTlsProbeTLS_WRITES | netfilterTlsProbeTLS_GO),
	TLSRead:      uint32(netfilterTlsProbeTLS_READS),
	TLSReadEx:    uint32(netfilterTlsProbeTLS_READS),
	TLSGoRead:    uint32(netfilterTlsProbeTLS_READS | netfilterTlsProbeTLS_GO),
	TLSGoReadEnd: uint32(netfilterTlsProbeTLS_READS | netfilterTlsProbeTLS_GO),
}

// Calls count since Attach.
func (p *Probes) Calls() TLSCalls {
	c := &p.t.calls[p.at]
	return TLSCalls{Calls: atomic.LoadUint64(&c.Calls), Tied: atomic.LoadUint64(&c.Tied)}
}

// Close takes the probes off.
func (p *Probes) Close() error {
	p.t.use(p.at, 0)
	return p.Links.Close()
}

// use notes what is probed, and tells the other programs.
func (t *TLS) use(at int, probes uint32) {
	t.used[at] = probes
	var all uint32
	for _, p := range t.used {
		all |= p
	}
	atomic.StoreUint32((*uint32)(&t.control.Tls), all)
}

// Exclude says in which network namespaces, by inode number, no plaintext is copied, as Ring.Exclude.
func (t *TLS) Exclude(namespaces []uint32) { exclude(t.off, namespaces) }

// Close frees the programs. Probes are their holders' to close, before.
func (t *TLS) Close() error {
	if t == nil {
		return nil
	}
	return errors.Join(t.objs.Close(), unmap(t.maps[:]))
}
