// Package h2 reads one direction of an HTTP/2 connection from what was captured of it: heads of its streams, where these end, and how
// many gRPC messages they have. Bytes may be missing, and the connection may be older than what is read of it: what is not known
// is said, never guessed (RFC 9113, RFC 7541).
package h2

import (
	"bytes"
	"encoding/binary"

	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// Sink takes what a Decoder reads. Slices are valid until the call returns.
type Sink interface {
	// Head is that of a message: a request's or a response's, which a later one may follow if it is interim.
	Head(Head)
	// Trailers end a message.
	Trailers(stream uint32, grpcStatus int)
	// Data says that something of a stream's body has come.
	Data(stream uint32)
	// End says that a stream's sender has ended it.
	End(stream uint32)
	// Reset says that a stream is over, and why (RFC 9113 §7).
	Reset(stream uint32, code uint32)
	// GoAway says that streams above last, of those that the other side opened, were not looked at.
	GoAway(last uint32)
}

// Head is what begins a message.
type Head struct {
	Stream     uint32
	Text       []byte // as a head of HTTP/1.1, for head.Parser. What is unknown of its first line is ?
	GRPC       bool   // content-type says so
	GRPCStatus int    // of a response that is a head alone; NoStatus: none
	End        bool   // nothing follows
	// Unnamed are fields whose value stands in the head, while their name is one of a table that was not seen to be filled. They are not
	// in Text. See Learn.
	Unnamed []Unnamed
}

// Unnamed is a field without its name.
type Unnamed struct {
	name  *name
	Value []byte
}

// NoStatus stands for no grpc-status.
const NoStatus = -1

// Stats count what could not be read.
type Stats struct {
	Gaps    uint64 // bytes were missing where a frame begins, or of a head
	Blocks  uint64 // heads that were not read
	Unknown uint64 // fields of heads that stand in a table that was not seen to be filled
}

const (
	frameHeader = 9
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// maxBlock is the longest header block that is read, in bytes; Envoy's limit is 60 KiB.
	maxBlock = 64 << 10
	// maxCounted streams have their gRPC messages counted at a time.
	maxCounted = 4096
)

// Frame types and flags, RFC 9113 §6.
const (
	typeData         = 0
	typeHeaders      = 1
	typeReset        = 3
	typePush         = 5
	typeGoAway       = 7
	typeContinuation = 9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Decoder reads one direction of a connection. It is not safe for concurrent use.
type Decoder struct {
	sink   Sink
	Stats  Stats
	synced bool // it is known where frames begin
	begun  bool

	header  [frameHeader]byte
	got     int // of header
	typ     byte
	flags   byte
	stream  uint32
	need    int // bytes of the frame to come
	payload []byte
	cut     bool // some of the frame's payload was not captured

	block    []byte // of a head whose end has not come
	blockOf  uint32
	blockEnd bool // its stream ends with it
	blockCut bool
	skipPush bool // the block is of a push promise

	data    dataFrame
	table   table
	scratch bytes.Buffer
	fields  []byte // of the head that is read, as lines
	text    []byte // of the head that is given out
	unnamed []Unnamed
	counts  map[uint32]*counter
}

// New makes a Decoder for a connection's direction from its beginning, or from anywhere.
func New(sink Sink) *Decoder {
	return &Decoder{sink: sink, table: newTable(), counts: map[uint32]*counter{}}
}

// Begins says whether bytes are the beginning of HTTP/2: its preface, or a frame that is exactly as RFC 9113 allows.
func Begins(b []byte) bool {
	if n := min(len(b), len(preface)); n >= 4 && string(b[:n]) == preface[:n] {
		return true
	}
	return len(b) >= frameHeader && head.IsFrame(b)
}

// begins is Begins for all frames of a chunk: what follows a gap may be any bytes.
func begins(b []byte) bool {
	if bytes.HasPrefix(b, []byte(preface)) {
		return true
	}
	for at := 0; ; {
		if !Begins(b[at:]) {
			return false
		}
		at += frameHeader + (int(b[at])<<16 | int(b[at+1])<<8 | int(b[at+2]))
		if at+frameHeader > len(b) {
			return true
		}
	}
}

// Feed takes the next chunk of the stream, of total bytes, of which the first were captured.
func (d *Decoder) Feed(b []byte, total int) {
	skipped := total - len(b)
	if !d.synced {
		if !begins(b) {
			d.begun = true
			return
		}
		d.synced = true
	}
	if !d.begun && bytes.HasPrefix(b, []byte(preface)) {
		b = b[len(preface):]
	}
	d.begun = true
	for len(b) > 0 && d.synced {
		if d.need == 0 {
			b = d.frameHeader(b)
			continue
		}
		n := min(d.need, len(b))
		d.take(b[:n])
		b = b[n:]
		if d.need -= n; d.need == 0 {
			d.frame()
		}
	}
	d.Skip(skipped)
}

// Skip takes n bytes of the stream that were not captured.
func (d *Decoder) Skip(n int) {
	for n > 0 && d.synced {
		if d.need == 0 {
			d.Gap()
			return
		}
		k := min(n, d.need)
		d.miss(k)
		n -= k
		if d.need -= k; d.need == 0 {
			d.frame()
		}
	}
}

// Gap says that an unknown number of bytes is missing: of heads that were sent meanwhile nobody knows what they added to the table.
func (d *Decoder) Gap() {
	if d.synced {
		d.Stats.Gaps++
	}
	d.synced, d.got, d.need, d.block, d.payload = false, 0, 0, d.block[:0], d.payload[:0]
	d.blockOf = 0
	d.table.forget()
	for _, c := range d.counts {
		c.lost()
	}
}

// frameHeader takes bytes of one.
func (d *Decoder) frameHeader(b []byte) []byte {
	n := copy(d.header[d.got:], b)
	if d.got += n; d.got < frameHeader {
		return b[n:]
	}
	d.got = 0
	h := d.header[:]
	if !head.IsFrame(h) && !extension(h) {
		d.Gap()
		return nil
	}
	d.need = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	d.typ, d.flags, d.stream = h[3], h[4], binary.BigEndian.Uint32(h[5:])&0x7fffffff
	d.payload, d.cut = d.payload[:0], false
	if d.typ == typeData {
		d.data = dataFrame{left: d.need, padded: d.flags&flagPadded != 0, of: d.counts[d.stream]}
	}
	if d.need == 0 {
		d.frame()
	}
	return b[n:]
}

// extension says whether a frame's header may be of a type that is not the RFC's: to be skipped; or of an empty part of a head.
func extension(h []byte) bool {
	empty := (h[3] == typeHeaders || h[3] == typeContinuation) && h[1] == 0 && h[2] == 0
	return h[0] == 0 && h[1] <= 1<<6 && h[5] < 1<<7 && (h[3] > typeContinuation || empty)
}

// take takes bytes of the frame's payload.
func (d *Decoder) take(b []byte) {
	switch d.typ {
	case typeData:
		d.data.take(b)
	case typeHeaders, typeContinuation, typePush, typeReset, typeGoAway:
		if len(d.payload)+len(b) > maxBlock {
			d.cut = true
			return
		}
		d.payload = append(d.payload, b...)
	}
}

// miss is take for bytes that were not captured.
func (d *Decoder) miss(n int) {
	if d.typ == typeData {
		d.data.miss(n)
		return
	}
	d.cut = true
}

// frame is called when a frame is whole.
func (d *Decoder) frame() {
	p := d.payload
	switch d.typ {
	case typeData:
		d.sink.Data(d.stream)
		if d.flags&flagEndStream != 0 {
			d.sink.End(d.stream)
		}
	case typeHeaders, typePush:
		d.block, d.blockOf, d.blockCut = d.block[:0], d.stream, d.cut
		d.blockEnd = d.typ == typeHeaders && d.flags&flagEndStream != 0
		d.skipPush = d.typ == typePush
		if p, ok := unpad(p, d.flags, d.typ); ok && !d.cut {
			d.block = append(d.block, p...)
		} else {
			d.blockCut = true
		}
		d.headersEnd()
	case typeContinuation:
		if d.stream != d.blockOf {
			d.blockCut, d.blockEnd = true, false // its beginning was not seen
		}
		d.blockCut = d.blockCut || d.cut || len(d.block)+len(p) > maxBlock
		if !d.blockCut {
			d.block = append(d.block, p...)
		}
		d.headersEnd()
	case typeReset:
		if !d.cut && len(p) == 4 {
			d.sink.Reset(d.stream, binary.BigEndian.Uint32(p))
		}
	case typeGoAway:
		if !d.cut && len(p) >= 8 {
			d.sink.GoAway(binary.BigEndian.Uint32(p) & 0x7fffffff)
		}
	}
}

// unpad takes padding and priority off a frame's payload.
func unpad(p []byte, flags, typ byte) ([]byte, bool) {
	pad := 0
	if flags&flagPadded != 0 {
		if len(p) == 0 {
			return nil, false
		}
		pad, p = int(p[0]), p[1:]
	}
	skip := 0
	switch {
	case typ == typePush:
		skip = 4
	case flags&flagPriority != 0:
		skip = 5
	}
	if len(p) < skip+pad {
		return nil, false
	}
	return p[skip : len(p)-pad], true
}

// headersEnd reads a head if all of it is there.
func (d *Decoder) headersEnd() {
	if d.flags&flagEndHeaders == 0 {
		return
	}
	stream := d.blockOf
	d.blockOf = 0
	if d.blockCut || !d.message(stream) {
		d.Stats.Blocks++
		d.table.forget()
		if d.blockEnd && !d.skipPush {
			d.sink.End(stream)
		}
	}
}
