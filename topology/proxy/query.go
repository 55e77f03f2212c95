package proxy

import (
	"strconv"
	"strings"
)

// query is a request as routes see it.
type query struct {
	*Request
	host     string // in lower case, with its port unless the proxy strips it
	path     string // without query and fragment
	rawQuery string
}

// query brings a request into the form in which the proxy looks at it; ok is false where that form is not sure.
func (m *manager) query(r *Request) (q query, ok bool) {
	q = query{Request: r, host: r.Authority, path: r.Path}
	if m.stripAny || m.stripSame {
		at := portStart(q.host)
		port, err := strconv.ParseUint(strings.TrimPrefix(q.host[at:], ":"), 10, 16)
		if m.stripAny || err == nil && uint16(port) == r.Local.Port() {
			q.host = q.host[:at]
		}
	}
	if m.stripDot {
		q.host = strings.TrimSuffix(q.host, ".")
	}
	if !lower(q.host) {
		if !ascii(q.host) {
			return q, false
		}
		q.host = strings.ToLower(q.host)
	}
	q.path, _, _ = strings.Cut(q.path, "#")
	q.path, q.rawQuery, _ = strings.Cut(q.path, "?")
	if q.host == "" || !strings.HasPrefix(q.path, "/") || r.Method == "CONNECT" {
		return q, false // of another form, such as an absolute URL
	}
	return q, !m.normal || plain(q.path)
}

// plain says whether a path is in its normal form already, whichever that is.
func plain(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case c == '%' || c == '\\' || c >= 0x80 || c <= ' ':
			return false
		case c == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.'):
			return false
		}
	}
	return true
}

// header is what is known of a header, also of those that are parts of the request line.
func (q *query) header(name string) (string, Presence) {
	switch name {
	case ":method":
		return q.Method, presence(q.Method != "")
	case ":authority", "host": // the same in Envoy
		return q.Authority, presence(len(q.host) == len(q.Authority))
	case ":path":
		return q.Path, presence(!q.NoQuery)
	case "x-request-id", "connection", "upgrade", "te", "transfer-encoding", "via", "user-agent", "traceparent", "tracestate":
		return "", Unknown // the proxy may have changed it before it looked
	}
	if strings.HasPrefix(name, "x-forwarded-") || strings.HasPrefix(name, "x-envoy-") || strings.HasPrefix(name, "x-b3-") {
		return "", Unknown
	}
	if q.Header == nil || strings.HasPrefix(name, ":") {
		return "", Unknown
	}
	return q.Header(name)
}

func presence(known bool) Presence {
	if known {
		return Present
	}
	return Unknown
}

// grpc says whether the request is a gRPC call, by its content type.
func (q *query) grpc() verdict {
	value, known := q.header("content-type")
	if known == Unknown {
		return maybe
	}
	rest, found := strings.CutPrefix(value, "application/grpc")
	return is(found && (rest == "" || rest[0] == '+'))
}
