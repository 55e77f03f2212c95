package tlsfind

import (
	"encoding/binary"
	"errors"
)

// instruction is what is known of one of x86-64's instructions: how long it is, and what of it matters here.
type instruction struct {
	length  int
	opcode  int // one byte; with 0x0f before it 0x0f00 + the byte, with more 0x0f3800 and 0x0f3a00
	reg, rm int // of ModRM, with REX; of mov imm to a register that is rm
	mod     int
	disp    int32 // displacement; of a branch its distance
	imm     uint32
	hasImm  bool
	ripRel  bool // the operand in memory is disp behind the instruction
	vector  bool // VEX or EVEX: opcode means something else
}

var errInstruction = errors.New("not an instruction")

// decode reads one instruction: its length exactly, of what it does only what the callers ask (Intel's manual, volume 2, chapter 2).
func decode(b []byte) (i instruction, err error) {
	d := decoder{b: b}
	d.prefixes()
	d.opcode()
	if d.hasModRM() {
		d.modRM()
	}
	d.immediate()
	if d.at > len(b) || d.at > maxInstruction || d.bad {
		return instruction{}, errInstruction
	}
	d.i.length = d.at
	return d.i, nil
}

const maxInstruction = 15

type decoder struct {
	b       []byte
	at      int
	i       instruction
	rex     byte
	data16  bool
	addr32  bool
	bad     bool
	table   int // opcode table: 1, 0x0f, 0x0f38, 0x0f3a
	primary byte
}

// next is the next byte; 0 behind the end, which decode notices.
func (d *decoder) next() byte {
	d.at++
	if d.at > len(d.b) {
		return 0
	}
	return d.b[d.at-1]
}

func (d *decoder) peek() byte {
	if d.at < len(d.b) {
		return d.b[d.at]
	}
	return 0
}

func (d *decoder) prefixes() {
	for d.at < maxInstruction {
		switch d.peek() {
		case 0x66:
			d.data16 = true
		case 0x67:
			d.addr32 = true
		case 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65:
		default:
			if d.peek()&0xf0 == 0x40 {
				d.rex = d.next()
			}
			return
		}
		d.next()
	}
}

func (d *decoder) opcode() {
	d.table, d.primary = 1, d.next()
	switch d.primary {
	case 0x0f:
		d.escape()
	case 0xc4: // VEX of three bytes: R X B and table, W vvvv L pp, opcode
		p := d.next()
		d.rex = ^p >> 5 & 7
		d.vex(p & 0x1f)
		d.next()
		d.primary = d.next()
	case 0xc5: // of two
		p := d.next()
		d.rex = ^p >> 5 & 4
		d.vex(1)
		d.primary = d.next()
	case 0x62: // EVEX
		p := d.next()
		d.rex = ^p >> 5 & 7
		d.vex(p & 7)
		d.next()
		d.next()
		d.primary = d.next()
	}
	switch d.table {
	case 1:
		d.i.opcode = int(d.primary)
	default:
		d.i.opcode = d.table<<8 | int(d.primary)
	}
}

func (d *decoder) escape() {
	d.table, d.primary = 0x0f, d.next()
	switch d.primary {
	case 0x38:
		d.table, d.primary = 0x0f38, d.next()
	case 0x3a:
		d.table, d.primary = 0x0f3a, d.next()
	}
}

// vex takes the table that a VEX or EVEX prefix names.
func (d *decoder) vex(table byte) {
	d.i.vector = true
	switch table {
	case 1, 5, 6: // 5 and 6: AVX512-FP16
		d.table = 0x0f
	case 2:
		d.table = 0x0f38
	case 3:
		d.table = 0x0f3a
	default:
		d.bad = true
	}
}

// hasModRM says whether the opcode is followed by one.
func (d *decoder) hasModRM() bool {
	op := d.primary
	switch d.table {
	case 0x0f38, 0x0f3a:
		return true
	case 0x0f:
		if d.i.vector {
			return op != 0x77 // vzeroupper
		}
		switch {
		case op >= 0x80 && op <= 0x8f, op >= 0xc8 && op <= 0xcf, op >= 0x30 && op <= 0x37: // jcc, bswap, rdtsc and its like
			return false
		}
		switch op {
		case 0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0e, 0x77, 0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xaa:
			return false
		}
		return true
	}
	switch {
	case op < 0x40:
		return op&7 < 4
	case op >= 0x80 && op <= 0x8f, op >= 0xd8 && op <= 0xdf, op >= 0xd0 && op <= 0xd3:
		return true
	}
	switch op {
	case 0x63, 0x69, 0x6b, 0xc0, 0xc1, 0xc6, 0xc7, 0xf6, 0xf7, 0xfe, 0xff:
		return true
	}
	return false
}

func (d *decoder) modRM() {
	m := d.next()
	d.i.mod, d.i.reg, d.i.rm = int(m>>6), int(m>>3&7)|int(d.rex&4)<<1, int(m&7)|int(d.rex&1)<<3
	if d.i.mod == 3 {
		return
	}
	base := m & 7
	if base == 4 {
		base = d.next() & 7 // of the SIB byte
		if base == 5 && d.i.mod == 0 {
			d.disp(4)
			return
		}
	} else if base == 5 && d.i.mod == 0 {
		d.i.ripRel = true
		d.disp(4)
		return
	}
	switch d.i.mod {
	case 1:
		d.disp(1)
	case 2:
		d.disp(4)
	}
}

func (d *decoder) disp(n int) {
	d.i.disp = int32(d.number(n)) //nolint:gosec // the bits are meant
	if n == 1 {
		d.i.disp = int32(int8(d.i.disp)) //nolint:gosec // as above
	}
}

// number reads n bytes, the first the lowest.
func (d *decoder) number(n int) uint32 {
	var b [4]byte
	for i := range n {
		b[i] = d.next()
	}
	return binary.LittleEndian.Uint32(b[:])
}

func (d *decoder) imm(n int) {
	if n > 4 {
		d.at += n
		return
	}
	d.i.imm, d.i.hasImm = d.number(n), true
}

// word is the size of an immediate that is of the operand's size, at most four bytes.
func (d *decoder) word() int {
	if d.data16 && d.rex&8 == 0 {
		return 2
	}
	return 4
}

// immediate reads what follows opcode and operand.
func (d *decoder) immediate() {
	op := d.primary
	switch d.table {
	case 0x0f38:
		return
	case 0x0f3a:
		d.imm(1)
		return
	case 0x0f:
		switch {
		case !d.i.vector && op >= 0x80 && op <= 0x8f:
			d.disp(4)
		case op >= 0x70 && op <= 0x73, op == 0xc2, op >= 0xc4 && op <= 0xc6, !d.i.vector && (op == 0xa4 || op == 0xac || op == 0xba):
			d.imm(1)
		}
		return
	}
	switch {
	case op < 0x40 && op&7 == 4, op >= 0xb0 && op <= 0xb7:
		d.imm(1)
	case op < 0x40 && op&7 == 5:
		d.imm(d.word())
	case op >= 0x70 && op <= 0x7f, op >= 0xe0 && op <= 0xe3, op == 0xeb:
		d.disp(1)
	case op >= 0xb8 && op <= 0xbf:
		d.i.rm = int(op&7) | int(d.rex&1)<<3
		if d.rex&8 != 0 {
			d.imm(8)
		} else {
			d.imm(d.word())
		}
	default:
		d.otherImmediate()
	}
}

func (d *decoder) otherImmediate() {
	switch d.primary {
	case 0x6a, 0x6b, 0x80, 0x83, 0xa8, 0xc0, 0xc1, 0xc6, 0xcd, 0xd4, 0xd5, 0xe4, 0xe5, 0xe6, 0xe7:
		d.imm(1)
	case 0x68, 0x69, 0x81, 0xa9, 0xc7:
		d.imm(d.word())
	case 0xe8, 0xe9:
		d.disp(4)
	case 0xc2, 0xca:
		d.imm(2)
	case 0xc8:
		d.imm(2)
		d.next()
	case 0xa0, 0xa1, 0xa2, 0xa3:
		if d.addr32 {
			d.imm(4)
		} else {
			d.imm(8)
		}
	case 0xf6:
		if d.i.reg&7 < 2 {
			d.imm(1)
		}
	case 0xf7:
		if d.i.reg&7 < 2 {
			d.imm(d.word())
		}
	}
}
