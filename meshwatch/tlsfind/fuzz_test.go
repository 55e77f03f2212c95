package tlsfind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"testing"
)

func open(t testing.TB, r io.ReaderAt) *binaryFile {
	t.Helper()
	f, err := elf.NewFile(r)
	if err != nil {
		t.Fatal(err)
	}
	return &binaryFile{f, r}
}

// small is an ELF file with one segment for everything, which has a name of ssl_lib.cc, a table of functions and code.
func small() []byte {
	const base, codeAt, nameAt, tableAt, size = 0x400000, 0x200, 0x800, 0x900, 0x1000
	out := make([]byte, size)
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3, Shentsize: 64,
	}
	progs := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R), Off: nameAt, Vaddr: base + nameAt, Filesz: size - nameAt, Memsz: size - nameAt},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: codeAt, Vaddr: base + codeAt, Filesz: nameAt - codeAt, Memsz: nameAt - codeAt},
		{Type: uint32(elf.PT_GNU_EH_FRAME), Flags: uint32(elf.PF_R), Off: tableAt, Vaddr: base + tableAt, Filesz: 64, Memsz: 64},
	}
	var buf bytes.Buffer
	for _, v := range []any{header, progs} {
		_ = binary.Write(&buf, binary.LittleEndian, v) //nolint:errcheck // to memory
	}
	copy(out, buf.Bytes())
	copy(out[nameAt+1:], "external/boringssl"+sourceFile)
	copy(out[tableAt:], []byte{1, 0x1b, 3, 0x3b, 0, 0, 0, 0, 2, 0, 0, 0})
	for i, f := range []int{codeAt, codeAt + 0x300} {
		binary.LittleEndian.PutUint32(out[tableAt+12+8*i:], uint32(int32(f-tableAt))) //nolint:gosec // a distance
	}
	for i := range 12 { // lea name(%rip), %rcx; mov $226, %edx; mov $900, %r8d; call
		at := codeAt + i*0x40
		copy(out[at:], []byte{0x48, 0x8d, 0x0d})
		binary.LittleEndian.PutUint32(out[at+3:], uint32(nameAt+1-(at+7))) //nolint:gosec // as above
		copy(out[at+7:], []byte{0xba, 226, 0, 0, 0, 0x41, 0xb8, 0x84, 3, 0, 0, 0xe8, 0, 0, 0, 0, 0xc3})
	}
	return out
}

// Whatever a file has, the finder ends, and is not sure of what it cannot be.
func FuzzFind(f *testing.F) {
	f.Add(small())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Find(bytes.NewReader(b))
		if (l == nil) == (err == nil) {
			t.Fatalf("%v, %v", l, err)
		}
		if l != nil {
			for _, p := range l.Points {
				if p.Offset >= uint64(len(b)) {
					t.Errorf("%+v is not in a file of %d bytes", p, len(b))
				}
			}
		}
	})
}

// Code of any bytes is decoded to an end.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x48, 0x8d, 0x0d, 1, 2, 3, 4})
	f.Add([]byte{0x62, 0xf1, 0x7c, 0x48, 0x10, 0x44, 0x24, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := decode(b)
		if err == nil && (i.length < 1 || i.length > len(b) || i.length > maxInstruction) {
			t.Fatalf("% x: %d bytes", b, i.length)
		}
		if len(b) > 0 {
			at, _ := cheapest(append(b, make([]byte, maxInstruction)...), cArguments)
			if at > len(b)+maxInstruction {
				t.Fatalf("a point %d bytes into %d", at, len(b))
			}
		}
	})
}

func TestSmallIsRefused(t *testing.T) {
	l, err := Find(bytes.NewReader(small()))
	if err == nil {
		t.Fatalf("found %+v", l)
	}
	t.Log(err)
}
