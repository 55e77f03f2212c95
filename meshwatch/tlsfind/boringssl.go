package tlsfind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
)

// BoringSSL's functions report their errors with the name of their source file, a line and a reason. What reasons a function of ssl_lib.cc
// reports tells which one it is.
const (
	sourceFile       = "/ssl/ssl_lib.cc\x00"
	reasonNotCalled  = 66  // ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED: QUIC has no SSL_read and SSL_write
	reasonLength     = 111 // SSL_R_BAD_LENGTH
	reasonShutdown   = 194 // SSL_R_PROTOCOL_IS_SHUTDOWN, in SSL_write until 2021
	reasonHandshake  = 215 // SSL_R_SSL_HANDSHAKE_FAILURE
	reasonUninit     = 226 // SSL_R_UNINITIALIZED
	reasonDataAtEnd  = 291 // SSL_R_APPLICATION_DATA_ON_SHUTDOWN, of SSL_shutdown
	fewestReferences = 8   // to the file's name: a whole ssl_lib.cc has some 35
	mostReferences   = 512 // of what is not one, and would be read for long
	mostLines        = 120 // of SSL_write, which has 25
)

// reporter is a function that reports errors.
type reporter struct {
	start, end  uint64
	lines       map[uint32][2]uint32 // first and last, by reason
	callees     []uint64             // of the calls that report
	calls       []uint64             // of all
	indirect    bool                 // it calls something by pointer
	initialized int32                // displacement of what it compares with 0 first, as SSL's do_handshake is; 0: nothing
}

func (r *reporter) has(reasons ...uint32) bool {
	return !slices.ContainsFunc(reasons, func(reason uint32) bool { _, ok := r.lines[reason]; return !ok })
}

// span is the first and the last line at which the function reports anything.
func (r *reporter) span() (from, to uint32) {
	from = ^uint32(0)
	for _, l := range r.lines {
		from, to = min(from, l[0]), max(to, l[1])
	}
	return from, to
}

// byErrors finds SSL_write and SSL_read of a BoringSSL without symbols, such as Envoy's.
func byErrors(b *binaryFile) (*Library, error) {
	name, err := b.sourceName()
	if err != nil {
		return nil, err
	}
	functions, err := b.functions()
	if err != nil {
		return nil, err
	}
	refs, err := b.references(name)
	if err != nil {
		return nil, err
	}
	if len(refs) < fewestReferences || len(refs) > mostReferences {
		return nil, fmt.Errorf("BoringSSL: %d references to the name of ssl_lib.cc, where a whole one has some 35", len(refs))
	}
	reporters, err := b.reporters(functions, refs, name)
	if err != nil {
		return nil, err
	}
	write, reads, err := b.classify(functions, reporters)
	if err != nil {
		return nil, fmt.Errorf("BoringSSL: %w", err)
	}
	l := &Library{Name: "BoringSSL", How: "error reports"}
	p, err := b.point(Write, "SSL_write", write, cArguments)
	if err != nil {
		return nil, err
	}
	l.Points = append(l.Points, p)
	for _, addr := range reads {
		if p, err = b.point(Read, "SSL_read", addr, allRegisters); err != nil {
			return nil, err
		}
		l.Points = append(l.Points, p)
	}
	return l, nil
}

// sourceName is the address of the source file's name, of which there is one.
func (b *binaryFile) sourceName() (addr uint64, err error) {
	for _, p := range b.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&(elf.PF_W|elf.PF_X) != 0 {
			continue
		}
		for from := uint64(0); from < p.Filesz; {
			at, err := search(p, from, p.Filesz, []byte(sourceFile))
			if err != nil {
				return 0, fmt.Errorf("read constants: %w", err)
			}
			if at < 0 {
				break
			}
			if addr != 0 {
				return 0, fmt.Errorf("BoringSSL: ssl_lib.cc has two names, at %#x and %#x: there is more than one copy of it", addr, p.Vaddr+uint64(at))
			}
			from = uint64(at) + 1
			if addr, err = stringStart(p, uint64(at)); err != nil {
				return 0, err
			}
		}
	}
	if addr == 0 {
		return 0, ErrNotHere
	}
	return addr, nil
}

// stringStart is the address of the string that has a byte at this offset.
func stringStart(p *elf.Prog, at uint64) (uint64, error) {
	const longest = 512
	from := at - min(at, longest)
	buf := make([]byte, at-from)
	if _, err := p.ReadAt(buf, int64(from)); err != nil { //nolint:gosec // within the segment
		return 0, fmt.Errorf("read constants: %w", err)
	}
	zero := bytes.LastIndexByte(buf, 0)
	if zero < 0 {
		return 0, fmt.Errorf("BoringSSL: the name of ssl_lib.cc is longer than %d bytes", longest)
	}
	return p.Vaddr + from + uint64(zero) + 1, nil //nolint:gosec // not negative
}

// functions are the addresses at which functions begin, ascending: those of the table for exceptions (LSB, .eh_frame_hdr).
func (b *binaryFile) functions() ([]uint64, error) {
	var p *elf.Prog
	for _, q := range b.Progs {
		if q.Type == elf.PT_GNU_EH_FRAME {
			p = q
		}
	}
	const header, most = 12, 16 << 20 // a binary of 100 MB has 3 MB
	if p == nil || p.Filesz < header || p.Filesz > most {
		return nil, fmt.Errorf("BoringSSL: the binary has no usable .eh_frame_hdr, which tells where functions begin")
	}
	table := make([]byte, p.Filesz)
	if _, err := p.ReadAt(table, 0); err != nil {
		return nil, fmt.Errorf("read .eh_frame_hdr: %w", err)
	}
	// version 1, pointer to the frames as pcrel sdata4, count as udata4, entries as datarel sdata4: what all linkers write
	if !bytes.HasPrefix(table, []byte{1, 0x1b, 0x03, 0x3b}) {
		return nil, fmt.Errorf("BoringSSL: .eh_frame_hdr begins with % x: not a form that is known", table[:4])
	}
	n := binary.LittleEndian.Uint32(table[8:])
	if uint64(n)*8+header > uint64(len(table)) {
		return nil, fmt.Errorf("BoringSSL: .eh_frame_hdr has %d entries in %d bytes: it is damaged", n, len(table))
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = p.Vaddr + uint64(int64(int32(binary.LittleEndian.Uint32(table[header+8*i:])))) //nolint:gosec // signed, from the table's address
	}
	if !slices.IsSorted(out) {
		return nil, fmt.Errorf("BoringSSL: .eh_frame_hdr is not sorted: it is damaged")
	}
	return out, nil
}

// functionAt is where the function begins and ends that has an address: the next one's beginning is the end.
func functionAt(functions []uint64, addr uint64) (start, end uint64, ok bool) {
	i, found := slices.BinarySearch(functions, addr)
	if !found {
		i--
	}
	if i < 0 {
		return 0, 0, false
	}
	if i+1 < len(functions) {
		end = functions[i+1]
	} else {
		end = functions[i] + maxFunction
	}
	return functions[i], end, addr < end
}

// code calls with each part of the executable segments and its address. Parts overlap by maxInstruction bytes.
func (b *binaryFile) code(with func(part []byte, addr uint64)) error {
	const size = 1 << 20
	buf := make([]byte, size)
	for _, p := range b.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X == 0 {
			continue
		}
		for at := uint64(0); at < p.Filesz; at += size - maxInstruction {
			n, err := p.ReadAt(buf[:min(size, p.Filesz-at)], int64(at)) //nolint:gosec // within the segment
			if uint64(n) < min(size, p.Filesz-at) {
				return fmt.Errorf("read code: %w", err)
			}
			with(buf[:n], p.Vaddr+at)
		}
	}
	return nil
}

// references are where code takes an address, by lea or, where code is not position-independent, by mov.
func (b *binaryFile) references(to uint64) (refs []uint64, err error) {
	err = b.code(func(part []byte, addr uint64) {
		for at := 1; ; at++ {
			i := bytes.IndexByte(part[at:], 0x8d) // lea
			if i < 0 || at+i+6 > len(part) {
				break
			}
			at += i
			if part[at-1]&0xfb != 0x48 || part[at+1]&0xc7 != 5 {
				continue
			}
			next := addr + uint64(at) + 6                                                 //nolint:gosec // within the part
			if next+uint64(int64(int32(binary.LittleEndian.Uint32(part[at+2:])))) == to { //nolint:gosec // a signed distance
				refs = append(refs, next-7)
			}
		}
		if to>>32 != 0 || b.Type != elf.ET_EXEC {
			return
		}
		var imm [4]byte
		binary.LittleEndian.PutUint32(imm[:], uint32(to))
		for at := 1; ; at++ {
			i := bytes.Index(part[at:], imm[:])
			if i < 0 {
				break
			}
			if at += i; part[at-1]&0xf8 == 0xb8 {
				refs = append(refs, addr+uint64(at)-1) //nolint:gosec // as above
			}
		}
	})
	slices.Sort(refs)
	return slices.Compact(refs), err
}
