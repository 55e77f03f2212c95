package head

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// summary is a Head as text, so that a table can say it.
type summary struct {
	Method, Target, Host, ID string
	Status, HeadLen          int
	Length                   int64
	Flags                    string
}

func (h *Head) summary() summary {
	var flags []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{h.TargetCut, "cut"}, {h.RequestIDAmbiguous, "ambiguous"}, {h.Chunked, "chunked"}, {h.Upgrade, "upgrade"},
		{h.Connect, "connect"}, {h.ConnectionClose, "close"}, {h.Expect100, "expect"}, {h.Interim, "interim"}, {h.NoBody, "nobody"},
	} {
		if f.set {
			flags = append(flags, f.name)
		}
	}
	return summary{string(h.Method), string(h.Target), string(h.Host), string(h.RequestID), h.Status, h.HeadLen, h.ContentLength,
		strings.Join(flags, " ")}
}

func TestParse(t *testing.T) {
	p := New(Config{RequestIDHeaders: []string{"X-Request-ID", "X-Correlation-ID"}})
	const get = "GET / HTTP/1.1\r\n"
	for name, tt := range map[string]struct {
		in   string
		want summary
	}{
		"plain":            {get + "Host: a\r\n\r\nbody", summary{"GET", "/", "a", "", 0, 27, -1, "nobody"}},
		"bare LF":          {"GET / HTTP/1.1\nHost:a\n\n", summary{"GET", "/", "a", "", 0, 23, -1, "nobody"}},
		"white space":      {get + "hOST: \t a b \t\r\n\r\n", summary{"GET", "/", "a b", "", 0, 33, -1, "nobody"}},
		"no fields":        {get + "\r\n", summary{"GET", "/", "", "", 0, 18, -1, "nobody"}},
		"empty line first": {"\r\n" + get + "\r\n", summary{"GET", "/", "", "", 0, 20, -1, "nobody"}},
		"absolute":         {"GET http://u:p@b:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n", summary{"GET", "http://u:p@b:80/x?y", "b:80", "", 0, 45, -1, "nobody"}},
		"url in the query": {"GET /x?u=http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", summary{"GET", "/x?u=http://b/", "a", "", 0, 40, -1, "nobody"}},
		"connect":          {"CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n", summary{"CONNECT", "b:443", "b:443", "", 0, 35, -1, "connect nobody"}},
		"options":          {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", summary{"OPTIONS", "*", "a", "", 0, 31, -1, "nobody"}},
		"two hosts":        {get + "Host: a\r\nHost: b\r\n\r\n", summary{"GET", "/", "a", "", 0, 36, -1, "nobody"}},
		"length":           {"POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n", summary{"POST", "/", "", "", 0, 60, 5, "expect"}},
		"length zero":      {"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", summary{"POST", "/", "", "", 0, 38, 0, "nobody"}},
		"length repeated":  {"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\nContent-Length: 05\r\n\r\n", summary{"POST", "/", "", "", 0, 61, 5, ""}},
		"length overruled": {"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n", summary{"POST", "/", "", "", 0, 72, -1, "chunked"}},
		"codings in lines": {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip;q=1\r\nTransfer-Encoding: chunked;x=y,\r\n\r\n", summary{"POST", "/", "", "", 0, 81, -1, "chunked"}},
		"chunked in 1.0":   {"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", summary{"POST", "/", "", "", 0, 71, -1, "chunked close"}},
		"id":               {get + "x-request-ID: q\r\n\r\n", summary{"GET", "/", "", "q", 0, 35, -1, "nobody"}},
		"id by order":      {get + "x-correlation-id: c\r\nx-request-id: q\r\n\r\n", summary{"GET", "/", "", "q", 0, 56, -1, "nobody"}},
		"id second best":   {get + "x-correlation-id: c\r\nx-request-id:\r\n\r\n", summary{"GET", "/", "", "c", 0, 54, -1, "nobody"}},
		"id twice":         {get + "x-request-id: q\r\nx-request-id: q\r\n\r\n", summary{"GET", "/", "", "q", 0, 52, -1, "nobody"}},
		"ids that differ":  {get + "x-request-id: q\r\nx-request-id: r\r\n\r\n", summary{"GET", "/", "", "q", 0, 52, -1, "ambiguous nobody"}},
		"lesser ids differ": {get + "x-correlation-id: c\r\nx-correlation-id: d\r\nx-request-id: q\r\n\r\n",
			summary{"GET", "/", "", "q", 0, 77, -1, "nobody"}},
		"close":      {get + "Connection: x, Close\r\n\r\n", summary{"GET", "/", "", "", 0, 40, -1, "close nobody"}},
		"1.0":        {"GET / HTTP/1.0\r\n\r\n", summary{"GET", "/", "", "", 0, 18, -1, "close nobody"}},
		"1.0 kept":   {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", summary{"GET", "/", "", "", 0, 42, -1, "nobody"}},
		"upgrade":    {get + "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", summary{"GET", "/", "", "", 0, 59, -1, "upgrade nobody"}},
		"no upgrade": {get + "Upgrade: websocket\r\n\r\n", summary{"GET", "/", "", "", 0, 38, -1, "nobody"}},
		"response":   {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nx-request-id: q\r\n\r\n", summary{"", "", "", "q", 200, 55, 9, ""}},
		"no phrase":  {"HTTP/1.1 404\r\nContent-Length: 0\r\nHost: a\r\n\r\n", summary{"", "", "", "", 404, 44, 0, "nobody"}},
		"no length":  {"HTTP/1.1 200 \r\n\r\n", summary{"", "", "", "", 200, 17, -1, ""}},
		"gzip only":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 9\r\n\r\n", summary{"", "", "", "", 200, 63, -1, ""}},
		"interim":    {"HTTP/1.1 100 Continue\r\n\r\n", summary{"", "", "", "", 100, 25, -1, "interim nobody"}},
		"switched":   {"HTTP/1.1 101 Switching\r\n\r\n", summary{"", "", "", "", 101, 26, -1, "upgrade nobody"}},
		"204":        {"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", summary{"", "", "", "", 204, 46, 9, "nobody"}},
		"304":        {"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", summary{"", "", "", "", 304, 48, 9, "nobody"}},
		"8-bit":      {"GET /\xc3\xa9 HTTP/1.1\r\nX: \xff\x01\r\n\r\n", summary{"GET", "/\xc3\xa9", "", "", 0, 27, -1, "nobody"}},
	} {
		t.Run(name, func(t *testing.T) {
			var h Head
			if r := p.Parse([]byte(tt.in), &h); r != Complete {
				t.Fatalf("%v, %v", r, h.Reason)
			}
			if diff := cmp.Diff(tt.want, h.summary()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseCut(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for name, tt := range map[string]struct {
		in   string
		want summary
	}{
		"nothing":       {"", summary{Length: -1}},
		"method":        {"GET", summary{Length: -1}},
		"target":        {"GET /" + long, summary{Method: "GET", Target: "/" + long, Length: -1, Flags: "cut"}},
		"version":       {"GET / HTTP/1.", summary{Method: "GET", Target: "/", Length: -1}},
		"line":          {"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: 12", summary{Method: "GET", Target: "/", Host: "a", Length: -1}},
		"long cookie":   {"GET / HTTP/1.1\r\nX-Request-ID: 12\r\nCookie: " + long, summary{Method: "GET", Target: "/", ID: "12", Length: -1}},
		"last line":     {"GET / HTTP/1.1\r\nX-Request-ID: 12\r\n\r", summary{Method: "GET", Target: "/", ID: "12", Length: -1}},
		"response":      {"HTTP/1.1 204 No", summary{Status: 204, Length: -1}},
		"response line": {"HTTP/1.1 204 No\r\nServer", summary{Status: 204, Length: -1, Flags: "nobody"}},
		"status":        {"HTTP/1.1 20", summary{Length: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			var h Head
			if r := New(Config{}).Parse([]byte(tt.in), &h); r != NeedMore {
				t.Fatalf("%v, %v", r, h.Reason)
			}
			if diff := cmp.Diff(tt.want, h.summary()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseRefused(t *testing.T) {
	const get = "GET / HTTP/1.1\r\n"
	for in, want := range map[string]Reason{
		"GET / HTTP/2.0\r\n\r\n":                               ReasonVersion,
		"GET / HTTP/1.x\r\n\r\n":                               ReasonVersion,
		"GET / HTTP/1.1 \r\n\r\n":                              ReasonVersion,
		"GET / HTTP/1.1\rX":                                    ReasonVersion,
		"HTTP/3 200 OK\r\n\r\n":                                ReasonVersion,
		"HTTP/1.1 2000 OK\r\n\r\n":                             ReasonStatus,
		"HTTP/1.1 099 OK\r\n\r\n":                              ReasonStatus,
		"HTTP/1.1  200 OK\r\n\r\n":                             ReasonStatus,
		"HTTP/1.1 200 O\rK\r\n\r\n":                            ReasonControl,
		get + "Host : a\r\n\r\n":                               ReasonName,
		get + "Host\r\n\r\n":                                   ReasonName,
		get + ": a\r\n\r\n":                                    ReasonName,
		get + "H\xc3\xb6st: a\r\n\r\n":                         ReasonName,
		get + "H\x00st: a\r\n\r\n":                             ReasonName,
		get + "\rHost: a\r\n\r\n":                              ReasonName,
		get + " Host: a\r\n\r\n":                               ReasonFold,
		get + "A: b\r\n\tc\r\n\r\n":                            ReasonFold,
		get + "A: b\rc\r\n\r\n":                                ReasonControl,
		get + "A: b\r\r\n\r\n":                                 ReasonControl,
		get + "A: b\x00\r\n":                                   ReasonControl,
		get + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n": ReasonContentLength,
		get + "Content-Length: 5, 6\r\n":                       ReasonContentLength,
		get + "Content-Length: +5\r\n":                         ReasonContentLength,
		get + "Content-Length:\r\n":                            ReasonContentLength,
		get + "Content-Length: 4611686018427387904\r\n":        ReasonContentLength,
		get + "Transfer-Encoding: chunked, gzip\r\n\r\n":       ReasonTransferEncoding,
		get + "A: " + strings.Repeat("b", MaxLen):              ReasonTooLong,
		get + strings.Repeat("A: b\r\n", MaxLen/6):             ReasonTooLong,
	} {
		var h Head
		if r := New(Config{}).Parse([]byte(in), &h); r != Malformed || h.Reason != want || h.HeadLen != 0 {
			t.Errorf("%.40q: %v, %v, want %v", in, r, h.Reason, want)
		}
	}
}

func TestOtherProtocols(t *testing.T) {
	for in, want := range map[string]Result{
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": TLS, // ClientHello
		"\x17\x03\x03\x00\x25":                         TLS,
		"\x14\x03\x03\x00\x01\x01":                     TLS,
		"\x16\x03":                                     NeedMore,
		"\x16\x02\x01\x02\x00":                         NotHTTP,
		"\x17\x03\x03\x00\x00":                         NotHTTP,
		"\x17\x03\x03\xff\xff":                         NotHTTP,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":             HTTP2,
		"PRI * HTTP/2.0\r":                             NeedMore,
		"PRI * HTTP/1.1\r\n\r\n":                       Complete,
		"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03": HTTP2,   // SETTINGS
		"\x00\x00\x20\x01\x04\x00\x00\x00\x01\x82":     HTTP2,   // HEADERS
		"\x00\x00\x08\x06\x00\x00\x00\x00\x00":         HTTP2,   // PING
		"\x00\x00\x00\x2a\x00\x03\x00\x01\x00\x00":     NotHTTP, // Kafka
		"\x00\x00\x00\x08\x04\xd2\x16\x2f\x00":         NotHTTP, // PostgreSQL SSLRequest
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00":         NotHTTP,
		"*3\r\n$3\r\nSET\r\n":                          NotHTTP, // Redis
		"PING\r\n":                                     NotHTTP,
		"get key\r\n":                                  NotHTTP, // memcached
		"EHLO example.com\r\n":                         NotHTTP,
		"SSH-2.0-OpenSSH_9.6\r\n":                      NotHTTP,
		"GET /\r\n":                                    NotHTTP, // HTTP/0.9
		"GET  / HTTP/1.1\r\n":                          NotHTTP,
		"the quick brown fox":                          NotHTTP,
		"{\"a\": 1}":                                   NotHTTP,
		"\r\nHTTP/1.1 200 OK\r\n\r\n":                  NotHTTP,
		strings.Repeat("A", maxMethod+1):               NotHTTP,
		"\xff\xd8\xff\xe0":                             NotHTTP,
	} {
		var h Head
		if r := New(Config{}).Parse([]byte(in), &h); r != want {
			t.Errorf("%q: %v, want %v", in, r, want)
		}
	}
}

func TestLooksLikeHTTP(t *testing.T) {
	for in, want := range map[string]bool{
		"GET / HT": true, "PROPFIND": true, "M-SEARCH": true, "HTTP/1.1": true, "HTTP": true, "\r\nGET /": true, "get /abc": true,
		"*3\r\n$3\r\n": false, "\x16\x03\x01\x02": false, "{\"a\": 1}": false, "PING\r\n": false, "SSH-2.0-": false, "GET \x00": false, " GET /": false,
	} {
		if got := LooksLikeHTTP([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestCaptured(t *testing.T) {
	p, h := New(Config{CaptureHeaders: []string{"X-Truth", "host", "X-Request-Id"}}), &Head{}
	p.Parse([]byte("GET / HTTP/1.1\r\nHost: a\r\nx-truth: 1\r\nX-TRUTH: 2\r\nx-request-id: q\r\n\r\n"), h)
	if diff := cmp.Diff([][]byte{[]byte("1"), []byte("a"), []byte("q")}, h.Captured); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if string(h.Host) != "a" || string(h.RequestID) != "q" {
		t.Errorf("host %q, id %q: captured fields lost their own meaning", h.Host, h.RequestID)
	}
	p.Parse([]byte("GET / HTTP/1.1\r\n\r\n"), h)
	if diff := cmp.Diff([][]byte{nil, nil, nil}, h.Captured); diff != "" {
		t.Errorf("values of the message before, -want +got:\n%s", diff)
	}
}

func TestMessageLen(t *testing.T) {
	for _, tt := range []struct {
		in, method string
		want       int64
		known      bool
	}{
		{"GET / HTTP/1.1\r\n\r\n", "", 18, true},
		{"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "", 43, true},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "", 0, false},
		{"POST / HTTP/1.1\r\nContent-Length: 5\r\n", "", 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", 43, true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 38, true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "CONNECT", 38, true},
		{"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n", "CONNECT", 43, true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "", 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 38, true},
		{"HTTP/1.1 304 OK\r\nContent-Length: 5\r\n\r\n", "", 38, true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", 47, true},
		{"HTTP/1.1 200 OK\r\n\r\n", "GET", 0, false},
	} {
		var h Head
		New(Config{}).Parse([]byte(tt.in), &h)
		if n, known := h.MessageLen([]byte(tt.method)); n != tt.want || known != tt.known {
			t.Errorf("%q to %q: %d, %v", tt.in, tt.method, n, known)
		}
	}
}

// Credentials are gone from the bytes once they were parsed, also where the capture ends within one.
func TestCredentialsAreWiped(t *testing.T) {
	const secret = "s3cr3t"
	whole := "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + secret + "\r\ncookie: a=" + secret + "; b=1\r\nProxy-Authorization:" + secret +
		"\r\nX-Request-ID: 1\r\nSET-COOKIE:\t" + secret + "\r\n\r\n"
	p := New(Config{})
	for n := len("GET / HTTP/1.1\r\n"); n <= len(whole); n++ {
		b := []byte(whole[:n])
		var h Head
		r := p.Parse(b, &h)
		if want := NeedMore; n < len(whole) && r != want {
			t.Fatalf("%d bytes: %v, want %v", n, r, want)
		}
		for i := 1; i <= len(secret); i++ {
			if part := secret[:i]; i > 2 && bytes.Contains(b, []byte(part)) {
				t.Fatalf("%d bytes: %q still has %q", n, b, part)
			}
		}
		if n == len(whole) && string(h.RequestID) != "1" {
			t.Errorf("request id %q", h.RequestID)
		}
	}
}
