package h2

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// Learn names a field that had no name: it was found out otherwise what it is. Later heads that refer to it have the name.
func (d *Decoder) Learn(u Unnamed, name string) { d.table.learn(u.name, name) }

// known are the pseudo-header fields of a block, and what else is asked of it.
type known struct {
	method, path, authority, status, protocol []byte
	pseudo                                    bool // it has some: it begins a message
	grpc                                      bool
	grpcStatus                                int
}

// message decodes d.block and gives it out. False: it cannot be read.
func (d *Decoder) message(stream uint32) bool {
	k := known{grpcStatus: NoStatus}
	var buf [512]byte
	pseudo := buf[:0]
	keep := func(v []byte) []byte { // what is emitted does not last
		n := len(pseudo)
		pseudo = append(pseudo, v...)
		return pseudo[n:len(pseudo):len(pseudo)]
	}
	d.fields = d.fields[:0]
	d.unnamed = d.unnamed[:0]
	err := d.table.block(d.block, &d.scratch, func(f field) {
		switch name := f.name.b; {
		case name == nil && f.value == nil:
			d.Stats.Unknown++
		case name == nil:
			d.Stats.Unknown++
			d.unnamed = append(d.unnamed, Unnamed{f.name, keep(f.value)})
		case len(name) > 0 && name[0] == ':':
			k.pseudo = true
			k.take(string(name), keep(f.value))
		case f.value == nil:
			d.Stats.Unknown++
		default:
			k.look(name, f.value)
			d.fields = append(append(append(append(d.fields, clean(name)...), ": "...), clean(f.value)...), "\r\n"...)
		}
	})
	if err != nil {
		return false
	}
	if d.skipPush {
		return true
	}
	if !k.pseudo {
		if d.blockEnd {
			d.sink.Trailers(stream, k.grpcStatus)
			d.sink.End(stream)
		}
		return d.blockEnd // a head whose pseudo-header fields are unknown could be anything
	}
	h := Head{Stream: stream, GRPC: k.grpc, GRPCStatus: k.grpcStatus, End: d.blockEnd, Unnamed: d.unnamed}
	d.text = k.head(d.text[:0], d.fields)
	h.Text = d.text
	if k.grpc && len(d.counts) < maxCounted {
		d.counts[stream] = &counter{exact: true}
	}
	d.sink.Head(h)
	if h.End {
		d.sink.End(stream)
	}
	return true
}

func (k *known) take(name string, value []byte) {
	switch name {
	case ":method":
		k.method = value
	case ":path":
		k.path = value
	case ":authority":
		k.authority = value
	case ":status":
		k.status = value
	case ":protocol":
		k.protocol = value
	}
}

func (k *known) look(name, value []byte) {
	switch string(name) {
	case "content-type":
		k.grpc = bytes.HasPrefix(value, []byte("application/grpc"))
	case "grpc-status":
		if n, err := strconv.Atoi(string(value)); err == nil && n >= 0 && n < 1<<16 {
			k.grpcStatus = n
		}
	}
}

// head appends a first line and fields to out.
func (k *known) head(out, fields []byte) []byte {
	if k.status != nil {
		out = append(append(append(out, "HTTP/1.1 "...), clean(k.status)...), " \r\n"...)
	} else {
		target := k.path
		if string(k.method) == "CONNECT" && k.protocol == nil {
			target = k.authority
		}
		out = append(append(append(append(out, orUnknown(k.method)...), ' '), orUnknown(target)...), " HTTP/1.1\r\n"...)
		if k.authority != nil {
			out = append(append(append(out, "host: "...), clean(k.authority)...), "\r\n"...)
		}
	}
	return append(append(out, fields...), "\r\n"...)
}

func orUnknown(v []byte) []byte {
	if len(v) == 0 {
		return []byte{'?'}
	}
	return clean(v)
}

// clean is v without what would end a line or a word of HTTP/1: nobody may send it, and it cannot become another field.
func clean(v []byte) []byte {
	if !bytes.ContainsAny(v, "\r\n\x00") {
		return v
	}
	return bytes.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == 0 {
			return '?'
		}
		return r
	}, v)
}

// counter counts the messages of a gRPC stream: each has a prefix of a byte and its length (gRPC over HTTP/2, Length-Prefixed-Message).
type counter struct {
	n      uint32
	exact  bool
	prefix [messagePrefix]byte
	got    int
	need   int
}

const messagePrefix = 5

func (c *counter) take(b []byte) {
	for len(b) > 0 {
		if c.need > 0 {
			n := min(c.need, len(b))
			c.need -= n
			b = b[n:]
			continue
		}
		n := copy(c.prefix[c.got:], b)
		b = b[n:]
		if c.got += n; c.got == messagePrefix {
			c.got = 0
			c.n++
			c.need = int(binary.BigEndian.Uint32(c.prefix[1:]))
		}
	}
}

// miss is take for bytes that were not captured: within a message that does not matter.
func (c *counter) miss(n int) {
	if n > c.need {
		c.lost()
		return
	}
	c.need -= n
}

func (c *counter) lost() { c.exact = false }

// Messages are how many gRPC messages a stream had in this direction, and whether that is all of them. It is forgotten.
func (d *Decoder) Messages(stream uint32) (n uint32, exact bool) {
	c := d.counts[stream]
	if c == nil {
		return 0, false
	}
	delete(d.counts, stream)
	return c.n, c.exact && c.got == 0 && c.need == 0
}

// dataFrame is a DATA frame under way.
type dataFrame struct {
	left   int // bytes to come
	padded bool
	pad    int
	begun  bool
	of     *counter // nil: nobody counts
}

func (f *dataFrame) take(b []byte) {
	if f.padded && !f.begun {
		f.pad, b = int(b[0]), b[1:]
		f.left--
	}
	f.begun = true
	n := min(len(b), max(f.left-f.pad, 0))
	if f.of != nil {
		f.of.take(b[:n])
	}
	f.left -= len(b)
}

func (f *dataFrame) miss(n int) {
	if f.of != nil {
		if f.padded { // how much of it is padding is not known, or not worth it
			f.of.lost()
		} else {
			f.of.miss(n)
		}
	}
	f.begun = true
	f.left -= n
}
