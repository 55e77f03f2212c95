package head

import (
	"hash/maphash"
	"testing"
)

func TestEndToEnd(t *testing.T) {
	p, seed := New(Config{CaptureHeaders: []string{"X-Truth-Id"}, RequestIDHeaders: []string{"X-My-Id"}}), maphash.MakeSeed()
	const first = "GET / HTTP/1.1\r\n"
	base := p.EndToEnd([]byte(first+"Accept: a\r\nUser-Agent: u\r\n\r\n"), seed)
	for name, c := range map[string]struct {
		head string
		same bool
	}{
		"case, order and space": {"user-agent:u \r\naccept:  a\r\n\r\n", true},
		"what proxies add":      {"Accept: a\r\nX-Envoy-Attempt-Count: 1\r\nx-forwarded-for: 1\r\nVia: p\r\nUser-Agent: u\r\nX-Request-Id: 3\r\n\r\n", true},
		"of the connection":     {"Accept: a\r\nConnection: close\r\nTE: trailers\r\nUser-Agent: u\r\n\r\n", true},
		"captured, never seen":  {"Accept: a\r\nUser-Agent: u\r\nx-truth-id: 5\r\n\r\n", true},
		"configured id":         {"Accept: a\r\nUser-Agent: u\r\nx-my-id: 5\r\n\r\n", true},
		"trace":                 {"Accept: a\r\nUser-Agent: u\r\ntraceparent: 5\r\nb3: 0\r\nX-B3-Spanid: 1\r\n\r\n", true},
		"a body's bytes":        {"Accept: a\r\nUser-Agent: u\r\n\r\nX: y\r\n", true},
		"bare line feeds":       {"Accept: a\nUser-Agent: u\n\n", true},
		"another value":         {"Accept: b\r\nUser-Agent: u\r\n\r\n", false},
		"a line less":           {"Accept: a\r\n\r\n", false},
		"a line more":           {"Accept: a\r\nUser-Agent: u\r\nX-Shop: 1\r\n\r\n", false},
		"values swapped":        {"Accept: u\r\nUser-Agent: a\r\n\r\n", false},
		"a line twice":          {"Accept: a\r\nAccept: a\r\nUser-Agent: u\r\n\r\n", false},
	} {
		if got := p.EndToEnd([]byte(first+c.head), seed) == base; got != c.same {
			t.Errorf("%s: the same %t, want %t", name, got, c.same)
		}
	}
}
