package head

import "encoding/binary"

// sniff recognises what is not HTTP/1.x by its first bytes. known is false where the start line has to tell.
func sniff(b []byte) (r Result, known bool) {
	switch {
	case len(b) == 0:
		return NeedMore, true
	case b[0] >= 20 && b[0] <= 23:
		return tlsRecord(b), true
	case b[0] == 0:
		return frame(b), true
	case !begins(b, preface):
		return NotHTTP, false
	case len(b) < len(preface):
		return NeedMore, true
	}
	return HTTP2, true
}

// tlsRecord reads a record header: type 20 to 23 (change cipher spec, alert, handshake, application data), version 3.0
// to 3.4, length in bytes (RFC 8446 §5.1; older versions allow 2 KiB more).
func tlsRecord(b []byte) Result {
	const maxRecord = 16<<10 + 2<<10
	switch {
	case len(b) > 1 && b[1] != 3, len(b) > 2 && b[2] > 4:
		return NotHTTP
	case len(b) < 5:
		return NeedMore
	}
	if n := binary.BigEndian.Uint16(b[3:]); n == 0 || n > maxRecord {
		return NotHTTP
	}
	return TLS
}

// frame reads an HTTP/2 frame header of at most the default frame size (16 KiB, so the first byte is 0), for connections
// whose preface was not seen. One that is not exactly as RFC 9113 §6 allows is not taken for one; length-prefixed binary
// protocols can still look the same, which does no harm as both are opaque.
func frame(b []byte) Result {
	const headerLen = 9
	if len(b) < headerLen {
		return NeedMore
	}
	if !IsFrame(b) {
		return NotHTTP
	}
	return HTTP2
}

// IsFrame says whether nine bytes are the header of an HTTP/2 frame of at most the default size that is exactly as RFC 9113 §6 allows.
// Types that are not the RFC's are none.
func IsFrame(b []byte) bool {
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	stream := binary.BigEndian.Uint32(b[5:])
	return n <= 16<<10 && stream <= 1<<31-1 && frameFits(b[3], b[4], n, stream)
}

// frameFits says whether a frame of this type may have these flags, length in bytes and stream.
func frameFits(typ, flags byte, n int, stream uint32) bool {
	switch typ {
	case 0: // DATA: END_STREAM, PADDED; an empty one only ends the stream
		return flags&^0x9 == 0 && stream > 0 && (n > 0 || flags&1 != 0)
	case 1: // HEADERS: END_STREAM, END_HEADERS, PADDED, PRIORITY
		return flags&^0x2d == 0 && stream > 0 && n > 0
	case 2: // PRIORITY
		return flags == 0 && stream > 0 && n == 5
	case 3: // RST_STREAM
		return flags == 0 && stream > 0 && n == 4
	case 4: // SETTINGS: ACK
		return flags&^0x1 == 0 && stream == 0 && n%6 == 0 && (flags == 0 || n == 0)
	case 5: // PUSH_PROMISE: END_HEADERS, PADDED
		return flags&^0xc == 0 && stream > 0 && n > 4
	case 6: // PING: ACK
		return flags&^0x1 == 0 && stream == 0 && n == 8
	case 7: // GOAWAY
		return flags == 0 && stream == 0 && n >= 8
	case 8: // WINDOW_UPDATE
		return flags == 0 && n == 4
	case 9: // CONTINUATION: END_HEADERS
		return flags&^0x4 == 0 && stream > 0 && n > 0
	}
	return false
}
