// Package head reads the first bytes of an application message: is it HTTP/1.x, and what does its head say that is needed
// to pair, join and name it (docs/architecture.md). It does no I/O and never allocates on the hot path.
//
// What is captured may be cut anywhere, so a head that is not finished is still usable: everything in its complete lines
// is reported with NeedMore. A result other than NeedMore is final: more bytes do not change it.
//
// Where RFC 9112 leaves a choice, an observer takes what the two ends most likely took: a bare LF ends a line, one empty
// line before a request is skipped, one SP parts the words of the start line. What would make framing or names a matter
// of opinion is Malformed: folded lines, a space before the colon, a bare CR or NUL, Content-Length that contradicts
// itself. HTTP/0.9 has no head and is NotHTTP.
package head

import "github.com/meshwatch/meshwatch/meshwatch/journey"

// MaxLen is the longest head in bytes that is still called one: Envoy's default limit is 60 KiB, HAProxy's 16 KiB.
const MaxLen = 64 << 10

// Result is what the bytes turned out to be.
type Result uint8

// The results. Only NeedMore can change as bytes are added.
const (
	NeedMore  Result = iota // a head so far, not finished: the fields of its complete lines are set
	Complete                // a whole head, HeadLen bytes
	NotHTTP                 // neither HTTP nor anything else known here
	Malformed               // began like HTTP/1.x but is not acceptable, see Head.Reason
	TLS                     // a TLS record: opaque
	HTTP2                   // an HTTP/2 preface or frame: opaque in this version
)

// String is the result as metrics and logs call it.
func (r Result) String() string {
	return [...]string{"need-more", "complete", "not-http", "malformed", "tls", "http2"}[r]
}

// Reason is why a head is Malformed.
type Reason uint8

// The reasons.
const (
	ReasonNone             Reason = iota
	ReasonVersion                 // not HTTP/1.x, or something other than a line end after it
	ReasonStatus                  // not three digits from 100 on
	ReasonName                    // a line without a colon, or with white space, a control or an 8-bit byte before it
	ReasonFold                    // a line that continues the one before it
	ReasonControl                 // NUL or bare CR
	ReasonContentLength           // not a number below 2^62, or several that differ
	ReasonTransferEncoding        // a request whose last coding is not chunked: its end cannot be found
	ReasonTooLong                 // more than MaxLen bytes without an end
)

// String is the reason as metrics and logs call it.
func (r Reason) String() string {
	return [...]string{"none", "version", "status", "field-name", "folded-line", "control-byte", "content-length",
		"transfer-encoding", "too-long"}[r]
}

// Kind says which way a message goes.
type Kind uint8

// The kinds. KindNone until the start line tells.
const (
	KindNone Kind = iota
	Request
	Response
)

// Config says which fields are looked for. Names are of any case.
type Config struct {
	RequestIDHeaders []string // the first of these that is present is the request id; empty: X-Request-ID
	CaptureHeaders   []string // put on legs, never evidence for a join
}

// Head is what was read. Its slices alias the parsed bytes and are valid as long as these are. Reuse one Head for many
// messages: Parse resets it and keeps Captured's memory. After NeedMore it speaks of the complete lines alone.
type Head struct {
	Kind         Kind
	Major, Minor uint8 // of the HTTP version, 0.0 until it was read

	Method    []byte // requests
	Target    []byte // requests: as sent
	TargetCut bool   // the bytes ended within Target
	Host      []byte // requests: the target's authority if it has one, else the first Host field
	Status    int    // responses: 100 to 999

	RequestID          []byte // as sent, nil: none; see ParseID
	RequestIDHeader    int    // index in Config.RequestIDHeaders, -1: none
	RequestIDAmbiguous bool   // the same field came again with another value; RequestID is the first
	Trace              journey.TraceContext
	Captured           [][]byte // by index in Config.CaptureHeaders; nil: absent; the first value where repeated

	ContentLength   int64 // bytes, -1: unknown, not sent, or overruled by Transfer-Encoding
	Chunked         bool  // the body ends by its last chunk
	Upgrade         bool  // Upgrade field and Connection: upgrade: another protocol is asked for, or (101) follows
	Connect         bool  // method CONNECT
	ConnectionClose bool  // the sender will not use the connection again
	Expect100       bool  // the body waits for a 100 response
	Interim         bool  // 1xx, not 101: the real response is still to come
	NoBody          bool  // the head alone says that nothing follows; HEAD's responses are not known here
	otherCoding     bool  // Transfer-Encoding whose last coding is not chunked: the body ends with the connection

	HeadLen int    // bytes including the blank line, 0: not Complete
	Reason  Reason // why Malformed
}

// MessageLen is the length in bytes of head and body, known only where the head fixes it: not for chunked bodies nor for
// bodies that end with the connection. A response needs the method of its request (responses to HEAD have no body, 2xx
// to CONNECT begin a tunnel); without one it is known only where that makes no difference.
func (h *Head) MessageLen(requestMethod []byte) (n int64, known bool) {
	if h.HeadLen == 0 {
		return 0, false
	}
	n = int64(h.HeadLen)
	if h.NoBody || h.Kind == Response && h.bodiless(requestMethod) {
		return n, true
	}
	if h.Chunked || h.ContentLength < 0 || h.Kind == Response && len(requestMethod) == 0 {
		return 0, false
	}
	return n + h.ContentLength, true
}

func (h *Head) bodiless(requestMethod []byte) bool {
	tunnel := string(requestMethod) == "CONNECT" && h.Status >= 200 && h.Status < 300
	return tunnel || string(requestMethod) == "HEAD"
}
