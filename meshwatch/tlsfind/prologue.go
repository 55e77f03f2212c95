package tlsfind

import "bytes"

// registers is a set, a bit for each of x86-64's sixteen in their encoding's order: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
type registers uint16

const (
	cArguments   registers = 1<<1 | 1<<2 | 1<<6 | 1<<7         // rdi, rsi, rdx, rcx
	goArguments  registers = 1<<0 | 1<<1 | 1<<3 | 1<<14 | 1<<7 // rax, rbx, rcx, rdi; r14 is the goroutine
	allRegisters registers = 1<<16 - 1
	rsp                    = 4
)

// cheapest is where in a function's first instructions a probe costs least: at the first that the kernel emulates (push, nop, call and
// jumps; arch/x86/kernel/uprobes.c), if all before it leave the arguments alone and are passed by every call. Else, and where
// no register may change, it is the function's first instruction.
func cheapest(code []byte, args registers) (at int, stepped bool) {
	first := 0
	if bytes.HasPrefix(code, endbr64) {
		first = len(endbr64)
	}
	for at = first; at < len(code); {
		behind := args == goArguments && jumpsBehind(code[at:])
		if !behind && emulated(code[at:]) {
			return at, false
		}
		if behind { // where the stack is too small, Go calls runtime.morestack and begins anew
			at += jumpLength(code[at:])
			continue
		}
		n, written := harmless(code[at:])
		if n == 0 || written&args != 0 {
			break
		}
		at += n
	}
	return first, true
}

var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

// emulated says whether the kernel emulates the instruction: where a probe costs one trap, not two.
func emulated(b []byte) bool {
	switch {
	case b[0]&0xf8 == 0x50, b[0] == 0x90, b[0] == 0xe8, b[0] == 0xe9, b[0] == 0xeb:
		return true
	case len(b) > 1 && b[0] == 0x41 && b[1]&0xf8 == 0x50:
		return true
	}
	return conditional(b)
}

func conditional(b []byte) bool {
	return b[0]&0xf0 == 0x70 || len(b) > 1 && b[0] == 0x0f && b[1]&0xf0 == 0x80
}

// jumpsBehind says whether the instruction is the jump of a Go function whose stack is too small: jbe, forwards.
func jumpsBehind(b []byte) bool {
	return len(b) > 5 && (b[0] == 0x76 && b[1] < 0x80 || b[0] == 0x0f && b[1] == 0x86 && b[5] == 0)
}

func jumpLength(b []byte) int {
	if b[0] == 0x76 {
		return 2
	}
	return 6
}

// harmless is the length of an instruction of the kind that functions begin with, and the registers that it writes; 0: it is another.
func harmless(b []byte) (n int, written registers) {
	i, err := decode(b)
	if err != nil {
		return 0, 0
	}
	switch op := i.opcode; {
	case op == 0x83 && i.reg == 5, op == 0x81 && i.reg == 5: // sub imm, r/m
		if i.mod == 3 {
			written = 1 << i.rm
		}
	case op == 0x83 && i.reg == 7, op == 0x81 && i.reg == 7, op == 0x85, op == 0x84, op == 0x39, op == 0x3b, op == 0x38, op == 0x3a: // cmp, test
	case op == 0x89 || op == 0x31: // mov, xor to r/m
		if i.mod == 3 {
			written = 1 << i.rm
		}
	case op == 0x8b || op == 0x33 || op == 0x8d: // mov, xor, lea to reg
		written = 1 << i.reg
	case op == 0xc7: // mov imm to r/m
		if i.mod == 3 {
			written = 1 << i.rm
		}
	default:
		return 0, 0
	}
	return i.length, written
}
