package head

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

var config = Config{RequestIDHeaders: []string{"X-Request-ID", "X-Correlation-ID"}, CaptureHeaders: []string{"X-Truth", "Host"}}

// seeds are heads of every sort; the property tests cut them, the fuzzers start from them.
var seeds = []string{
	typical, traced, answer, "", "\r\n" + typical, strings.ReplaceAll(typical, "\r\n", "\n"),
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/1.0\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "\x00\x00\x12\x04\x00\x00\x00\x00\x00",
	"GET http://u@b:80/x?y#z HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST / HTTP/1.0\r\nContent-Length: 5, 5\r\nTransfer-Encoding: gzip,chunked\r\nConnection: close\r\n\r\nabcde",
	"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "GET / HTTP/1.1\r\nA : b\r\n\r\n", "GET / HTTP/1.1\r\nA: \x00\r\nB : c\r\n\r\n", "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
	"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Request-Id: a\r\nX-Request-Id: b\r\n\r\n", "HTTP/1.1 204\r\nUpgrade: x\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nX-Correlation-Id: q\r\nX-Truth: 1\r\n\r\n", "GET / HTTP/1.1\r\nX-Request-ID:\r\n\r\n",
	"GET / HTTP/1.1\r\nb3: 0\r\nuber-trace-id: abc%3A1%3A0%3A1\r\n\r\n", "EHLO example.com\r\n", "*3\r\n$3\r\nSET\r\n", "\r", "\n\n", "HTTP/9", "HTT",
}

// slices are all that alias the input.
func (h *Head) slices() [][]byte {
	return append([][]byte{h.Method, h.Target, h.Host, h.RequestID}, h.Captured...)
}

func within(inner, outer []byte) bool {
	if len(inner) == 0 {
		return true
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(inner))) - uintptr(unsafe.Pointer(unsafe.SliceData(outer)))
	return at < uintptr(len(outer)) && at+uintptr(len(inner)) <= uintptr(len(outer))
}

// checkHead proves what must hold for any bytes.
func checkHead(t *testing.T, p *Parser, b []byte) (Result, *Head) {
	t.Helper()
	h := &Head{Host: []byte("stale"), Status: 1, Captured: [][]byte{[]byte("stale")}}
	r := p.Parse(b, h)
	for _, s := range h.slices() {
		if !within(s, b) {
			t.Fatalf("%q of %q is not part of it", s, b)
		}
	}
	if (h.HeadLen > 0) != (r == Complete) || h.HeadLen > len(b) || (h.Reason != ReasonNone) != (r == Malformed) {
		t.Fatalf("%q: %v, head of %d bytes, reason %v", b, r, h.HeadLen, h.Reason)
	}
	if r == Complete && !bytes.HasSuffix(b[:h.HeadLen], []byte("\n")) {
		t.Fatalf("%q: head ends in %q", b, b[:h.HeadLen])
	}
	if (r == Complete || r == Malformed) && !LooksLikeHTTP(b[:min(8, len(b))]) {
		t.Fatalf("%q is %v but does not look like HTTP", b, r)
	}
	if n, known := h.MessageLen([]byte("GET")); known && n < int64(h.HeadLen) {
		t.Fatalf("%q: message of %d bytes", b, n)
	}
	return r, h
}

// checkCut proves that a result other than NeedMore stays, whatever follows.
func checkCut(t *testing.T, p *Parser, b []byte, n int) {
	t.Helper()
	r, h := checkHead(t, p, b)
	cut, part := checkHead(t, p, b[:n])
	if cut == NeedMore {
		return
	}
	if cut != r || part.Reason != h.Reason {
		t.Fatalf("%q is %v (%v), its first %d bytes are %v (%v)", b, r, h.Reason, n, cut, part.Reason)
	}
	if diff := cmp.Diff(h, part, cmp.AllowUnexported(Head{})); cut == Complete && diff != "" {
		t.Fatalf("%q, first %d bytes, -whole +cut:\n%s", b, n, diff)
	}
}

// A message that arrives byte by byte is read as if it came whole.
func TestCutAnywhere(t *testing.T) {
	p := New(config)
	for _, s := range seeds {
		for n := range len(s) {
			checkCut(t, p, []byte(s), n)
		}
	}
}

func TestAgreesWithNetHTTP(t *testing.T) {
	p := New(config)
	agreed := 0
	for _, s := range seeds {
		if checkNetHTTP(t, p, []byte(s)) {
			agreed++
		}
	}
	if agreed < 8 {
		t.Errorf("compared %d heads only", agreed)
	}
}

// checkNetHTTP compares with net/http where both accept; it says whether they do.
func checkNetHTTP(t *testing.T, p *Parser, b []byte) bool {
	t.Helper()
	r, h := checkHead(t, p, b)
	if r != Complete {
		return false
	}
	var fields http.Header
	var length int64
	if h.Kind == Request {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil || strings.ContainsAny(req.RequestURI, "%#@[") || b[0] < ' ' {
			return false // in these net/url decodes, or refuses, what is reported here as sent
		}
		fields, length = req.Header, req.ContentLength
		if req.Method != string(h.Method) || req.RequestURI != string(h.Target) || req.Host != string(h.Host) || req.ProtoMinor != int(h.Minor) {
			t.Fatalf("%q: net/http has %s %s of %q", b, req.Method, req.RequestURI, req.Host)
		}
	} else {
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil {
			return false
		}
		fields, length = resp.Header, resp.ContentLength
		if resp.StatusCode != h.Status || resp.ProtoMinor != int(h.Minor) {
			t.Fatalf("%q: net/http has %s", b, resp.Status)
		}
	}
	checkFields(t, h, fields, length, b)
	return true
}

func checkFields(t *testing.T, h *Head, fields http.Header, length int64, b []byte) {
	t.Helper()
	if h.RequestIDHeader >= 0 {
		values := fields.Values(config.RequestIDHeaders[h.RequestIDHeader])
		if !contains(values, string(h.RequestID)) {
			t.Fatalf("%q: id %q, net/http has %q", b, h.RequestID, values)
		}
	} else if fields.Get("X-Request-Id") != "" || fields.Get("X-Correlation-Id") != "" {
		t.Fatalf("%q: no id, net/http has %q", b, fields)
	}
	if h.ContentLength > 0 && !h.NoBody && length != h.ContentLength {
		t.Fatalf("%q: length %d, net/http has %d", b, h.ContentLength, length)
	}
}

func contains(values []string, s string) bool {
	for _, v := range values {
		if strings.Trim(v, " \t") == s {
			return true
		}
	}
	return false
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), uint16(len(s)/2)) //nolint:gosec // seeds are short
	}
	p := New(config)
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		checkCut(t, p, b, int(cut)%(len(b)+1))
		checkNetHTTP(t, p, b)
	})
}
