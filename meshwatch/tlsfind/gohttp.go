package tlsfind

import (
	"encoding/binary"
	"fmt"
)

// HTTP is the client of Go's net/http in a binary, and where a goroutine has its number.
type HTTP struct {
	RoundTrip Point  // (*persistConn).roundTrip, in the goroutine that asks
	Write     Point  // persistConnWriter.Write, in that which writes to the connection
	Goid      uint16 // offset of a goroutine's number in the runtime's struct g,
	Parent    uint16 // and of the number of the goroutine that started it
}

const (
	roundTrip     = "net/http.(*persistConn).roundTrip"
	connWrite     = "net/http.persistConnWriter.Write"
	newGoroutine  = "runtime.newproc1"
	saveAncestors = "runtime.saveAncestors"
)

var httpFunctions = [...]string{roundTrip, connWrite, newGoroutine, saveAncestors}

// http finds net/http's client among the functions. It is all there and sure, or an error.
func (f *goFunctions) http() (*HTTP, error) {
	if !f.named[roundTrip] || !f.named[connWrite] {
		return nil, ErrNotHere
	}
	var at [len(httpFunctions)]uint64
	for i, name := range httpFunctions {
		addr, err := f.address(name)
		if err != nil {
			return nil, fmt.Errorf("net/http: %s: %w", name, err)
		}
		at[i] = addr
	}
	h := &HTTP{}
	var err error
	if h.RoundTrip, err = f.b.point(GoRoundTrip, roundTrip, at[0], goArguments); err != nil {
		return nil, err
	}
	if h.Write, err = f.b.point(GoConnWrite, connWrite, at[1], goArguments); err != nil {
		return nil, err
	}
	const most = 4096 // of newproc1's some 1,300 bytes
	code, err := f.b.bytes(at[2], most)
	if err != nil {
		return nil, err
	}
	if h.Goid, h.Parent, err = goroutineNumbers(code, at[3]-at[2]); err != nil {
		return nil, fmt.Errorf("%s: %w", newGoroutine, err)
	}
	return h, nil
}

// goroutineNumbers reads off runtime.newproc1, which starts a goroutine, where struct g has what. Just ahead of its call of
// saveAncestors(callergp) it does, from Go 1.21 on,
//
//	newg.parentGoid = callergp.goid
//	newg.gopc = callerpc
//
// and further down newg.goid = …, which tells whether the former was understood. ancestors is where saveAncestors is, from code's beginning.
func goroutineNumbers(code []byte, ancestors uint64) (goid, parent uint16, err error) {
	var w numbers
	at, called := 0, false
	for at < len(code) {
		i, err := decode(code[at:])
		if err != nil {
			return 0, 0, fmt.Errorf("what begins %d bytes behind its beginning is not understood: %w", at, err)
		}
		next := at + i.length
		calls := i.opcode == 0xe8 && !i.vector
		switch {
		case !called && calls && uint64(next)+uint64(int64(branch(code[at:next]))) == ancestors: //nolint:gosec // modulo 2^64, as addresses
			called = true
			if goid, parent, err = w.found(); err != nil {
				return 0, 0, err
			}
		case !called && calls:
			w = numbers{} // a call leaves no register as it was
		case !called:
			w.step(code[at:next], &i)
		case storesTo(code[at:next], &i, goid):
			return goid, parent, nil
		}
		if i.opcode == 0xcc { // padding behind the function
			break
		}
		at = next
	}
	if !called {
		return 0, 0, fmt.Errorf("it does not call %s", saveAncestors)
	}
	return 0, 0, fmt.Errorf("nothing is written to a goroutine at %d, where its number should be", goid)
}

func branch(call []byte) int32 {
	return int32(binary.LittleEndian.Uint32(call[len(call)-4:])) //nolint:gosec // the bits are meant
}

// numbers is what is known of registers in straight code.
type numbers struct {
	from   [16]int32 // the register was loaded from another's memory at this offset, if loaded
	base   [16]int   // that register
	loaded registers
	copies []copied
}

// copied is a word copied from one place in memory to another.
type copied struct{ base, from, to int32 }

// moves says whether an instruction moves 64 bits between a register and memory at a register other than the stack's, by op: 0x8b to the
// register, 0x89 to memory.
func moves(code []byte, i *instruction, op int) bool {
	return i.opcode == op && !i.vector && code[0]&0xf8 == 0x48 && (i.mod == 1 || i.mod == 2) && i.rm&7 != rsp && i.disp > 0 && i.disp < 1<<12
}

// step notes what an instruction does.
func (n *numbers) step(code []byte, i *instruction) {
	switch {
	case moves(code, i, 0x8b):
		n.from[i.reg], n.base[i.reg] = i.disp, i.rm
		n.loaded |= 1 << i.reg
	case moves(code, i, 0x89) && n.loaded>>i.reg&1 != 0:
		n.copies = append(n.copies, copied{int32(n.base[i.reg]), n.from[i.reg], i.disp}) //nolint:gosec // below 16
	case moves(code, i, 0x89):
		n.copies = append(n.copies, copied{-1, 0, i.disp})
	case i.opcode == 0x8b || i.opcode == 0x8d:
		n.loaded &^= 1 << i.reg
	default:
		if _, written := harmless(code); written != 0 {
			n.loaded &^= written
		}
	}
}

// found is the one word that was copied from what RAX points to, the argument of the call; and gopc behind it.
func (n *numbers) found() (goid, parent uint16, err error) {
	last := len(n.copies) - 1
	if last < 1 || n.copies[last-1].base != 0 || n.copies[last].base != -1 || n.copies[last].to != n.copies[last-1].to+8 {
		return 0, 0, fmt.Errorf("ahead of its call of %s it copies %v, which is not what is known of Go 1.21 and later", saveAncestors, n.copies)
	}
	c := n.copies[last-1]
	return uint16(c.from), uint16(c.to), nil //nolint:gosec // below 4096
}

// storesTo says whether an instruction writes 64 bits at that offset of what a register points to.
func storesTo(code []byte, i *instruction, offset uint16) bool {
	return moves(code, i, 0x89) && i.disp == int32(offset)
}
