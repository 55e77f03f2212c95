package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReadAccess(t *testing.T) {
	const at = "2026-11-22T20:00:00.1Z "
	log := at + "stderr F 2026-11-22 info Envoy proxy is ready\n" +
		at + `stdout F {"start":"1795000000.123456","request_id":"r1","path":"/a","code":200,"flags":"-","duration_ms":3,"attempts":1,` +
		`"downstream_direct":"10.244.1.7:41000","upstream_local":null,"upstream_host":"envoy://internal_client_address/","cluster":"inbound|8080||"}` + "\n" +
		at + `stdout P {"request_id":` + "\n" + at + "stderr F meanwhile\n" + at + `stdout F "r2","code":0}` + "\n" +
		at + `stdout F {"request_id":}` + "\n" +
		at + `stdout F {"request_id":"still being written`
	var got []Access
	var broken int
	readAccess(strings.NewReader(log), func(a Access, err error) bool {
		if err != nil {
			broken++
		} else {
			got = append(got, a)
		}
		return true
	})
	want := []Access{
		{Start: Seconds{time.Unix(1795000000, 123456000)}, RequestID: "r1", Path: "/a", Code: 200, Flags: "-", DurationMS: 3, Attempts: 1,
			DownstreamDirect: addr("10.244.1.7:41000"), Cluster: "inbound|8080||"},
		{RequestID: "r2"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(Addr{})); diff != "" || broken != 1 {
		t.Errorf("%d broken (-want +got):\n%s", broken, diff)
	}
}

func addr(s string) Addr { return Addr{netip.MustParseAddrPort(s)} }

func TestMatch(t *testing.T) {
	a, b := addr("10.244.1.2:1"), addr("10.244.1.2:2")
	callers := []Access{
		{RequestID: "1", UpstreamLocal: a}, {RequestID: "1", UpstreamLocal: b}, {RequestID: "2", UpstreamLocal: a},
		{RequestID: "3"}, // never left
		{RequestID: "4", UpstreamLocal: a}, {RequestID: "4", UpstreamLocal: a},
	}
	callees := []Access{
		{RequestID: "1", DownstreamDirect: b}, {RequestID: "1", DownstreamDirect: a}, {RequestID: "2", DownstreamDirect: b},
		{RequestID: "4", DownstreamDirect: a},
	}
	matched, lost := Match(callers, callees)
	if matched != 3 || len(lost) != 2 || lost[0].RequestID != "2" || lost[1].RequestID != "4" {
		t.Errorf("matched %d, lost %+v", matched, lost)
	}
}

// TestParseTLS reads a connection of Go's own, of both versions.
func TestParseTLS(t *testing.T) {
	dir := t.TempDir()
	if err := makeTestIdentity(dir); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "x.crt"), filepath.Join(dir, "x.key"))
	if err != nil {
		t.Fatal(err)
	}
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

func makeTestIdentity(dir string) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	cert := newCertificate("x")
	return writeIdentity(dir, "x", cert, cert, key, key)
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

func TestWriteImage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	img := Image{Name: "lab.local/x:1", Entrypoint: []string{"/bin/tool"}, Dirs: []string{"/var/run"},
		Text:  map[string]string{"/etc/passwd": "root"},
		Files: map[string]string{"/bin/tool": filepath.Join(dir, "link"), "/lib": dir}}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := WriteImage(file, img); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var layer string
	var names []string
	for r := tar.NewReader(f); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimRight(head.Name, "0123456789abcdef"))
		layer = string(data) // the last
	}
	if diff := cmp.Diff([]string{"oci-layout", "index.json", "blobs/sha256/", "blobs/sha256/", "blobs/sha256/"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var got []string
	for r := tar.NewReader(strings.NewReader(layer)); ; {
		head, err := r.Next()
		if err != nil {
			break
		}
		got = append(got, head.Name+head.Linkname)
	}
	want := []string{"tmp/", "var/", "var/run/", "etc/", "etc/passwd", "bin/", "bin/tool", "lib/", "lib/linktool", "lib/tool"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOptions(t *testing.T) {
	for nodes, want := range map[int]int{0: 1, 1: 1, 3: 3, 4: -1, -1: -1} {
		o, err := Options{Nodes: nodes}.check()
		if (err != nil) != (want < 0) || err == nil && o.Nodes != want {
			t.Errorf("%d nodes: %+v, %v", nodes, o, err)
		}
	}
}

func TestDiff(t *testing.T) {
	before := Snapshot{"link eth0": true, "process 1": true, "mount /x": true}
	after := Snapshot{"link eth0": true, "process 2": true}
	if diff := cmp.Diff([]string{"gone: mount /x", "new: process 2"}, before.Diff(after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
