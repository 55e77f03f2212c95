package join

import (
	"testing"

	"github.com/meshwatch/meshwatch/bpf"
)

func TestBytesOf(t *testing.T) {
	flags := func(f uint32) *bpf.Flight { return &bpf.Flight{Flags: bpf.Flags(f)} }
	for name, c := range map[string]struct {
		f      *bpf.Flight
		b      string
		opened bool
		want   Bytes
	}{
		"a request":                    {flags(0), "GET / HTTP/1.1\r\n", false, BytesPlain},
		"an answer":                    {flags(0), "HTTP/1.1 200 OK\r\n", false, BytesAnswer},
		"ClientHello":                  {flags(0), "\x16\x03\x01\x02", true, BytesTLS},
		"application data":             {flags(0), "\x17\x03\x03\x02", false, BytesTLS},
		"plaintext of TLS":             {flags(bpf.FlagPlain), "GET / HTTP/1.1\r\n", true, BytesTLS},
		"opaque":                       {flags(bpf.FlagOpaque), "", false, BytesTLS},
		"another protocol begins":      {flags(0), "\x4a\x00\x00\x00\x0a8.4", true, BytesPlain},
		"another protocol's middle":    {flags(0), "\x4a\x00\x00\x00\x0a8.4", false, BytesUnknown},
		"the middle of a TLS record":   {flags(0), "\x99\x12\xfe\x0b", false, BytesUnknown},
		"a message that goes on":       {flags(bpf.FlagCont), "\x99\x12\xfe\x0b", true, BytesUnknown},
		"nothing was captured":         {flags(0), "", true, BytesUnknown},
		"too little to tell":           {flags(0), "\x16", true, BytesUnknown},
		"a type of record, no version": {flags(0), "\x16\x04\x01\x02", true, BytesPlain},
	} {
		if got := bytesOf(c.f, []byte(c.b), c.opened); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
