package join

import (
	"bytes"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/meshwatch/meshwatch/meshwatch/head"
)

// keptLines hashes the lines of a message's head that an intermediary must hand on as they are (RFC 9110 §7.6), whatever their order: 0
// if the head is not whole. known keeps it. What is configured as the request's id, and what is only captured, is no evidence of content.
func (j *Joiner) keptLines(m *Message, known *uint64) uint64 {
	if m == nil || m.result != head.Complete {
		return 0
	}
	if *known != 0 {
		return *known
	}
	b := m.captured()
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[i+1:]
	}
	sum := uint64(1)
	for {
		line, rest, more := bytes.Cut(b, []byte{'\n'})
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if len(line) == 0 || !more {
			break
		}
		b = rest
		name, value, ok := bytes.Cut(line, []byte{':'})
		if !ok || len(name) > longestName {
			continue
		}
		n := copy(j.lower[:], name)
		for i, c := range j.lower[:n] {
			if c >= 'A' && c <= 'Z' {
				j.lower[i] = c + 'a' - 'A'
			}
		}
		if low := j.lower[:n]; !j.ownLine(low) {
			sum += maphash.Bytes(j.seed, low) ^ maphash.Bytes(j.seed, bytes.TrimSpace(value))*31
		}
	}
	*known = max(sum, 1)
	return *known
}

const longestName = 64 // of a field that is looked at

// ownLine says whether a field is of one connection, or such that proxies add or change it.
func (j *Joiner) ownLine(name []byte) bool {
	for _, p := range ownPrefixes() {
		if len(name) > len(p) && string(name[:len(p)]) == p {
			return true
		}
	}
	_, own := j.own[string(name)]
	return own
}

// ownPrefixes begin the names of what proxies and tracers say of a message.
func ownPrefixes() [4]string { return [4]string{"x-envoy-", "x-forwarded-", "x-b3-", "proxy-"} }

// ownLines are the names of fields that are no evidence of content, in lower case.
func ownLines(p *head.Parser) map[string]struct{} {
	own := map[string]struct{}{}
	for _, name := range slices.Concat([]string{
		"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", // of the connection: RFC 9110 §7.6.1
		"host", "content-length", "expect", "max-forwards", "via", "forwarded", "accept-encoding", "content-encoding", "vary",
		"date", "server", "age", "alt-svc", "x-request-id", "x-real-ip", "x-served-by", "grpc-timeout",
		"traceparent", "tracestate", "baggage", "b3", "uber-trace-id", "sw8", "x-ot-span-context", "x-cloud-trace-context",
	}, head.Credentials(), p.Named()) {
		own[strings.ToLower(name)] = struct{}{}
	}
	return own
}
