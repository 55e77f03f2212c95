package bpf

import (
	"encoding/binary"
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
)

// Ring is the recorder's memory, mapped. The programs write while it is read: a value is valid only if its
// slot still has the same ID after it was copied. One reader at a time.
type Ring struct {
	control *netfilterControl
	flights []Flight
	heads   []byte
	maps    [3][]byte
}

func mapRing(control, flights, heads *ebpf.Map, n int) (*Ring, error) {
	r := &Ring{}
	for i, m := range []*ebpf.Map{control, flights, heads} {
		size := (int(m.ValueSize())+7)&^7*int(m.MaxEntries()) + pageSize - 1
		b, err := unix.Mmap(m.FD(), 0, size&^(pageSize-1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map memory of %s: %w", m.String(), err)
		}
		r.maps[i] = b
	}
	r.control = (*netfilterControl)(unsafe.Pointer(&r.maps[0][0]))
	r.flights = unsafe.Slice((*Flight)(unsafe.Pointer(&r.maps[1][0])), n)
	r.heads = r.maps[2]
	return r, nil
}

var pageSize = unix.Getpagesize()

func (r *Ring) close() (err error) {
	for _, m := range r.maps {
		if m == nil {
			continue
		}
		if e := unix.Munmap(m); e != nil {
			err = e
		}
	}
	return err
}

// Len is how many records the ring holds.
func (r *Ring) Len() uint64 { return uint64(len(r.flights)) }

// Last is the highest serial claimed so far; the first is 1.
func (r *Ring) Last() uint64 { return atomic.LoadUint64(&r.control.NextId) }

// At is the record in which serial id is or was. Its memory is the kernel's, and not all of it is valid: see Copy.
func (r *Ring) At(id uint64) *Flight { return &r.flights[id&uint64(len(r.flights)-1)] }

// Copy copies the record in which serial id is or was. Then ask ID whether it was that one. The programs write only what they
// know: in the record, the receiver's fields and RecvEndNs are those of an older flight while RecvNs is 0, stamps are valid below
// Nstamps, and IPv4 addresses have fields of their own. In the copy, the receiver is zero as long as nobody has read the message,
// and the addresses are where IPv6 ones are.
func (r *Ring) Copy(to *Flight, id uint64) {
	at := r.At(id)
	received := atomic.LoadUint64(&at.RecvNs) != 0 // first: it is written last
	*to = *at
	to.settle(received)
}

// settle makes a copy of a record what Copy promises.
func (f *Flight) settle(received bool) {
	if !received {
		f.RecvNs, f.RecvEndNs, f.RecvSk, f.RecvPid, f.RecvTid, f.RecvNetns, f.RecvPort, f.RecvPeer = 0, 0, 0, 0, 0, 0, 0, 0
		f.RecvAddr4, f.RecvPaddr4 = 0, 0
		f.Flags &^= netfilterFlightFlagFLIGHT_RECV_IPV6
	}
	if f.Flags&netfilterFlightFlagFLIGHT_IPV6 == 0 {
		f.SendAddr, f.SendPaddr = ipv4(f.SendAddr4), ipv4(f.SendPaddr4)
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
	if f.HeadLen == 0 || f.HeadLen > HeadBytes {
		return buf, f.HeadLen == 0
	}
	at := f.HeadPos & (headsSize - 1)
	buf = append(buf, r.heads[at:at+uint32(f.HeadLen)]...)
	return buf, atomic.LoadUint32(&r.control.HeadPos)-f.HeadPos <= headsSize
}

// Enable switches recording; switched off, the programs return at once. It takes effect within a few ns on every CPU.
func (r *Ring) Enable(on bool) {
	var v uint32
	if on {
		v = 1
	}
	atomic.StoreUint32(&r.control.Enabled, v)
}

// Enabled says whether the programs record.
func (r *Ring) Enabled() bool { return atomic.LoadUint32(&r.control.Enabled) != 0 }
