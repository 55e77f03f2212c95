package head

import (
	"bytes"
	"hash/maphash"
	"strings"
)

// passing are fields that an intermediary takes off, changes or adds on the way: those of one connection (RFC 9110 §7.6.1), and what proxies say
// of themselves. In lower case; passingPrefixes besides.
var passing = []string{
	"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect", "http2-settings", "content-length",
	"host", "via", "forwarded", "max-forwards", "x-real-ip", "x-request-id", "x-correlation-id", "server", "date", "age", "alt-svc",
	"strict-transport-security", "cache-control", "warning", "tracestate", "baggage", "x-ot-span-context", "x-cloud-trace-context", "grpc-timeout", "accept-encoding",
	"set-cookie", "cookie", "proxy-authorization", // HTTP/2 cuts cookies up
}

var passingPrefixes = []string{"x-envoy-", "x-forwarded-", "x-b3-", "x-istio-", "x-datadog-"}

// EndToEnd is a hash of what an intermediary must forward of a head: its field lines in any order, without those that proxies add or change, those
// that say who asked or which trace it is, and those that Config captures. b is a whole head that Parse has read, or one of which credentials
// are wiped: these count by their length. It is the same for equal lines as long as the seed is. About 20 ns a line.
func (p *Parser) EndToEnd(b []byte, seed maphash.Seed) (sum uint64) {
	var room [256]byte
	at := bytes.IndexByte(b, '\n') + 1
	for at > 0 && at < len(b) {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return sum
		}
		line := b[at : at+i]
		at += i + 1
		n := bytes.IndexByte(line, ':')
		if n <= 0 { // the blank line
			return sum
		}
		text := room[:0]
		for _, c := range line[:n] {
			text = append(text, lower[c])
		}
		if p.passes(text) {
			continue
		}
		text = append(append(text, ':'), trim(bytes.TrimSuffix(line[n+1:], []byte{'\r'}))...)
		sum += maphash.Bytes(seed, text)
	}
	return sum
}

// passes says whether a field is no evidence that two heads are of one request.
func (p *Parser) passes(name []byte) bool {
	if p.skip[string(name)] {
		return true
	}
	if len(name) < 2 || name[0] != 'x' || name[1] != '-' {
		return false
	}
	for _, prefix := range passingPrefixes {
		if bytes.HasPrefix(name, []byte(prefix)) {
			return true
		}
	}
	return false
}

// skipped are all fields that EndToEnd leaves out, but those with a prefix.
func skipped(c Config) map[string]bool {
	skip := map[string]bool{}
	for _, names := range [][]string{passing, fieldNames[:], c.RequestIDHeaders, c.CaptureHeaders} {
		for _, name := range names {
			skip[strings.ToLower(name)] = true
		}
	}
	return skip
}
