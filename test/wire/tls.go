package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Hello is what the two ends of a TLS connection agreed on in the clear.
type Hello struct {
	Version uint16   // tls.VersionTLS13 and so on: what the server chose
	SNI     string   // what the client asked for
	ALPN    []string // what the client offered
}

// ParseTLS checks that both directions of a connection are TLS records and nothing else, and reads the greetings.
func ParseTLS(client, server []byte) (Hello, error) {
	ch, err := firstHandshake(client)
	if err != nil {
		return Hello{}, fmt.Errorf("read what the client sent: %w", err)
	}
	sh, err := firstHandshake(server)
	if err != nil {
		return Hello{}, fmt.Errorf("read what the server sent: %w", err)
	}
	var h Hello
	const clientHello, serverHello = 1, 2
	if err := extensions(ch, clientHello, func(kind uint16, data []byte) { h.client(kind, data) }); err != nil {
		return h, fmt.Errorf("read the client's greeting: %w", err)
	}
	err = extensions(sh, serverHello, func(kind uint16, data []byte) {
		if kind == extVersions && len(data) == 2 {
			h.Version = binary.BigEndian.Uint16(data)
		}
	})
	if err != nil {
		return h, fmt.Errorf("read the server's greeting: %w", err)
	}
	return h, nil
}

// Extensions of a greeting, RFC 8446 §4.2.
const (
	extSNI      = 0
	extALPN     = 16
	extVersions = 43
)

func (h *Hello) client(kind uint16, data []byte) {
	switch kind {
	case extSNI: // list length, type, name length, name
		const names = 5
		if len(data) > names {
			h.SNI = string(data[names:])
		}
	case extALPN: // list length, then each with its length
		for rest := data[min(2, len(data)):]; len(rest) > 0 && int(rest[0]) < len(rest); rest = rest[1+int(rest[0]):] {
			h.ALPN = append(h.ALPN, string(rest[1:1+int(rest[0])]))
		}
	}
}

var errShort = errors.New("it ends too early")

// firstHandshake walks over all records, and returns the first handshake message. The last record may be cut off.
func firstHandshake(data []byte) ([]byte, error) {
	const head, handshake, lowest, highest = 5, 22, 20, 23
	var first []byte
	for at := 0; at < len(data); {
		if len(data)-at < head {
			break
		}
		kind, version, size := data[at], data[at+1], int(binary.BigEndian.Uint16(data[at+3:]))
		if kind < lowest || kind > highest || version != 3 {
			return nil, fmt.Errorf("at byte %d is no TLS record: % x", at, data[at:min(at+16, len(data))])
		}
		if kind == handshake && !whole(first) {
			first = append(first, data[at+head:min(at+head+size, len(data))]...)
		}
		at += head + size
	}
	if !whole(first) {
		return nil, errShort
	}
	return first, nil
}

// whole says whether a handshake message, which has its length in bytes 1 to 3, is all there.
func whole(message []byte) bool {
	return len(message) >= 4 && len(message) >= 4+int(message[1])<<16+int(binary.BigEndian.Uint16(message[2:]))
}

// extensions calls fn for each extension of a greeting of either side.
func extensions(message []byte, kind byte, fn func(uint16, []byte)) error {
	if message[0] != kind {
		return fmt.Errorf("it begins with handshake message %d, not %d", message[0], kind)
	}
	const fixed = 4 + 2 + 32 // message head, version, random
	rest, ok := skip(message, fixed)
	rest, ok = skipSized(rest, 1, ok) // session
	if kind == 1 {
		rest, ok = skipSized(rest, 2, ok) // cipher suites
		rest, ok = skipSized(rest, 1, ok) // compressions
	} else if ok {
		rest, ok = skip(rest, 3) // the chosen ones
	}
	if !ok || len(rest) < 2 {
		return errShort
	}
	for rest = rest[2:]; len(rest) >= 4; {
		size := int(binary.BigEndian.Uint16(rest[2:]))
		if len(rest) < 4+size {
			return errShort
		}
		fn(binary.BigEndian.Uint16(rest), rest[4:4+size])
		rest = rest[4+size:]
	}
	return nil
}

func skip(b []byte, n int) ([]byte, bool) {
	if len(b) < n {
		return nil, false
	}
	return b[n:], true
}

// skipSized skips what begins with its own length, of so many bytes.
func skipSized(b []byte, bytes int, ok bool) ([]byte, bool) {
	if !ok || len(b) < bytes {
		return nil, false
	}
	size := int(b[0])
	if bytes == 2 {
		size = int(binary.BigEndian.Uint16(b))
	}
	return skip(b, bytes+size)
}
