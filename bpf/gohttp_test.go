package bpf

import (
	"bytes"
	"debug/elf"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/meshwatch/meshwatch/test/gobuild"
)

// goProgram builds testdata/gohttp with a release of Go.
func goProgram(t *testing.T, release string) (path string) {
	t.Helper()
	source, err := os.ReadFile("testdata/gohttp/main.go")
	if err != nil {
		t.Fatal(err)
	}
	path, err = gobuild.Build(t, string(source), release, []string{"CGO_ENABLED=0"})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// goPoints are where symbols and debug information say that the program has what is probed.
func goPoints(t *testing.T, path string) (p GoPoints, tlsWrite TLSPoint) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]uint64{}
	for i := range symbols {
		at[symbols[i].Name] = symbols[i].Value
	}
	text := f.Section(".text")
	push := func(name string) uint64 {
		code := make([]byte, 64)
		if _, err := text.ReadAt(code, int64(at[name]-text.Addr)); err != nil { //nolint:gosec // a file has less
			t.Fatalf("%s at %#x: %v", name, at[name], err)
		}
		behind := bytes.Index(code, []byte{0x55, 0x48, 0x89, 0xe5}) // the check of the stack
		if behind <= 0 {
			t.Fatalf("%s begins with % x", name, code)
		}
		return at[name] - text.Addr + text.Offset + uint64(behind) //nolint:gosec // not negative
	}
	p.RoundTrip, p.Write = push("net/http.(*persistConn).roundTrip"), push("net/http.persistConnWriter.Write")
	g := gobuild.Goroutine(t, path)
	p.Goid, p.ParentGoid = g["goid"], g["parentGoid"]
	return p, TLSPoint{TLSGoWrite, push("crypto/tls.(*Conn).Write")}
}

// runGo runs the program, and returns the ports of its front and its back.
func runGo(t *testing.T, path string, args ...string) (front, back uint16) {
	t.Helper()
	cmd := exec.Command(path, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f := strings.Fields(string(out))
	if len(f) != 2 {
		t.Fatalf("it printed %q", out)
	}
	var ports [2]uint16
	for i := range ports {
		at, err := netip.ParseAddrPort(f[i])
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = at.Port()
	}
	return ports[0], ports[1]
}

// field is a field of a head that is a number; 0: it is not there.
func field(head []byte, name string) uint32 {
	m := regexp.MustCompile(`\r\n` + name + `: (\d+)\r\n`).FindSubmatch(head)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseUint(string(m[1]), 10, 32) //nolint:errcheck // then it is 0
	return uint32(n)
}

// checkGoroutines checks that each message on a port is of the goroutine that its head names, or of none that is known. It returns how many
// requests are of one, and how many responses.
func checkGoroutines(t *testing.T, r *Recorder, port uint16, n int) (requests, responses int) {
	t.Helper()
	for _, f := range recorded(t, r, port, n) {
		head, ok := r.Ring().Head(nil, &f)
		want := field(head, "Goroutine")
		if !ok || want == 0 { // more of a body
			continue
		}
		number, parent, known := f.Goroutine()
		switch request := !bytes.HasPrefix(head, []byte("HTTP/")); {
		case !known || number != want:
			t.Errorf("of %d (known: %v), want %d: %.60q", number, known, want, head)
		case request:
			requests++
			if of := field(head, "For"); of != 0 && number != of && parent != of {
				t.Errorf("goroutine %d, parent %d, want %d for its parent", number, parent, of)
			}
		default:
			responses++
		}
	}
	return requests, responses
}

// Requests are of the goroutine that asks and responses of the one that runs the handler, in every release of Go that is here, however
// many are under way.
func TestGoroutines(t *testing.T) {
	for _, release := range gobuild.Releases(t) {
		if strings.HasPrefix(release, "go1.20") { // has no numbers of parents
			continue
		}
		t.Run(release, func(t *testing.T) {
			privileged(t)
			path := goProgram(t, release)
			points, tlsWrite := goPoints(t, path)
			t.Logf("%+v", points)
			if release != "local" {
				checkRun(t, path, points, tlsWrite, "children", "tcp", 8, 10, 0)
				return
			}
			for _, how := range []string{"direct", "children"} {
				for _, transport := range []string{"tcp", "tls"} {
					t.Run(how+", "+transport, func(t *testing.T) { checkRun(t, path, points, tlsWrite, how, transport, 16, 20, 0) })
				}
			}
			t.Run("bodies", func(t *testing.T) { checkRun(t, path, points, tlsWrite, "direct", "tcp", 4, 10, 100_000) })
		})
	}
}

// checkRun runs the program with probes and checks all of its messages.
func checkRun(t *testing.T, path string, points GoPoints, tlsWrite TLSPoint, how, transport string, clients, times, body int) {
	t.Helper()
	r := startEdges(t, Options{Sizes: DefaultSizes()})
	p, err := r.GoHTTP.Attach(path, points)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if transport == "tls" {
		probe(t, r, path, tlsWrite)
	}
	front, back := runGo(t, path, how, transport, fmt.Sprint(clients), fmt.Sprint(times), fmt.Sprint(body))
	want := clients * times
	requests, responses := checkGoroutines(t, r, front, 2*want)
	if requests != want || responses != want {
		t.Errorf("front: goroutines of %d requests and %d responses, want %d", requests, responses, want)
	}
	inside := want
	if how == "children" {
		inside *= 2
	}
	requests, responses = checkGoroutines(t, r, back, 2*inside)
	if requests != inside || responses != inside {
		t.Errorf("back: goroutines of %d requests and %d responses, want %d", requests, responses, inside)
	}
	if trips := p.Trips(); trips.Trips != uint64(want+inside) || trips.Tied != trips.Trips { //nolint:gosec // not negative
		t.Errorf("%+v, want %d trips, all tied", trips, want+inside)
	}
	losses, err := r.Losses()
	if err != nil || losses["goroutine-not-known"] != 0 {
		t.Errorf("%v lost, %v", losses, err)
	}
	if r.GoHTTP.Known() != 1 {
		t.Errorf("%d processes are known", r.GoHTTP.Known())
	}
	if r.GoHTTP.Forget(func(int) bool { return false }); r.GoHTTP.Known() != 0 {
		t.Errorf("%d processes are known after their end", r.GoHTTP.Known())
	}
}
