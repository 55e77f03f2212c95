package head

import "bytes"

// maxMethod is the longest method in bytes; the longest registered one has 17.
const maxMethod = 32

const preface = "PRI * HTTP/2.0\r\n" // the first line of HTTP/2's, RFC 9113 §3.4

// LooksLikeHTTP says whether the first bytes of a message can begin an HTTP/1.x head: a method and a space, or HTTP/.
// It needs 8 bytes to be of use, sees no more than these, and says yes more often than Parse does.
func LooksLikeHTTP(first8 []byte) bool {
	b := first8[:min(len(first8), 8)]
	for len(b) > 0 && (b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	if begins(b, "HTTP/") {
		return true
	}
	for i, c := range b {
		if c == ' ' {
			return i > 0 && (i+1 == len(b) || targetByte(b[i+1]))
		}
		if !methodByte(c, i) {
			return false
		}
	}
	return true
}

// begins says whether b begins with s, or is the beginning of s.
func begins(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

// methodByte says whether c may be byte i of a method. Narrower than RFC 9110's token: no registered method is
// outside, and other protocols are told apart sooner.
func methodByte(c byte, i int) bool {
	letter := c|0x20 >= 'a' && c|0x20 <= 'z'
	return letter || i > 0 && (c >= '0' && c <= '9' || c == '-' || c == '_')
}

func targetByte(c byte) bool { return c > ' ' && c != 0x7f }

// startLine reads the request or status line. Complete: the line is, and has n bytes.
func startLine(b []byte, h *Head) (n int, r Result) {
	empty := 0
	switch {
	case b[0] == '\n':
		empty = 1
	case b[0] == '\r' && len(b) == 1:
		return 0, NeedMore
	case b[0] == '\r' && b[1] == '\n':
		empty = 2
	}
	switch line := b[empty:]; {
	case len(line) == 0:
		return 0, NeedMore
	case !begins(line, "HTTP/"):
		n, r = requestLine(line, h)
	case len(line) < len("HTTP/"):
		return 0, NeedMore
	case empty > 0:
		return 0, NotHTTP // no server sends an empty line first
	default:
		n, r = statusLine(line, h)
	}
	return empty + n, r
}

func requestLine(b []byte, h *Head) (int, Result) {
	n := 0
	for n < len(b) && methodByte(b[n], n) {
		n++
	}
	switch {
	case n > maxMethod:
		return 0, NotHTTP
	case n == len(b):
		return 0, NeedMore
	case n == 0 || b[n] != ' ':
		return 0, NotHTTP
	}
	h.Kind, h.Method = Request, b[:n]
	n++
	from := n
	for n < len(b) && targetByte(b[n]) {
		n++
	}
	h.Target = b[from:n]
	switch {
	case n == len(b):
		h.TargetCut = true
		return 0, NeedMore
	case n == from || b[n] != ' ':
		return 0, NotHTTP
	}
	h.authority()
	n++
	switch rest := b[n:]; {
	case bytes.HasPrefix(rest, []byte("HTTP/1.1\r\n")): // nearly always, and nearly free
		h.Major, h.Minor = 1, 1
		return n + len("HTTP/1.1\r\n"), Complete
	case !begins(rest, "HTTP/"):
		return 0, NotHTTP
	case len(rest) < len("HTTP/"):
		return 0, NeedMore
	}
	n += len("HTTP/")
	if r := h.version(b[n:]); r != Complete {
		return 0, r
	}
	return h.endOfRequestLine(b, n+len("1.1"))
}

func (h *Head) endOfRequestLine(b []byte, n int) (int, Result) {
	if n < len(b) && b[n] == '\r' {
		n++
	}
	switch {
	case n == len(b):
		return 0, NeedMore
	case b[n] != '\n':
		return 0, h.malformed(ReasonVersion)
	}
	return n + 1, Complete
}

// version reads the digits behind "HTTP/".
func (h *Head) version(b []byte) Result {
	switch {
	case !begins(b, "1."):
		return h.malformed(ReasonVersion)
	case len(b) < len("1.1"):
		return NeedMore
	case b[2] < '0' || b[2] > '9':
		return h.malformed(ReasonVersion)
	}
	h.Major, h.Minor = 1, b[2]-'0'
	return Complete
}

// authority sets Host from a target in absolute form, or from the target of CONNECT (RFC 9112 §3.2).
func (h *Head) authority() {
	h.Connect = string(h.Method) == "CONNECT"
	host := h.Target
	if host[0] == '/' || host[0] == '*' {
		return
	}
	if !h.Connect {
		i := bytes.Index(host, []byte("://"))
		if i <= 0 || !scheme(host[:i]) {
			return
		}
		host = host[i+len("://"):]
	}
	if i := bytes.IndexAny(host, "/?#"); i >= 0 {
		host = host[:i]
	}
	if i := bytes.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if len(host) > 0 {
		h.Host = host
	}
}

func scheme(b []byte) bool {
	for i, c := range b {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return true
}

// statusLine reads "HTTP/1.1 200 OK"; the reason phrase and the space before it may be absent.
func statusLine(b []byte, h *Head) (int, Result) {
	h.Kind = Response
	if r := h.version(b[len("HTTP/"):]); r != Complete {
		return 0, r
	}
	const code = len("HTTP/1.1 ")
	status := 0
	for i := code - 1; i <= code+3 && i < len(b); i++ {
		c := b[i]
		switch {
		case i == code-1 && c == ' ':
		case i == code && c >= '1' && c <= '9', i > code && i < code+3 && c >= '0' && c <= '9':
			status = status*10 + int(c-'0')
		case i == code+3 && (c == ' ' || c == '\r' || c == '\n'):
			h.Status = status
		default:
			return 0, h.malformed(ReasonStatus)
		}
	}
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return 0, NeedMore
	}
	if hasControl(bytes.TrimSuffix(b[:i], []byte("\r")), 0) {
		return 0, h.malformed(ReasonControl)
	}
	return i + 1, Complete
}
