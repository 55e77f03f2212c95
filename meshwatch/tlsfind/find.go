// Package tlsfind finds where a binary's TLS library takes and gives plaintext: functions of OpenSSL and BoringSSL by their symbols,
// those of a BoringSSL without symbols by the errors that they report, Go's crypto/tls by the table that the runtime keeps of its
// functions. It refuses where it is not sure. It reads an ELF file and does nothing else; x86-64 only.
package tlsfind

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
)

// ErrNotHere says that a binary has no TLS library of a known kind. One that it links dynamically is in another file.
var ErrNotHere = errors.New("no TLS library in this file")

// Kind says what a point is, and so where arguments are.
type Kind uint8

// The kinds.
const (
	Write       Kind = iota // int SSL_write(SSL *, const void *, int)
	WriteEx                 // int SSL_write_ex(SSL *, const void *, size_t, size_t *)
	GoWrite                 // func (*tls.Conn) Write([]byte) (int, error), by Go's ABIInternal
	Read                    // int SSL_read(SSL *, void *, int), where it begins
	ReadEx                  // int SSL_read_ex(SSL *, void *, size_t, size_t *), where it begins
	GoRead                  // func (*tls.Conn) Read([]byte) (int, error), likewise, where it begins
	GoReadEnd               // one of its RET
	GoRoundTrip             // func (*http.persistConn) roundTrip(*transportRequest) (*Response, error), by Go's ABIInternal
	GoConnWrite             // func (http.persistConnWriter) Write([]byte) (int, error), likewise
)

// Point is where a probe goes.
type Point struct {
	Kind   Kind
	Symbol string
	Offset uint64 // in the file
	// Stepped says that the kernel cannot emulate the instruction there and has the CPU single-step it: some 12 µs a call instead of 1.
	Stepped bool
}

// Library is what was found.
type Library struct {
	Name   string // OpenSSL, BoringSSL, Go crypto/tls
	How    string // symbols, error reports, pclntab
	Points []Point
	// Of Go: its net/http, too; or nil and, unless it is ErrNotHere, why nobody is sure where that is.
	HTTP    *HTTP
	HTTPErr error
}

// binaryFile is an ELF file that is read.
type binaryFile struct {
	*elf.File
	r io.ReaderAt
}

// Find looks for a TLS library. The error is ErrNotHere, or says why it is not sure. Some 50 ms for an Envoy of 107 MB, and 7 MB of
// memory (TestEnvoy logs both); a file that is no ELF file of x86-64 is refused at once.
func Find(r io.ReaderAt) (*Library, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("read the ELF header: %w", err)
	}
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return nil, fmt.Errorf("%v: TLS libraries are only found on x86-64", f.Machine)
	}
	b := &binaryFile{f, r}
	for _, find := range []func(*binaryFile) (*Library, error){bySymbols, byPclntab, byErrors} {
		l, err := find(b)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, ErrNotHere) {
			return nil, err
		}
	}
	return nil, ErrNotHere
}

// offset is where in the file an address is; false: nowhere.
func (b *binaryFile) offset(addr uint64) (uint64, bool) {
	for _, p := range b.Progs {
		if p.Type == elf.PT_LOAD && addr >= p.Vaddr && addr-p.Vaddr < p.Filesz {
			return addr - p.Vaddr + p.Off, true
		}
	}
	return 0, false
}

// bytes reads n bytes at an address, or as many as its segment has.
func (b *binaryFile) bytes(addr, n uint64) ([]byte, error) {
	for _, p := range b.Progs {
		if p.Type != elf.PT_LOAD || addr < p.Vaddr || addr-p.Vaddr >= p.Filesz {
			continue
		}
		out := make([]byte, min(n, p.Filesz-(addr-p.Vaddr)))
		_, err := b.r.ReadAt(out, int64(addr-p.Vaddr+p.Off)) //nolint:gosec // a file has less
		if err != nil {
			return nil, fmt.Errorf("read %d bytes at %#x: %w", len(out), addr, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("address %#x is not in the file", addr)
}

// maxBuildID is more than any linker writes.
const maxBuildID = 256

// BuildID is a binary's identity in hex, Go's own where its linker gave it no GNU one; empty: it has none, or is no ELF file. It reads
// the headers alone.
func BuildID(r io.ReaderAt) string {
	f, err := elf.NewFile(r)
	if err != nil {
		return ""
	}
	for _, name := range []string{".note.gnu.build-id", ".note.go.buildid"} {
		s := f.Section(name)
		if s == nil || s.Size < 16 || s.Size > maxBuildID {
			continue
		}
		if data, err := s.Data(); err == nil {
			return fmt.Sprintf("%x", data[16:]) // behind the header and a name of four bytes
		}
	}
	return ""
}

// point makes a Point of a function's address. Arguments are in registers there: those of the ABI named by args must not be written
// before.
func (b *binaryFile) point(kind Kind, symbol string, addr uint64, args registers) (Point, error) {
	const prologue = 96
	code, err := b.bytes(addr, prologue)
	if err != nil {
		return Point{}, fmt.Errorf("%s: %w", symbol, err)
	}
	at, stepped := cheapest(code, args)
	off, ok := b.offset(addr + uint64(at)) //nolint:gosec // a few bytes
	if !ok {
		return Point{}, fmt.Errorf("%s at %#x is not in the file", symbol, addr)
	}
	return Point{Kind: kind, Symbol: symbol, Offset: off, Stepped: stepped}, nil
}
