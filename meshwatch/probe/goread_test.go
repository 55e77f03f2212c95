package probe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/bpf"
	"github.com/meshwatch/meshwatch/meshwatch/tlsfind"
)

// What comes to a Go program from one that has no probes is read where it is read: each request once, tied to the flight that it came in. The
// first of a connection may be read with the end of the client's handshake, which is no Read.
func TestGoReads(t *testing.T) {
	privileged(t)
	if _, err := os.Stat("/usr/bin/curl"); err != nil {
		t.Skip("no curl here")
	}
	r := record(t)
	readsProbed(t, r)
	port := serveTLS(t)
	const clients, requests = 4, 5
	done := make(chan error, clients)
	for range clients {
		go func() {
			args := append([]string{"-sk", "--http1.1", "-d", "body"}, strings.Fields(strings.Repeat(fmt.Sprintf("https://127.0.0.1:%d/x ", port), requests))...)
			out, err := exec.Command("/usr/bin/curl", args...).CombinedOutput()
			if err == nil && string(out) != strings.Repeat("ok", requests) {
				err = fmt.Errorf("%q", out)
			}
			done <- err
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	read := map[uint32]string{} // by flight; net/http may take the first byte of a request by itself
	for id := uint64(1); id <= r.Ring().Last(); id++ {
		var f, of bpf.Flight
		r.Ring().Copy(&f, id)
		if f.Id != id || f.SendPeer != port || uint32(f.Flags)&bpf.FlagText == 0 {
			continue
		}
		head, ok := r.Ring().Head(nil, &f)
		r.Ring().Copy(&of, uint64(f.Prev))
		if !ok || uint32(of.Flags)&(bpf.FlagAwaits|bpf.FlagPlain) != bpf.FlagAwaits || of.SendSk != f.SendSk {
			t.Errorf("%q (whole: %t) is of %+v", head, ok, of)
		}
		read[f.Prev] += string(head)
	}
	posts := 0
	for _, text := range read {
		if strings.HasPrefix(text, "POST /x HTTP/1.1\r\n") && strings.HasSuffix(text, "\r\n\r\nbody") {
			posts++
		}
	}
	if posts < clients*(requests-1) || posts > clients*requests {
		t.Errorf("%d of %d requests were read: %q", posts, clients*requests, slices.Collect(maps.Values(read)))
	}
}

// readsProbed puts probes on where this program reads plaintext.
func readsProbed(t *testing.T, r *bpf.Recorder) {
	t.Helper()
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found, err := tlsfind.Find(file)
	if err != nil {
		t.Fatal(err)
	}
	var points []bpf.TLSPoint
	for _, p := range found.Points {
		if slices.Contains([]tlsfind.Kind{tlsfind.GoRead, tlsfind.GoReadEnd}, p.Kind) {
			points = append(points, bpf.TLSPoint{Kind: programs[p.Kind], Offset: p.Offset})
		}
	}
	if len(points) < 2 {
		t.Fatalf("found %+v", found.Points)
	}
	probes, err := r.TLS.Attach("/proc/self/exe", points)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := probes.Close(); err != nil {
			t.Error(err)
		}
	})
}

// serveTLS serves "ok" until the test ends.
func serveTLS(t *testing.T) (port uint16) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(w, "ok")
	})}
	go server.Serve(ln)                          //nolint:errcheck // it is closed below
	t.Cleanup(func() { server.Close() })         //nolint:errcheck // likewise
	return uint16(ln.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
}
