package head

import "bytes"

// field is what a name means to the parser.
type field uint8

// The fields. Those of trace contexts come first: they index traceFields.
const (
	fieldTraceparent field = iota
	fieldB3
	fieldB3TraceID
	fieldB3SpanID
	fieldB3Sampled
	fieldB3Flags
	fieldUber
	fieldSW8
	traceFieldCount
	fieldHost
	fieldContentLength
	fieldTransferEncoding
	fieldConnection
	fieldUpgrade
	fieldExpect
	fieldRequestID // configured names
	fieldCapture   // configured names
	fieldCredential
)

// Credentials are the fields whose value lets its reader in somewhere, in lower case. Parse wipes their values: they are never kept.
func Credentials() []string {
	return []string{"authorization", "cookie", "proxy-authorization", "set-cookie"}
}

var fieldNames = [...]string{
	fieldTraceparent:      "traceparent",
	fieldB3:               "b3",
	fieldB3TraceID:        "x-b3-traceid",
	fieldB3SpanID:         "x-b3-spanid",
	fieldB3Sampled:        "x-b3-sampled",
	fieldB3Flags:          "x-b3-flags",
	fieldUber:             "uber-trace-id",
	fieldSW8:              "sw8",
	fieldHost:             "host",
	fieldContentLength:    "content-length",
	fieldTransferEncoding: "transfer-encoding",
	fieldConnection:       "connection",
	fieldUpgrade:          "upgrade",
	fieldExpect:           "expect",
}

// maxContentLength leaves room to add a head's length.
const maxContentLength = 1<<62 - 1

// scratch is what several lines decide together.
type scratch struct {
	trace      traceFields
	coded      bool // a Transfer-Encoding was sent
	close      bool // Connection: close
	keepAlive  bool // Connection: keep-alive
	upgrade    bool // Connection: upgrade
	upgradeSet bool // Upgrade was sent
}

// field takes in one value, trimmed.
func (s *scratch) field(e *entry, v []byte, h *Head) Reason {
	switch e.field {
	case fieldHost:
		if h.Host == nil && h.Kind == Request {
			h.Host = v
		}
	case fieldContentLength:
		return h.contentLength(v)
	case fieldTransferEncoding:
		s.coding(v, h)
	case fieldConnection:
		s.connection(v)
	case fieldUpgrade:
		s.upgradeSet = len(v) > 0
	case fieldExpect:
		h.Expect100 = equalFold(v, "100-continue")
	case fieldRequestID:
		h.requestID(e.index, v)
	case fieldCapture:
		if h.Captured[e.index] == nil {
			h.Captured[e.index] = v
		}
	case fieldCredential:
		wipe(v)
	default:
		s.trace.set(e.field, v)
	}
	return ReasonNone
}

func wipe(v []byte) {
	for i := range v {
		v[i] = '*'
	}
}

// requestID takes the value of the index-th configured name. A name that stands earlier in the configuration wins,
// wherever its line is.
func (h *Head) requestID(index int, v []byte) {
	switch {
	case len(v) == 0:
	case h.RequestIDHeader < 0 || index < h.RequestIDHeader:
		h.RequestID, h.RequestIDHeader, h.RequestIDAmbiguous = v, index, false
	case index == h.RequestIDHeader && !bytes.Equal(v, h.RequestID):
		h.RequestIDAmbiguous = true
	}
}

// contentLength takes a number, or a list of the same number (RFC 9110 §8.6).
func (h *Head) contentLength(v []byte) Reason {
	for more := true; more; {
		var digits []byte
		digits, v, more = next(v)
		n, ok := decimal(digits)
		if !ok || h.ContentLength >= 0 && n != h.ContentLength {
			return ReasonContentLength
		}
		h.ContentLength = n
	}
	return ReasonNone
}

func decimal(digits []byte) (n int64, ok bool) {
	for _, c := range digits {
		if c < '0' || c > '9' || n > maxContentLength/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(digits) > 0 && n <= maxContentLength
}

// coding takes a list of transfer codings; the last one of all lines says how the body ends.
func (s *scratch) coding(v []byte, h *Head) {
	for more := true; more; {
		var name []byte
		name, v, more = next(v)
		if i := bytes.IndexByte(name, ';'); i >= 0 {
			name = trim(name[:i])
		}
		if len(name) > 0 {
			s.coded, h.Chunked = true, equalFold(name, "chunked")
		}
	}
}

func (s *scratch) connection(v []byte) {
	for more := true; more; {
		var option []byte
		option, v, more = next(v)
		switch {
		case equalFold(option, "close"):
			s.close = true
		case equalFold(option, "keep-alive"):
			s.keepAlive = true
		case equalFold(option, "upgrade"):
			s.upgrade = true
		}
	}
}

// next splits a comma-separated list; more says whether rest is one.
func next(v []byte) (item, rest []byte, more bool) {
	i := bytes.IndexByte(v, ',')
	if i < 0 {
		return trim(v), nil, false
	}
	return trim(v[:i]), v[i+1:], true
}

// finish works out what depends on several lines, or on all of them (r is Complete).
func (s *scratch) finish(h *Head, r Result) Result {
	if r == Malformed {
		return r
	}
	if s.coded {
		h.ContentLength = -1
		h.otherCoding = !h.Chunked
	}
	whole := r == Complete
	if whole && h.Kind == Request && h.otherCoding {
		return h.malformed(ReasonTransferEncoding)
	}
	h.Upgrade = s.upgradeSet && s.upgrade || h.Status == 101
	oneShot := h.Minor == 0 && !s.keepAlive
	h.ConnectionClose = s.close || oneShot || h.Minor == 0 && s.coded
	h.Interim = h.Kind == Response && h.Status < 200 && h.Status != 101
	h.NoBody = h.Kind == Response && (h.Status < 200 || h.Status == 204 || h.Status == 304) ||
		whole && !s.coded && (h.ContentLength == 0 || h.Kind == Request && h.ContentLength < 0)
	h.Trace = s.trace.context()
	return r
}
