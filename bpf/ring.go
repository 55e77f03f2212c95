package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Flight is one record of the ring, as the programs write it (c/flight.h has the fields' meaning). Times are
// CLOCK_MONOTONIC ns, integers in host byte order, addresses in network byte order.
type Flight = netfilterFlight

// Stamp is a place and a time in a Flight.
type Stamp = netfilterStamp

// Flags is the type of Flight.Flags.
type Flags = netfilterFlightFlag

// MaxStamps is how many stamps a record holds.
const MaxStamps = len(Flight{}.Stamps)

// Flag bits of Flight.Flags.
const (
	FlagIPv6     = uint32(netfilterFlightFlagFLIGHT_IPV6)
	FlagSYN      = uint32(netfilterFlightFlagFLIGHT_SYN)
	FlagCont     = uint32(netfilterFlightFlagFLIGHT_CONT)
	FlagHTTP     = uint32(netfilterFlightFlagFLIGHT_HTTP)
	FlagOpaque   = uint32(netfilterFlightFlagFLIGHT_OPAQUE)
	FlagHeadEnd  = uint32(netfilterFlightFlagFLIGHT_HEAD_END)
	FlagReset    = uint32(netfilterFlightFlagFLIGHT_RESET)
	FlagClose    = uint32(netfilterFlightFlagFLIGHT_CLOSE)
	FlagRecvIPv6 = uint32(netfilterFlightFlagFLIGHT_RECV_IPV6)
	FlagDeep     = uint32(netfilterFlightFlagFLIGHT_DEEP)
	FlagFrames   = uint32(netfilterFlightFlagFLIGHT_FRAMES)
	FlagPlain    = uint32(netfilterFlightFlagFLIGHT_PLAIN)
	FlagAwaits   = uint32(netfilterFlightFlagFLIGHT_AWAITS)
	FlagText     = uint32(netfilterFlightFlagFLIGHT_TEXT)
	FlagJoined   = uint32(netfilterFlightFlagFLIGHT_JOINED)
)

// Ring is the recorder's memory, mapped. The programs write while it is read: a value is valid only if its
// slot still has the same ID after it was copied. One reader at a time.
type Ring struct {
	control *netfilterControl
	flights []Flight
	heads   []byte
	exclude []uint64
	maps    [4][]byte
}

// mapRing maps control block, flights, heads and excluded namespaces. n is how many flights there are.
func mapRing(maps [4]*ebpf.Map, n int) (*Ring, error) {
	r := &Ring{}
	for i, m := range maps {
		b, err := mmap(m)
		if err != nil {
			return nil, err
		}
		r.maps[i] = b
	}
	r.control = (*netfilterControl)(unsafe.Pointer(&r.maps[0][0]))
	r.flights = unsafe.Slice((*Flight)(unsafe.Pointer(&r.maps[1][0])), n)
	r.heads = r.maps[2]
	r.exclude = unsafe.Slice((*uint64)(unsafe.Pointer(&r.maps[3][0])), excludedBits/64)
	return r, nil
}

var pageSize = unix.Getpagesize()

// mmap maps the values of an array.
func mmap(m *ebpf.Map) ([]byte, error) {
	size := (int(m.ValueSize())+7)&^7*int(m.MaxEntries()) + pageSize - 1
	b, err := unix.Mmap(m.FD(), 0, size&^(pageSize-1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory of %s: %w", m.String(), err)
	}
	return b, nil
}

// unmap takes back what mmap gave, as far as it did.
func unmap(maps [][]byte) (err error) {
	for _, m := range maps {
		if m != nil {
			err = errors.Join(err, unix.Munmap(m))
		}
	}
	return err
}

func (r *Ring) close() error { return unmap(r.maps[:]) }

// Len is how many records the ring holds.
func (r *Ring) Len() uint64 { return uint64(len(r.flights)) }

// Last is the highest serial claimed so far; the first is 1.
func (r *Ring) Last() uint64 { return atomic.LoadUint64(&r.control.NextId) }

// At is the record in which serial id is or was. Its memory is the kernel's, and not all of it is valid: see Copy.
func (r *Ring) At(id uint64) *Flight { return &r.flights[id&uint64(len(r.flights)-1)] }

// Copy copies the record in which serial id is or was. Then ask ID whether it was that one. The programs write only what they
// know: in the record, the receiver's fields and RecvEndNs are those of an older flight while RecvNs is 0, stamps are valid below
// Nstamps, and IPv4 addresses have fields of their own. In the copy, the receiver is zero as long as nobody has read the message,
// and the addresses are where IPv6 ones are; what else Goroutine tells is in SendAddr4; stamps from Nstamps on are whatever they were. Lines of the record that say nothing
// are not read: they are in no cache.
func (r *Ring) Copy(to *Flight, id uint64) {
	at := r.At(id)
	received := atomic.LoadUint64(&at.RecvNs) != 0 // first: it is written last
	from, into := (*lines)(unsafe.Pointer(at)), (*lines)(unsafe.Pointer(to))
	into.start = from.start
	if to.Nstamps > startStamps {
		into.stamps = from.stamps
	}
	if received || to.Flags&(netfilterFlightFlagFLIGHT_DROPPED|netfilterFlightFlagFLIGHT_PLAIN) != 0 || to.Nstamps > uint32(MaxStamps-lastStamps) {
		into.receiver = from.receiver
	}
	if to.Flags&(netfilterFlightFlagFLIGHT_IPV6|netfilterFlightFlagFLIGHT_RECV_IPV6) != 0 || to.SendTid&goroutineAsked != 0 {
		into.ipv6 = from.ipv6
	}
	to.settle(received)
}

// lines are those of a record, by who writes them (c/flight.h). The last two stamps are in the receiver's.
type lines struct {
	start    [2]line
	stamps   [2]line
	receiver line
	ipv6     line
}

type line [8]uint64

const (
	startStamps = 3 // in the lines that a start writes
	lastStamps  = 2
)

var _ = [1]struct{}{}[unsafe.Sizeof(lines{})-unsafe.Sizeof(Flight{})]

// settle makes a copy of a record what Copy promises.
func (f *Flight) settle(received bool) {
	if !received {
		f.RecvNs, f.RecvEndNs, f.RecvSk, f.RecvPid, f.RecvTid, f.RecvNetns, f.RecvPort, f.RecvPeer = 0, 0, 0, 0, 0, 0, 0, 0
		f.RecvAddr4, f.RecvPaddr4 = 0, 0
		f.Flags &^= netfilterFlightFlagFLIGHT_RECV_IPV6
	}
	if f.Flags&netfilterFlightFlagFLIGHT_DROPPED == 0 {
		f.DropReason = 0
	}
	if f.Flags&netfilterFlightFlagFLIGHT_PLAIN == 0 {
		f.PlainLen = 0
	}
	if f.Flags&netfilterFlightFlagFLIGHT_IPV6 == 0 {
		parent := binary.NativeEndian.Uint32(f.SendAddr[:]) // go_parent in c/gohttp.h
		f.SendAddr, f.SendPaddr = ipv4(f.SendAddr4), ipv4(f.SendPaddr4)
		if f.SendTid&goroutineAsked != 0 {
			f.SendAddr4 = parent
		}
	}
	if f.Flags&netfilterFlightFlagFLIGHT_RECV_IPV6 == 0 {
		f.RecvAddr, f.RecvPaddr = ipv4(f.RecvAddr4), ipv4(f.RecvPaddr4)
	}
}

// ipv4 is an address as the programs store it: its bytes in memory are in network order.
func ipv4(a uint32) (out [16]byte) {
	binary.NativeEndian.PutUint32(out[:], a)
	return out
}

// Watch says whether the record of serial id, which is there, is to stay although its flight looks finished. The flight that
// overwrites it nevertheless begins unwatched; if the mark comes after that it is the new one's, so whoever reads that takes it off.
func (r *Ring) Watch(id uint64, on bool) {
	var v uint16
	if on {
		v = 1
	}
	r.At(id).Watched = v
}

// ID reads the serial that the record at id's slot holds now; 0 while it is being written.
func (r *Ring) ID(id uint64) uint64 { return atomic.LoadUint64(&r.At(id).Id) }

// Head appends the bytes captured of f to buf; ok is false when they have been overwritten.
func (r *Ring) Head(buf []byte, f *Flight) (_ []byte, ok bool) {
	if f.HeadLen == 0 || f.HeadLen > FramesBytes {
		return buf, f.HeadLen == 0
	}
	at := f.HeadPos & (headsSize - 1)
	buf = append(buf, r.heads[at:at+uint32(f.HeadLen)]...)
	return buf, atomic.LoadUint32(&r.control.HeadPos)-f.HeadPos <= headsSize
}

// excludedBits is how many there are in mw_excluded: one for each number of a network namespace that a stamp can hold.
const excludedBits = 1 << 14

// Exclude says in which network namespaces, by inode number, no flight starts. A namespace with the same low 14 bits is one of
// them, too.
func (r *Ring) Exclude(namespaces []uint32) {
	exclude(r.exclude, namespaces)
	store(&r.control.Excluding, len(namespaces) > 0)
}

// exclude sets the bits of these namespaces alone.
func exclude(bits []uint64, namespaces []uint32) {
	var set [excludedBits / 64]uint64
	for _, n := range namespaces {
		set[n%excludedBits/64] |= 1 << (n % 64)
	}
	for i := range set {
		if bits[i] != set[i] {
			atomic.StoreUint64(&bits[i], set[i])
		}
	}
}

func (r *Ring) deep(on bool) { store(&r.control.Deep, on) }

// Enable switches recording; switched off, the programs return at once. It takes effect within a few ns on every CPU. What a
// connection did while it was off is not known: its next message is recorded.
func (r *Ring) Enable(on bool) {
	if on {
		atomic.StoreUint32(&r.control.Since, uint32(r.Last()+1)) //nolint:gosec // the low half
	}
	store(&r.control.Enabled, on)
}

func store(to *uint32, on bool) {
	var v uint32
	if on {
		v = 1
	}
	atomic.StoreUint32(to, v)
}

// Enabled says whether the programs record.
func (r *Ring) Enabled() bool { return atomic.LoadUint32(&r.control.Enabled) != 0 }
