package tlsfind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

// What a Go program writes and reads plaintext with.
const (
	goFunction = "crypto/tls.(*Conn).Write"
	goReads    = "crypto/tls.(*Conn).Read"
)

// pcHeader is the beginning of .gopclntab from Go 1.20 on (runtime/symtab.go, pcHeader).
type pcHeader struct {
	Magic                                    uint32
	_                                        [2]byte
	MinLC, PtrSize                           uint8
	Functions, Files, TextStart              uint64
	Names, Units, FileTable, PCTab, FuncData uint64 // offsets
}

const (
	goMagic118 = 0xfffffff0
	goMagic120 = 0xfffffff1
	// maxNames and maxFunctions bound what is read of a table: programs of 100 MB have 20 MB of names and 300,000 functions.
	maxNames     = 64 << 20
	maxFunctions = 4 << 20
	// maxRelocations is how much of them is read: a Go program of 100 MB has 5 MB.
	maxRelocations = 32 << 20
)

// goTable is the table that the runtime keeps of its functions.
type goTable struct {
	pcHeader
	b *binaryFile
	s *elf.Section
}

// byPclntab finds Go's crypto/tls, also in a stripped binary: the runtime needs the table of its functions.
func byPclntab(b *binaryFile) (*Library, error) {
	t, err := b.goTable()
	if err != nil {
		return nil, err
	}
	found, err := t.functions(append([]string{goFunction, goReads}, httpFunctions[:]...)...)
	if err != nil {
		return nil, err
	}
	addr, err := found.address(goFunction)
	if err != nil {
		return nil, err
	}
	p, err := b.point(GoWrite, goFunction, addr, goArguments)
	if err != nil {
		return nil, err
	}
	l := &Library{Name: "Go crypto/tls", How: "pclntab", Points: append([]Point{p}, found.reads()...)}
	l.HTTP, l.HTTPErr = found.http()
	return l, nil
}

// goTable reads the header of the table; ErrNotHere: this is no Go program.
func (b *binaryFile) goTable() (*goTable, error) {
	s := b.Section(".gopclntab")
	if s == nil {
		s = b.Section(".data.rel.ro.gopclntab")
	}
	if s == nil {
		return nil, ErrNotHere
	}
	t := &goTable{b: b, s: s}
	h := &t.pcHeader
	if err := binary.Read(io.NewSectionReader(s, 0, int64(binary.Size(h))), binary.LittleEndian, h); err != nil {
		return nil, fmt.Errorf("read Go's function table: %w", err)
	}
	if h.Magic != goMagic118 && h.Magic != goMagic120 || h.PtrSize != 8 {
		return nil, fmt.Errorf("the function table of this Go program begins with %#x: this version of it is not known", h.Magic)
	}
	if h.Functions > maxFunctions || h.Names > h.Units || h.Units-h.Names > maxNames || h.FuncData > s.Size {
		return nil, fmt.Errorf("the function table of this Go program has %d functions and %d bytes of names: it is damaged", h.Functions, h.Units-h.Names)
	}
	return t, nil
}

// goFunctions are where some functions begin, from the start of the text.
type goFunctions struct {
	*goTable
	entries map[string]uint32
	ends    map[string]uint32 // where the next function begins
	named   map[string]bool
}

// functions looks for some by name, in one pass. The table has for each function its entry and where more is told of it: the entry again,
// and the name.
func (t *goTable) functions(names ...string) (*goFunctions, error) {
	out := &goFunctions{t, map[string]uint32{}, map[string]uint32{}, map[string]bool{}}
	byName := map[uint32]string{}
	for _, name := range names {
		at, err := t.findName(name)
		if err != nil {
			return nil, err
		}
		if at >= 0 {
			byName[uint32(at)], out.named[name] = name, true //nolint:gosec // within maxNames
		}
	}
	if len(byName) == 0 {
		return out, nil
	}
	table := make([]byte, 8*t.Functions)
	if _, err := t.s.ReadAt(table, int64(t.FuncData)); err != nil { //nolint:gosec // within the section
		return nil, fmt.Errorf("read Go's function table: %w", err)
	}
	var f [8]byte
	for ; len(table) >= 8 && len(out.entries) < len(byName); table = table[8:] {
		entry, at := binary.LittleEndian.Uint32(table), binary.LittleEndian.Uint32(table[4:])
		if _, err := t.s.ReadAt(f[:], int64(t.FuncData)+int64(at)); err != nil { //nolint:gosec // as above
			return nil, fmt.Errorf("read a function of Go's table: %w", err)
		}
		if name := byName[binary.LittleEndian.Uint32(f[4:])]; name != "" && binary.LittleEndian.Uint32(f[:]) == entry {
			out.entries[name] = entry
			if len(table) >= 12 {
				out.ends[name] = binary.LittleEndian.Uint32(table[8:])
			}
		}
	}
	return out, nil
}

// findName is where among the names the function's is, as an offset from their beginning; -1: nowhere.
func (t *goTable) findName(name string) (int64, error) {
	want := append(append([]byte{0}, name...), 0)
	at, err := search(t.s, t.Names, t.Units, want)
	if err != nil {
		return 0, fmt.Errorf("read the names of Go's functions: %w", err)
	}
	if at < 0 {
		return -1, nil
	}
	return at + 1 - int64(t.Names), nil //nolint:gosec // within maxNames
}

// address is where a function begins. ErrNotHere: the program has none of that name.
func (f *goFunctions) address(name string) (uint64, error) {
	if !f.named[name] {
		return 0, ErrNotHere
	}
	entry, ok := f.entries[name]
	if !ok {
		return 0, fmt.Errorf("%s has a name but is no function: it was inlined or left out", name)
	}
	return f.b.goAddress(&f.pcHeader, f.s.Addr, name, entry)
}

// mostCode is more than the function that reads has: 1 KB.
const mostCode = 16 << 10

// reads are where plaintext is read: where the function begins, and each RET of it. None, unless all of it is understood.
func (f *goFunctions) reads() []Point {
	addr, err := f.address(goReads)
	size := uint64(f.ends[goReads] - f.entries[goReads])
	if err != nil || size == 0 || size > mostCode {
		return nil
	}
	begin, err := f.b.point(GoRead, goReads, addr, goArguments)
	code, codeErr := f.b.bytes(addr, size)
	if err != nil || codeErr != nil || uint64(len(code)) != size {
		return nil
	}
	points := []Point{begin}
	for at := 0; at < len(code); {
		i, err := decode(code[at:])
		if err != nil {
			return nil
		}
		if off, ok := f.b.offset(addr + uint64(at)); ok && i.opcode == opRet && !i.vector { //nolint:gosec // not negative
			points = append(points, Point{Kind: GoReadEnd, Symbol: goReads, Offset: off, Stepped: true})
		}
		at += i.length
	}
	if len(points) == 1 {
		return nil
	}
	return points
}

const opRet = 0xc3

// search finds bytes between two offsets, a part at a time; -1: they are not there.
func search(r io.ReaderAt, from, to uint64, want []byte) (int64, error) {
	const part = 1 << 20
	buf := make([]byte, part)
	for at := from; at < to; at += part - uint64(len(want)) { // parts overlap
		n, err := r.ReadAt(buf[:min(part, to-at)], int64(at)) //nolint:gosec // a file has less
		if err != nil && err != io.EOF {
			return 0, err
		}
		if i := bytes.Index(buf[:n], want); i >= 0 {
			return int64(at) + int64(i), nil //nolint:gosec // as above
		}
		if err == io.EOF {
			break // headers may claim more than the file has, up to 2^64 bytes
		}
	}
	return -1, nil
}

// goAddress is the address of a function of the table. What its entries count from, runtime.text, is in the table until Go 1.25, in the
// runtime's moduledata, and is where .text begins unless C code stands before it: the one is right where a function that needs
// a stack begins.
func (b *binaryFile) goAddress(h *pcHeader, table uint64, name string, entry uint32) (uint64, error) {
	bases := []uint64{h.TextStart}
	if text, ok := b.moduleText(table); ok {
		bases = append(bases, text)
	}
	if s := b.Section(".text"); s != nil {
		bases = append(bases, s.Addr)
	}
	for _, base := range bases {
		code, err := b.bytes(base+uint64(entry), 32)
		if base != 0 && err == nil && growsStack(code) {
			return base + uint64(entry), nil
		}
	}
	return 0, fmt.Errorf("%s is not where Go's function table has it, counted from any of %#x", name, bases)
}

// growsStack says whether code begins as a Go function that asks whether its stack is large enough: cmp 16(R14), SP, or a lower address.
func growsStack(code []byte) bool {
	if bytes.HasPrefix(code, []byte{0x4c, 0x8d, 0x64, 0x24}) { // lea -x(SP), R12
		code = code[5:]
	} else if bytes.HasPrefix(code, []byte{0x4c, 0x8d, 0xa4, 0x24}) {
		code = code[8:]
	}
	return bytes.HasPrefix(code, []byte{0x49, 0x3b, 0x66, 0x10}) || bytes.HasPrefix(code, []byte{0x4d, 0x3b, 0x66, 0x10})
}

// Words of the runtime's moduledata (runtime/symtab.go): the first is the table's address.
const (
	moduleTextWord = 22
	word           = 8
	relaSize       = 24 // Elf64_Rela: offset, info, addend
)

// moduleText is runtime.text as moduledata has it: in the file, or for a position-independent binary in its relocations.
func (b *binaryFile) moduleText(table uint64) (uint64, bool) {
	if s := b.Section(".rela.dyn"); s != nil && s.Size <= maxRelocations {
		if data, err := s.Data(); err == nil {
			if text, ok := relocated(data, table); ok {
				return text, true
			}
		}
	}
	var want [word]byte
	binary.LittleEndian.PutUint64(want[:], table)
	for _, name := range []string{".go.module", ".noptrdata", ".data", ".data.rel.ro"} {
		s := b.Section(name)
		if s == nil || s.Type == elf.SHT_NOBITS {
			continue
		}
		at, err := search(s, 0, s.Size, want[:])
		if err != nil || at < 0 {
			continue
		}
		var text [word]byte
		if _, err := s.ReadAt(text[:], at+moduleTextWord*word); err == nil {
			return binary.LittleEndian.Uint64(text[:]), true
		}
	}
	return 0, false
}

// relocated finds moduledata's text among relocations: that of its first word has the table's address.
func relocated(rela []byte, table uint64) (uint64, bool) {
	field := func(at, n int) uint64 { return binary.LittleEndian.Uint64(rela[at+n*word:]) }
	const mostTries = 16 // each goes through all of them
	tries := 0
	for at := 0; at+relaSize <= len(rela) && tries < mostTries; at += relaSize {
		if field(at, 2) != table {
			continue
		}
		tries++
		want := field(at, 0) + moduleTextWord*word
		for to := 0; to+relaSize <= len(rela); to += relaSize {
			if field(to, 0) == want {
				return field(to, 2), true
			}
		}
	}
	return 0, false
}
