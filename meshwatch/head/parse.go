package head

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
)

// DefaultRequestIDHeader is what Envoy, Istio and most applications use.
const DefaultRequestIDHeader = "X-Request-ID"

// Parser reads heads. It does not change after New: any number of goroutines may use one.
type Parser struct {
	byLen    [][]entry       // fields looked for, by the length of their name
	first    []uint32        // the first letters of these, a bit for each, by the same: most lines are nobody's
	captures int             // length of Config.CaptureHeaders
	id       string          // the first field that is looked for as the request's id, in lower case
	skip     map[string]bool // see EndToEnd
}

// entry is one field that is looked for. One name may have several: as request id and as captured, say.
type entry struct {
	name  string // lower case
	field field
	index int // in Config's list, for fieldRequestID and fieldCapture
}

// New makes a parser that looks for the configured fields.
func New(c Config) *Parser {
	p := &Parser{captures: len(c.CaptureHeaders), skip: skipped(c)}
	for f, name := range fieldNames {
		if name != "" {
			p.add(entry{name: name, field: field(f)}) //nolint:gosec // an index of a small array
		}
	}
	for _, name := range Credentials() {
		p.add(entry{name: name, field: fieldCredential})
	}
	ids := c.RequestIDHeaders
	if len(ids) == 0 {
		ids = []string{DefaultRequestIDHeader}
	}
	p.id = strings.ToLower(ids[0])
	for i, name := range ids {
		p.add(entry{strings.ToLower(name), fieldRequestID, i})
	}
	for i, name := range c.CaptureHeaders {
		p.add(entry{strings.ToLower(name), fieldCapture, i})
	}
	return p
}

// RequestIDHeader is the field that the request's id is looked for in first, in lower case.
func (p *Parser) RequestIDHeader() string { return p.id }

func (p *Parser) add(e entry) {
	for len(p.byLen) <= len(e.name) {
		p.byLen, p.first = append(p.byLen, nil), append(p.first, 0)
	}
	p.first[len(e.name)] |= 1 << (e.name[0] & 31)
	p.byLen[len(e.name)] = append(p.byLen[len(e.name)], e)
}

// Parse reads the head at the start of b into h, which is reset first. Where a message came in pieces, b is all of them
// joined: the result is the same however they were cut. The values of Credentials are wiped in b. h is meaningful for Complete and NeedMore; for Malformed only
// h.Reason is. Allocates once per Head, and only for captured fields. About 350 ns for a head of 270 bytes (BenchmarkRequest).
func (p *Parser) Parse(b []byte, h *Head) Result {
	p.reset(h)
	if len(b) > MaxLen {
		b = b[:MaxLen]
	}
	r, known := sniff(b)
	if known {
		return r
	}
	n, r := startLine(b, h)
	if r == Complete {
		var s scratch
		r = p.lines(b, n, h, &s)
		r = s.finish(h, r)
	}
	if r == NeedMore && len(b) == MaxLen {
		return h.malformed(ReasonTooLong)
	}
	return r
}

func (p *Parser) reset(h *Head) {
	captured := h.Captured
	if cap(captured) < p.captures {
		captured = make([][]byte, p.captures)
	}
	captured = captured[:p.captures]
	clear(captured)
	*h = Head{Captured: captured, ContentLength: -1, RequestIDHeader: -1}
}

func (h *Head) malformed(why Reason) Result {
	h.Reason, h.HeadLen = why, 0
	return Malformed
}

// lines reads the field lines from b[at:] up to the blank line.
func (p *Parser) lines(b []byte, at int, h *Head, s *scratch) Result {
	start, crs := at, 0
	r, why := NeedMore, ReasonNone
	for at < len(b) && r == NeedMore && why == ReasonNone {
		n := at + nameLen(b[at:])
		if n == at || n == len(b) || b[n] != ':' {
			r, why = lineWithoutName(b[at:], n-at, h, at)
			break
		}
		i := bytes.IndexByte(b[n:], '\n')
		if i < 0 {
			p.wipeCut(b[at:n], b[n+1:])
			break
		}
		end := n + i
		value := b[n+1 : end]
		if len(value) > 0 && value[len(value)-1] == '\r' {
			value = value[:len(value)-1]
			crs++
		}
		if n-at < len(p.first) && p.first[n-at]>>(b[at]&31)&1 != 0 {
			why = p.field(b[at:n], value, h, s)
		}
		at = end + 1
	}
	if hasControl(b[start:at], crs) {
		why = ReasonControl
	}
	if why != ReasonNone {
		return h.malformed(why)
	}
	return r
}

// nameLen is the length of the visible ASCII, without a colon, at the start of b: wider than RFC 9110's token by DEL and
// the separators, which contradicts nobody about where a name ends. Eight bytes at a time: half of a head is names.
func nameLen(b []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	const colons = ':' * ones
	n := 0
	for ; n+8 <= len(b); n += 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		low, colon := (x-'!'*ones)&^x, (x^colons-ones)&^(x^colons) // high bits: below '!', zero; exact up to the first
		if m := (low | colon | x) & high; m != 0 {
			return n + bits.TrailingZeros64(m)/8
		}
	}
	for n < len(b) && b[n] > ' ' && b[n] != ':' && b[n] < 0x80 {
		n++
	}
	return n
}

// lineWithoutName is for a line whose first n bytes could be a name, without a colon after them.
func lineWithoutName(line []byte, n int, h *Head, at int) (Result, Reason) {
	switch {
	case n == len(line), n == 0 && string(line) == "\r":
		return NeedMore, ReasonNone
	case n == 0 && line[0] == '\n':
		h.HeadLen = at + 1
		return Complete, ReasonNone
	case n == 0 && line[0] == '\r' && line[1] == '\n':
		h.HeadLen = at + 2
		return Complete, ReasonNone
	case n == 0 && (line[0] == ' ' || line[0] == '\t'):
		return Malformed, ReasonFold
	}
	return Malformed, ReasonName
}

// field hands a line to the fields of its name.
func (p *Parser) field(name, value []byte, h *Head, s *scratch) Reason {
	for i := range p.byLen[len(name)] {
		e := &p.byLen[len(name)][i]
		if lower[name[0]] != e.name[0] || string(name) != e.name && !equalFold(name, e.name) {
			continue // proxies write lower case: compare that first
		}
		if why := s.field(e, trim(value), h); why != ReasonNone {
			return why
		}
	}
	return ReasonNone
}

// wipeCut wipes as much of a value as there is, if it is one of Credentials.
func (p *Parser) wipeCut(name, value []byte) {
	if len(name) >= len(p.byLen) {
		return
	}
	for _, e := range p.byLen[len(name)] {
		if e.field == fieldCredential && equalFold(name, e.name) {
			wipe(value)
		}
	}
}

// hasControl says whether lines, of which crs end in CR LF, hold a byte that two readers may take for different line
// ends. Other control bytes are let through, as RFC 9110 §5.5 allows. Whole lines at once: a call costs more than a line.
func hasControl(lines []byte, crs int) bool {
	return bytes.IndexByte(lines, 0) >= 0 || bytes.Count(lines, []byte{'\r'}) != crs
}

// trim takes the optional white space off both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold compares with a lower-case name.
func equalFold(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i, c := range b {
		if lower[c] != name[i] {
			return false
		}
	}
	return true
}
