package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestParseTLS reads a connection of Go's own, of both versions.
func TestParseTLS(t *testing.T) {
	cert := selfSigned(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, server := talk(t, cert, version)
		h, err := ParseTLS(client, server)
		want := Hello{SNI: "backend.demo", ALPN: []string{"istio", "h2"}}
		if version == tls.VersionTLS13 {
			want.Version = version // 1.2 has no such extension
		}
		if diff := cmp.Diff(want, h); diff != "" || err != nil {
			t.Errorf("version %x: %v (-want +got):\n%s", version, err, diff)
		}
		for name, broken := range map[string][2][]byte{
			"nothing": {nil, server}, "clear text": {[]byte("GET / HTTP/1.1\r\n\r\n"), server},
			"clear text later": {append(bytes.Clone(client), "GET / HTTP/1.1"...), server}, "only a beginning": {client[:50], server},
			"two clients": {client, client},
		} {
			if _, err := ParseTLS(broken[0], broken[1]); err == nil {
				t.Errorf("version %x, %s: no error", version, name)
			}
		}
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// talk says something over TLS and returns what both sides sent.
func talk(t *testing.T, cert tls.Certificate, version uint16) (client, server []byte) {
	t.Helper()
	a, b := net.Pipe()
	ra, rb := &recorder{Conn: a}, &recorder{Conn: b}
	done := make(chan error, 1)
	go func() {
		s := tls.Server(rb, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: version, MaxVersion: version, NextProtos: []string{"istio"}}) //nolint:gosec // both are read here
		_, err := io.WriteString(s, "hello")
		done <- errors.Join(err, s.Close())
	}()
	c := tls.Client(ra, &tls.Config{InsecureSkipVerify: true, ServerName: "backend.demo", NextProtos: []string{"istio", "h2"}}) //nolint:gosec // the same
	if text, err := io.ReadAll(c); err != nil || string(text) != "hello" {
		t.Fatalf("%v: %q", err, text)
	}
	_ = c.Close()
	if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	return ra.sent, rb.sent
}

type recorder struct {
	net.Conn
	sent []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.sent = append(r.sent, p...)
	return r.Conn.Write(p)
}

func TestStream(t *testing.T) {
	s := &Stream{}
	const start = 1<<32 - 4 // wraps around
	s.add(start, true, nil)
	for _, seg := range []struct {
		at   uint32
		data string
	}{{1, "hello "}, {1, "hello "}, {3, "llo big "}, {11, "wor"}, {9, "g world"}, {5, ""}} {
		at := uint32(start)
		at += seg.at
		s.add(at, false, []byte(seg.data))
	}
	if string(s.Data) != "hello big world" {
		t.Errorf("%q", s.Data)
	}
}
