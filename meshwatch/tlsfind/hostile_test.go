package tlsfind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// A segment that claims more than any file has is read to the file's end.
func TestSegmentLargerThanFile(t *testing.T) {
	file := small()
	const firstProg, filesz = 64, 32
	copy(file[0x800:], make([]byte, 0x80)) // no name of ssl_lib.cc
	binary.LittleEndian.PutUint64(file[firstProg+filesz:], 1<<62)
	if _, err := Find(bytes.NewReader(file)); !errors.Is(err, ErrNotHere) {
		t.Errorf("%v, want %v", err, ErrNotHere)
	}
}

// Relocations of which each could be the one that is looked for do not take the square of their number.
func TestRelocationsAlike(t *testing.T) {
	const table, n = 0x1234, 1 << 20
	rela := bytes.Repeat(binary.LittleEndian.AppendUint64(make([]byte, 16), table), n)
	if text, ok := relocated(rela, table); ok {
		t.Errorf("found %#x", text)
	}
}
