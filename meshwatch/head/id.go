package head

import "crypto/sha256"

// MaxID is the longest request id in bytes that is used as one.
const MaxID = 256

// ID is the canonical form of a request id: two ids are the same if and only if their ID is. It is always a UUID, which
// makes it usable as a trace id:
//   - a UUID in text, with or without dashes, in any case, is its 128 bits with the version digit set to 4: Envoy writes
//     its sampling decision there (9, a, b, 4), so that digit differs along the way of one request;
//   - any other id is the first 128 bits of its SHA-256, marked as version 8, so that it never equals one of the first
//     kind. SHA-256 because ids come from outside: nobody can make two that collide. This never changes between releases.
type ID [16]byte

// The version is the high half of this byte, the variant the two high bits of the other (RFC 9562 §4).
const (
	versionByte = 6
	variantByte = 8
)

// ParseID is the canonical form of a request id as sent. It refuses what cannot be told from others or must not be
// printed: empty, longer than MaxID, with control bytes, and the UUID of zeros.
func ParseID(raw []byte) (ID, bool) {
	if len(raw) == 0 || len(raw) > MaxID {
		return ID{}, false
	}
	if id, ok := parseUUID(raw); ok {
		zero := id == ID{}
		id[versionByte] = 4<<4 | id[versionByte]&0xf
		return id, !zero
	}
	for _, c := range raw {
		if c < ' ' || c == 0x7f {
			return ID{}, false
		}
	}
	sum := sha256.Sum256(raw)
	id := ID(sum[:16])
	id[versionByte] = 8<<4 | id[versionByte]&0xf
	id[variantByte] = 0x80 | id[variantByte]&0x3f
	return id, true
}

// IsUUID says whether the id was sent as a UUID.
func (id ID) IsUUID() bool { return id[versionByte]>>4 == 4 }

// parseUUID reads 32 hex digits, in one piece or with dashes as 8-4-4-4-12.
func parseUUID(raw []byte) (id ID, ok bool) {
	switch len(raw) {
	case 32:
		return id, unhex(id[:], raw)
	case 36:
		dashes := raw[8] == '-' && raw[13] == '-' && raw[18] == '-' && raw[23] == '-'
		return id, dashes && unhex(id[:4], raw[:8]) && unhex(id[4:6], raw[9:13]) && unhex(id[6:8], raw[14:18]) &&
			unhex(id[8:10], raw[19:23]) && unhex(id[10:], raw[24:])
	}
	return id, false
}

// unhex reads two digits of any case for each byte of dst.
func unhex(dst, digits []byte) bool {
	for i := range dst {
		hi, lo := hexDigit[digits[2*i]], hexDigit[digits[2*i+1]]
		if hi == 0 || lo == 0 {
			return false
		}
		dst[i] = (hi-1)<<4 | (lo - 1)
	}
	return true
}
