package h2

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/net/http2/hpack"

	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// name is a field's, shared by all that is known to have the same: of one that is not known yet b is nil, until somebody learns it.
type name struct{ b []byte }

// field is one header field. Its value is wiped where it is a credential, and nil where it is unknown.
type field struct {
	name  *name
	value []byte
}

// size is the entry's in the table; of one whose name is not known less than that, so that it is kept for too long, when nobody
// refers to it any more.
func (f *field) size() int { return len(f.name.b) + len(f.value) + entryOverhead }

const (
	entryOverhead = 32   // RFC 7541 §4.1
	defaultTable  = 4096 // bytes, SETTINGS_HEADER_TABLE_SIZE
	// largestTable bounds what an encoder can make us keep: more than any known one uses. One that uses more is read as one whose
	// older entries are unknown.
	largestTable = 64 << 10
	// mostUnknown names are remembered of entries that were there before us.
	mostUnknown = 256
)

// table is a connection's dynamic table in one direction, as far as it is known: the entries that were seen to be inserted. Older ones,
// of a connection that was there before us or behind a block that was not seen, are unknown; indices count from the newest, so
// that they need no guess.
type table struct {
	entries  []field // newest last
	bytes    int
	max      int
	inserted int64           // entries, since it was last forgotten
	unknown  map[int64]*name // of entries before these: the last one is 0, the one before -1
}

func newTable() table { return table{max: defaultTable, unknown: map[int64]*name{}} }

// forget is for when insertions may have been missed.
func (t *table) forget() {
	t.entries, t.bytes, t.inserted = t.entries[:0], 0, 0
	clear(t.unknown)
}

func (t *table) add(f field) {
	t.entries = append(t.entries, f)
	t.bytes += f.size()
	t.inserted++
	t.evict()
}

func (t *table) resize(n int) {
	t.max = min(n, largestTable)
	t.evict()
}

func (t *table) evict() {
	n := 0
	for t.bytes > t.max && n < len(t.entries) {
		t.bytes -= t.entries[n].size()
		n++
	}
	if n > 0 {
		t.entries = slices.Delete(t.entries, 0, n)
	}
}

// learn names what had no name.
func (t *table) learn(n *name, b string) {
	n.b = []byte(b)
	t.bytes = 0
	for i := range t.entries {
		t.bytes += t.entries[i].size()
	}
	t.evict()
}

// at is the field of an index. It may be one whose name and value are not known.
func (t *table) at(index uint64) field {
	n := uint64(len(static))
	switch {
	case index <= n:
		return static[index-1]
	case index-n <= uint64(len(t.entries)):
		return t.entries[uint64(len(t.entries))-(index-n)]
	}
	at := t.inserted - int64(index-n) + 1 //nolint:gosec // number is below 2^56
	k := t.unknown[at]
	if k == nil {
		k = &name{}
		if len(t.unknown) < mostUnknown {
			t.unknown[at] = k
		}
	}
	return field{name: k}
}

// static is the static table (RFC 7541, appendix A), as the library has it.
var static = func() (out []field) {
	const entries, indexed = 61, 0x80
	for i := byte(1); i <= entries; i++ {
		fields, err := hpack.NewDecoder(0, nil).DecodeFull([]byte{indexed | i})
		if err != nil {
			panic(err) // the library's table is shorter than the RFC's: the tests would not pass
		}
		out = append(out, field{&name{[]byte(fields[0].Name)}, []byte(fields[0].Value)})
	}
	return out
}()

var errBlock = errors.New("not a header block")

// block decodes a header block and calls emit for each field. It is valid until the next call. After an error what the table holds is
// not known any more.
func (t *table) block(b []byte, buf *bytes.Buffer, emit func(field)) error {
	for len(b) > 0 {
		var index uint64
		var err error
		switch c := b[0]; {
		case c&0x80 != 0: // indexed
			if index, b, err = number(b, 7); err != nil || index == 0 {
				return errBlock
			}
			emit(t.at(index))
		case c&0xe0 == 0x20: // the table's size changes
			if index, b, err = number(b, 5); err != nil || index > 1<<30 {
				return errBlock
			}
			t.resize(int(index)) //nolint:gosec // bounded
		case c&0xc0 == 0x40:
			b, err = t.literal(b, 6, true, buf, emit)
		default:
			b, err = t.literal(b, 4, false, buf, emit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// literal decodes a field that is not, or not all, in the table.
func (t *table) literal(b []byte, prefix uint, insert bool, buf *bytes.Buffer, emit func(field)) ([]byte, error) {
	index, b, err := number(b, prefix)
	if err != nil {
		return nil, err
	}
	buf.Reset()
	var f field
	split := 0
	if index == 0 {
		if b, err = text(b, buf); err != nil {
			return nil, err
		}
		split = buf.Len()
	} else {
		f.name = t.at(index).name
	}
	if b, err = text(b, buf); err != nil {
		return nil, err
	}
	if index == 0 {
		f.name = &name{buf.Bytes()[:split:split]}
	}
	f.value = buf.Bytes()[split:]
	// without a name it might be one, too, and only an id is of use
	if credential(f.name.b) || f.name.b == nil && !isUUID(f.value) {
		for i := range f.value {
			f.value[i] = '*'
		}
	}
	emit(f)
	if insert {
		if index == 0 {
			f.name = &name{bytes.Clone(f.name.b)}
		}
		t.add(field{f.name, bytes.Clone(f.value)})
	}
	return b, nil
}

func isUUID(v []byte) bool {
	const length = 36
	if len(v) != length {
		return false
	}
	id, ok := head.ParseID(v)
	return ok && id.IsUUID()
}

var credentials = head.Credentials()

func credential(name []byte) bool {
	return slices.ContainsFunc(credentials, func(c string) bool { return string(name) == c })
}

// number is an integer of RFC 7541 §5.1.
func number(b []byte, prefix uint) (uint64, []byte, error) {
	if len(b) == 0 {
		return 0, nil, errBlock
	}
	most := uint64(1)<<prefix - 1
	n := uint64(b[0]) & most
	b = b[1:]
	if n < most {
		return n, b, nil
	}
	for shift := uint(0); shift < 56; shift += 7 {
		if len(b) == 0 {
			return 0, nil, errBlock
		}
		c := b[0]
		b = b[1:]
		n += uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			return n, b, nil
		}
	}
	return 0, nil, errBlock
}

// text is a string literal of RFC 7541 §5.2, which is appended to buf.
func text(b []byte, buf *bytes.Buffer) ([]byte, error) {
	if len(b) == 0 {
		return nil, errBlock
	}
	huffman := b[0]&0x80 != 0
	n, b, err := number(b, 7)
	if err != nil || n > uint64(len(b)) {
		return nil, errBlock
	}
	if huffman {
		if _, err := hpack.HuffmanDecode(buf, b[:n]); err != nil {
			return nil, errBlock
		}
	} else {
		buf.Write(b[:n])
	}
	return b[n:], nil
}
