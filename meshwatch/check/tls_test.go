package check

import (
	"bufio"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/tlsfind"
	"github.com/meshwatch/meshwatch/meshwatch/tlsscan"
)

func TestLibrary(t *testing.T) {
	found := func(stepped ...bool) *tlsfind.Library {
		l := &tlsfind.Library{Name: "OpenSSL", How: "symbols"}
		for i, s := range stepped {
			l.Points = append(l.Points, tlsfind.Point{Kind: []tlsfind.Kind{tlsfind.Write, tlsfind.ReadEx}[i], Stepped: s})
		}
		return l
	}
	for _, c := range []struct {
		binary tlsscan.Binary
		want   Result
	}{
		{tlsscan.Binary{Path: "/x", Pids: []int{7}, Library: found(false, false)}, Result{"TLS in /x", Works, "OpenSSL by symbols, in 1 process", ""}},
		{tlsscan.Binary{Path: "/x", Pids: []int{7, 8}, Library: found(false, true)},
			Result{"TLS in /x", Works, "OpenSSL by symbols, in 2 processes; reads are single-stepped: 12 µs a call instead of 1", ""}},
		{tlsscan.Binary{Path: "/x", Pids: []int{7, 8}, Library: found(true, false)},
			Result{"TLS in /x", Works, "OpenSSL by symbols, in 2 processes; writes are single-stepped: 12 µs a call instead of 1", ""}},
		{tlsscan.Binary{Path: "/x", Pids: []int{7, 8}, Library: found(true, true)},
			Result{"TLS in /x", Works, "OpenSSL by symbols, in 2 processes; writes and reads are single-stepped: 12 µs a call instead of 1", ""}},
		{tlsscan.Binary{Path: "/x", Pids: []int{7}, Err: errors.New("two copies")},
			Result{"TLS in /x", Degraded, "not read, in 1 process: two copies", "nothing if it has no TLS; else report this with where the file is from"}},
	} {
		if diff := cmp.Diff(c.want, library(&c.binary)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestNetHTTP(t *testing.T) {
	found := func(h *tlsfind.HTTP, err error) tlsscan.Binary {
		return tlsscan.Binary{Path: "/x", Pids: []int{7}, Library: &tlsfind.Library{Name: "Go crypto/tls", HTTP: h, HTTPErr: err}}
	}
	for _, c := range []struct {
		binary tlsscan.Binary
		want   Result
		none   bool
	}{
		{binary: found(&tlsfind.HTTP{}, nil), want: Result{"net/http in /x", Works, "HTTP/1 client joined by goroutine, in 1 process", ""}},
		{binary: found(&tlsfind.HTTP{Write: tlsfind.Point{Stepped: true}}, nil),
			want: Result{"net/http in /x", Works, "HTTP/1 client joined by goroutine, in 1 process; probes are single-stepped: 12 µs a call instead of 1", ""}},
		{binary: found(nil, errors.New("another order")),
			want: Result{"net/http in /x", Degraded, "not joined by goroutine, in 1 process: another order", "build it with Go 1.21 or later; else report this with the version of Go"}},
		{binary: found(nil, tlsfind.ErrNotHere), none: true},
		{binary: found(nil, nil), none: true},
		{binary: tlsscan.Binary{Err: errors.New("two copies")}, none: true},
	} {
		got, ok := netHTTP(&c.binary)
		if diff := cmp.Diff(c.want, got); diff != "" || ok == c.none {
			t.Errorf("%v (-want +got):\n%s", ok, diff)
		}
	}
}

// The library of a program that runs is listed.
func TestLibraries(t *testing.T) {
	cmd := exec.Command("python3", "-c", "import ssl, sys; print('ready', flush=True); sys.stdin.read()")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()                            //nolint:errcheck // it ends with its input
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" { //nolint:errcheck // the line tells
		t.Skip("no python3 with ssl")
	}
	results := libraries()
	for _, r := range results {
		t.Logf("%+v", r)
		if strings.HasPrefix(r.Why, "OpenSSL by symbols, in ") && r.State == Works {
			return
		}
	}
	t.Errorf("no OpenSSL among %+v", results)
}
