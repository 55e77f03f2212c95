package bpf

import (
	"io"
	"net"
	"strings"
	"testing"
)

// BenchmarkInject is what a message costs from write to read on a connection of lo that is kept: one that is not looked at, one whose
// requests have ids, one whose requests are given them. The recorder is switched off.
func BenchmarkInject(b *testing.B) {
	privileged(b)
	r, err := Load(Options{Sizes: DefaultSizes(), Inject: []string{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	})
	inNewNetns(b)
	looked, plain := newSidecar(b, "tcp4", "127.0.0.1:0"), newSidecar(b, "tcp4", "127.0.0.1:0")
	if err := r.Inject.Select(map[uint32][]uint16{ownNetns(b): {looked.port}}); err != nil {
		b.Fatal(err)
	}
	if err := r.Inject.Attach(); err != nil {
		b.Fatal(err)
	}
	request := "GET /api/v1/items?page=2 HTTP/1.1\r\nHost: backend.shop.svc.cluster.local:8080\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer " +
		strings.Repeat("t", 120) + "\r\n"
	withID := request + "X-Request-ID: 44c1328a-d440-44dd-9be8-99728be2d57d\r\n\r\n"
	type way struct {
		name           string
		client, server net.Conn
		request        string
		more           int
	}
	var ways []way
	for _, w := range []struct {
		name    string
		s       *sidecar
		request string
		more    int
	}{{"not looked at", plain, withID, 0}, {"has an id", looked, withID, 0}, {"is given one", looked, request + "\r\n", InjectedBytes}} {
		client, server := w.s.dial(b)
		ways = append(ways, way{w.name, client, server, w.request, w.more})
	}
	for _, w := range ways {
		b.Run(w.name, func(b *testing.B) {
			buf := make([]byte, len(w.request)+w.more)
			for b.Loop() {
				if _, err := io.WriteString(w.client, w.request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(w.server, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
