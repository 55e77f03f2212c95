package netpath

import (
	"bytes"
	"encoding/binary"
	"iter"
)

const nlaTypeMask = 0x3fff // linux/netlink.h NLA_TYPE_MASK: without the nested and byte-order flags

// attributes walks the netlink attributes in b; bytes that are no whole attribute end the walk.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
			if size < 4 || size > len(b) {
				return
			}
			if !yield(kind, b[4:size]) {
				return
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

// attribute is the first attribute of a kind in b, nil when there is none.
func attribute(b []byte, kind uint16) []byte {
	for k, v := range attributes(b) {
		if k == kind {
			return v
		}
	}
	return nil
}

// text is a string attribute without its final zero.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// be32 is a number of nf_tables, which writes them in network byte order; 0 and false when it is cut short.
func be32(b []byte) (uint32, bool) {
	if len(b) < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}
