package tlsfind

import (
	"debug/elf"
	"errors"
	"fmt"
	"strings"
)

// ofSymbol are the functions that have points. All four may be probed: each takes its own way to what they share.
var ofSymbol = map[string]Kind{"SSL_write": Write, "SSL_write_ex": WriteEx, "SSL_read": Read, "SSL_read_ex": ReadEx}

// maxSymbols is the largest table that is read, in bytes: it takes five times as much memory.
const maxSymbols = 8 << 20

// bySymbols finds OpenSSL, or a BoringSSL that has its symbols: a shared library, or a static one that was not stripped.
func bySymbols(b *binaryFile) (*Library, error) {
	l := &Library{Name: "OpenSSL", How: "symbols"}
	for _, table := range []struct {
		section string
		read    func() ([]elf.Symbol, error)
	}{{".dynsym", b.DynamicSymbols}, {".symtab", b.Symbols}} {
		s := b.Section(table.section)
		if s == nil || s.Size > maxSymbols {
			continue
		}
		symbols, err := table.read()
		if errors.Is(err, elf.ErrNoSymbols) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", table.section, err)
		}
		if err := l.add(b, symbols); err != nil {
			return nil, err
		}
		if l.Points != nil {
			return l, nil
		}
	}
	return nil, ErrNotHere
}

// add takes the points that a symbol table names.
func (l *Library) add(b *binaryFile, symbols []elf.Symbol) error {
	for i := range symbols {
		s := &symbols[i]
		if strings.Contains(s.Name, "BORINGSSL") || strings.Contains(s.Name, "bssl") {
			l.Name = "BoringSSL"
		}
		kind, ok := ofSymbol[s.Name]
		if !ok || s.Section == elf.SHN_UNDEF || s.Value == 0 || elf.ST_TYPE(s.Info) != elf.STT_FUNC {
			continue
		}
		args := cArguments
		if kind == Read || kind == ReadEx {
			args = allRegisters // the probe on its return needs the stack as it is where the function begins
		}
		p, err := b.point(kind, s.Name, s.Value, args)
		if err != nil {
			return err
		}
		l.Points = append(l.Points, p)
	}
	return nil
}
