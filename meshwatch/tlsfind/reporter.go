package tlsfind

import (
	"fmt"
	"slices"
)

// maxFunction is the largest function that is read, in bytes: those of ssl_lib.cc have some hundred.
const maxFunction = 64 << 10

// reporters read the functions that have references to the source file's name.
func (b *binaryFile) reporters(functions, refs []uint64, name uint64) (out []*reporter, err error) {
	for _, ref := range refs {
		if n := len(out); n > 0 && ref >= out[n-1].start && ref < out[n-1].end {
			continue
		}
		start, end, ok := functionAt(functions, ref)
		if !ok || end-start > maxFunction {
			return nil, fmt.Errorf("BoringSSL: the reference at %#x is in no function of at most %d bytes", ref, maxFunction)
		}
		r := &reporter{start: start, end: end, lines: map[uint32][2]uint32{}}
		if err := b.read(r, name); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Registers, by their number: where an error report has library, reason and line, and the name (ERR_put_error's arguments).
const (
	rdx = 2
	rcx = 1
	r8  = 8
)

// block is what a stretch of instructions without a jump has put in registers.
type block struct {
	reason, line uint32
	reported     bool // the name of the source file
}

// read decodes a function from its first instruction to its last.
func (b *binaryFile) read(r *reporter, name uint64) error {
	code, err := b.bytes(r.start, r.end-r.start)
	if err != nil {
		return err
	}
	var k block
	for at := 0; at < len(code); {
		i, err := decode(code[at:])
		if err != nil {
			if at > 0 && code[at-1] == 0xcc || len(code)-at < maxInstruction {
				break // padding, or the end
			}
			return fmt.Errorf("BoringSSL: the code at %#x is not understood", r.start+uint64(at)) //nolint:gosec // within the function
		}
		next := r.start + uint64(at+i.length) //nolint:gosec // as above
		r.take(&k, &i, next, name)
		at += i.length
	}
	return nil
}

// take notes what an instruction means for the reports of its function.
func (r *reporter) take(k *block, i *instruction, next, name uint64) {
	target := next + uint64(int64(i.disp)) //nolint:gosec // a signed distance
	switch op := i.opcode; {
	case i.vector:
	case op == 0x8d && i.ripRel && target == name:
		k.reported = true
	case op >= 0xb8 && op <= 0xbf && i.hasImm: // mov imm to a register
		k.set(i.rm, i.imm)
		k.reported = k.reported || uint64(i.imm) == name
	case op == 0x83 && i.reg&7 == 7 && i.imm == 0 && i.mod == 1 && r.initialized == 0: // cmp $0, disp(reg)
		r.initialized = i.disp
	case op == 0xff && i.reg&7 == 2 && !i.ripRel:
		r.indirect = true
	case op == 0xe8:
		r.calls = append(r.calls, target)
		if k.reported {
			r.callees = append(r.callees, target)
		}
		r.over(k)
	case op == 0xe9, op == 0xeb, op >= 0x70 && op <= 0x7f, op >= 0x0f80 && op <= 0x0f8f, op == 0xc3:
		r.over(k)
	}
}

func (k *block) set(register int, v uint32) {
	switch register {
	case rdx:
		k.reason = v
	case r8:
		k.line = v
	}
}

// over ends a block: a reason and a line that it has are of one report, which several blocks may share the call of.
func (r *reporter) over(k *block) {
	const lastLine = 20000
	if k.reason != 0 && k.line != 0 && k.line < lastLine {
		l, ok := r.lines[k.reason]
		if !ok {
			l[0] = k.line
		}
		r.lines[k.reason] = [2]uint32{min(l[0], k.line), max(l[1], k.line)}
	}
	*k = block{}
}

// classify tells SSL_write and what gives plaintext from the other functions, and checks that all of it fits together.
func (b *binaryFile) classify(functions []uint64, all []*reporter) (write uint64, reads []uint64, err error) {
	var writes, readers, ends []*reporter
	for _, r := range all {
		switch {
		case r.has(reasonDataAtEnd):
			ends = append(ends, r)
		case r.has(reasonUninit, reasonHandshake) && (r.has(reasonLength) || r.has(reasonShutdown)):
			writes = append(writes, r)
		case r.has(reasonUninit, reasonHandshake):
			readers = append(readers, r)
		}
	}
	if len(writes) != 1 || len(readers) != 1 || len(ends) > 1 {
		return 0, nil, fmt.Errorf("%d functions report as SSL_write does, %d as ssl_read_impl, %d as SSL_shutdown, where there is one of each; %s",
			len(writes), len(readers), len(ends), seen(all))
	}
	w, impl := writes[0], readers[0]
	if err := b.consistent(w, impl, ends); err != nil {
		return 0, nil, fmt.Errorf("%w; %s", err, seen(all))
	}
	outer, err := b.callers(functions, all, impl, w, ends)
	if err != nil {
		return 0, nil, fmt.Errorf("%w; %s", err, seen(all))
	}
	return w.start, outer, nil
}

// consistent checks that functions are of one source: in its order, reporting to the same callee, and asking the same field first.
func (b *binaryFile) consistent(w, impl *reporter, ends []*reporter) error {
	wFrom, wTo := w.span()
	_, implTo := impl.span()
	switch {
	case implTo >= wFrom:
		return fmt.Errorf("ssl_read_impl ends at line %d and SSL_write begins at %d: not the order of the source", implTo, wFrom)
	case wTo-wFrom >= mostLines:
		return fmt.Errorf("SSL_write reports from line %d to %d: it is no such function", wFrom, wTo)
	case !w.indirect:
		return fmt.Errorf("SSL_write calls nothing by pointer, where it should call its method's write_app_data")
	case w.initialized == 0 || w.initialized != impl.initialized && impl.initialized != 0:
		return fmt.Errorf("SSL_write and ssl_read_impl ask different fields (%#x, %#x) whether there is a handshake", w.initialized, impl.initialized)
	}
	callees := slices.Concat(w.callees, impl.callees)
	for _, r := range ends {
		if from, _ := r.span(); from <= wTo {
			return fmt.Errorf("SSL_shutdown begins at line %d and SSL_write ends at %d: not the order of the source", from, wTo)
		}
		callees = append(callees, r.callees...)
	}
	slices.Sort(callees)
	if callees = slices.Compact(callees); len(callees) != 1 {
		return fmt.Errorf("errors are reported by %d functions, where ERR_put_error is one", len(callees))
	}
	return nil
}

// callers are the functions that call ssl_read_impl, of which SSL_read is one, or is all of them (SSL_peek may be part of it); or itself,
// where it is part of SSL_read.
func (b *binaryFile) callers(functions []uint64, all []*reporter, impl, w *reporter, ends []*reporter) ([]uint64, error) {
	if impl.has(reasonNotCalled) {
		return []uint64{impl.start}, nil
	}
	_, implTo := impl.span()
	wFrom, _ := w.span()
	var out []uint64
	for _, r := range all {
		if !slices.Contains(r.calls, impl.start) || slices.Contains(ends, r) || r == w {
			continue
		}
		from, to := r.span()
		if !r.has(reasonNotCalled) || from <= implTo || to >= wFrom {
			return nil, fmt.Errorf("what calls ssl_read_impl reports from line %d to %d, where SSL_read should stand between %d and %d", from, to, implTo, wFrom)
		}
		out = append(out, r.start)
	}
	if len(out) != 1 && len(out) != 2 {
		return nil, fmt.Errorf("%d functions call ssl_read_impl, where SSL_read and perhaps SSL_peek do", len(out))
	}
	return out, nil
}

// seen lists what functions report, for whoever must find out why they were refused.
func seen(all []*reporter) (out string) {
	out = "seen"
	for _, r := range all {
		from, to := r.span()
		reasons := make([]uint32, 0, len(r.lines))
		for reason := range r.lines {
			reasons = append(reasons, reason)
		}
		slices.Sort(reasons)
		out += fmt.Sprintf(" %#x(lines %d-%d: %d)", r.start, from, to, reasons)
	}
	return out
}
