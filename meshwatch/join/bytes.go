package join

import "github.com/meshwatch/meshwatch/bpf"

// Bytes says what a connection carries.
type Bytes uint8

// What it can be.
const (
	BytesUnknown Bytes = iota // its beginning was not seen
	BytesPlain
	BytesAnswer // in clear text, and the first that was seen of it is an answer: its sender is the server
	BytesTLS
)

// bytesOf says what a connection carries by the first flight seen on it. opened: it is the first of all. What is in the middle of a TLS
// record looks like anything.
func bytesOf(f *bpf.Flight, b []byte, opened bool) Bytes {
	const minRecord, firstType, lastType, major = 3, 20, 24, 3
	switch {
	case isPlain(f) || isOpaque(f):
		return BytesTLS
	case len(b) >= minRecord && b[0] >= firstType && b[0] <= lastType && b[1] == major:
		return BytesTLS
	case startsMessage(b) && string(b[:4]) == "HTTP":
		return BytesAnswer
	case len(b) >= minRecord && opened && uint32(f.Flags)&bpf.FlagCont == 0, startsMessage(b):
		return BytesPlain
	}
	return BytesUnknown
}
