package tlsfind

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/test/gobuild"
)

func find(t *testing.T, path string) (*Library, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	l, err := Find(f)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("%s: %v, %.1f MB allocated, %+v, %v", filepath.Base(path), took, float64(allocated)/1e6, l, err)
	if const64 := uint64(64 << 20); allocated > const64 {
		t.Errorf("%d bytes allocated, more than %d", allocated, const64)
	}
	return l, err
}

// needed skips, or fails where everything must be there.
func needed(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("MESHWATCH_TEST_PRIVILEGED") == "1" {
			t.Fatalf("test/install.sh test fetches it: %v", err)
		}
		t.Skip(err)
	}
}

// The offsets of these releases were found by another program, and proven with live traffic on three of them.
func TestEnvoy(t *testing.T) {
	for version, want := range map[string][2]uint64{
		"1.36.4": {0x4992c00, 0x4992850},
		"1.37.0": {0x4d3ec70, 0x4d3e8c0},
		"1.38.3": {0x3c63ed0, 0x3c63b20},
		"1.39.3": {0x5a79a60, 0x5a796b0},
		"1.40.0": {0x5bfaaf0, 0x5bfa770},
	} {
		t.Run(version, func(t *testing.T) {
			path := "../../test/.cache/envoy-" + version + "/envoy"
			needed(t, path)
			l, err := find(t, path)
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%s by %s: %+v", l.Name, l.How, l.Points)
			if want := fmt.Sprintf("BoringSSL by error reports: %+v", []Point{{Write, "SSL_write", want[0], false}, {Read, "SSL_read", want[1], false}}); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if id := BuildID(f); len(id) < 16 {
				t.Errorf("build id %q", id)
			}
		})
	}
}

func TestNoLibrary(t *testing.T) {
	for _, path := range []string{"/usr/sbin/haproxy", "/usr/sbin/nginx", "/usr/bin/curl", "/usr/bin/wrk", "/bin/sh"} { // OpenSSL is in a file of its own
		t.Run(filepath.Base(path), func(t *testing.T) {
			needed(t, path)
			if _, err := find(t, path); !errors.Is(err, ErrNotHere) {
				t.Errorf("%v, want %v", err, ErrNotHere)
			}
		})
	}
}

// libssl is the machine's, as curl links it.
func libssl(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ldd", "/usr/bin/curl").Output()
	if err != nil {
		t.Skipf("no curl: %v", err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[0], "libssl.so") {
			return f[2]
		}
	}
	t.Skip("curl has no OpenSSL")
	return ""
}

func TestOpenSSL(t *testing.T) {
	l, err := find(t, libssl(t))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[Kind]bool{}
	for _, p := range l.Points {
		kinds[p.Kind] = true
		if p.Stepped && (p.Kind == Write || p.Kind == WriteEx) {
			t.Errorf("%+v is single-stepped", p)
		}
	}
	if l.Name != "OpenSSL" || l.How != "symbols" || len(kinds) != 4 || len(l.Points) != 4 {
		t.Errorf("%+v", l)
	}
}

const goTLS = `package main
import ("crypto/tls"; "os"; CGO)
func main() { c, _ := tls.Dial("tcp", os.Args[1], nil); c.Write([]byte("x")); c.Read(make([]byte, 9)) }`

// Go programs, however they are linked and stripped. Where the function really is, its symbol tells, which the stripped one has not.
func TestGo(t *testing.T) {
	for name, tt := range map[string]struct {
		imports string
		env     string
		flags   []string
	}{
		"static":   {`"fmt"`, "CGO_ENABLED=0", nil},
		"pie":      {`"fmt"`, "CGO_ENABLED=0", []string{"-buildmode=pie"}},
		"cgo":      {`"C"`, "CGO_ENABLED=1", nil},
		"cgo, pie": {`"C"`, "CGO_ENABLED=1", []string{"-buildmode=pie"}},
	} {
		t.Run(name, func(t *testing.T) {
			source := strings.Replace(goTLS, "CGO", strings.Replace(tt.imports, `"fmt"`, `_ "fmt"`, 1), 1)
			path, err := gobuild.Build(t, source, "local", []string{tt.env}, tt.flags...)
			if err != nil {
				if strings.Contains(tt.env, "=1") && strings.Contains(err.Error(), "gcc") {
					t.Skipf("no C compiler: %v", err)
				}
				t.Fatal(err)
			}
			whole, err := find(t, path)
			if err != nil {
				t.Fatal(err)
			}
			at := goSymbol(t, path, goFunction)
			if len(whole.Points) < 3 || whole.Points[1].Kind != GoRead || whole.Points[2].Kind != GoReadEnd {
				t.Errorf("%+v: reads are not found", whole.Points)
			}
			if p := whole.Points[0]; p.Kind != GoWrite || p.Stepped || p.Offset <= at || p.Offset > at+32 {
				t.Errorf("%+v, want one just behind %#x", whole.Points, at)
			}
			if out, err := exec.Command("strip", "-s", path).CombinedOutput(); err != nil {
				t.Fatalf("strip: %v: %s", err, out)
			}
			stripped, err := find(t, path)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(stripped.Points) != fmt.Sprint(whole.Points) {
				t.Errorf("stripped %+v, whole %+v", stripped.Points, whole.Points)
			}
		})
	}
}

// goSymbol is where in the file the symbol of a function is.
func goSymbol(t *testing.T, path, symbol string) uint64 {
	t.Helper()
	out, err := exec.Command("go", "tool", "nm", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		var addr uint64
		var kind, name string
		if n, _ := fmt.Sscanf(line, "%x %s %s", &addr, &kind, &name); n == 3 && name == symbol { //nolint:errcheck // other lines
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := open(t, f)
			off, _ := b.offset(addr)
			return off
		}
	}
	t.Fatalf("%s has no symbol %s", path, symbol)
	return 0
}

func TestGoWithoutTLS(t *testing.T) {
	gofmt, err := exec.LookPath("gofmt")
	if err != nil {
		t.Skip(err)
	}
	if _, err := find(t, gofmt); !errors.Is(err, ErrNotHere) {
		t.Errorf("%v, want %v", err, ErrNotHere)
	}
}

// Lengths of instructions as binutils has them, over all code of some binaries.
func TestDecode(t *testing.T) {
	if _, err := exec.LookPath("objdump"); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{libssl(t), "/lib/x86_64-linux-gnu/libc.so.6", self} {
		cmd := exec.Command("objdump", "-d", "-w", "-z", "-j", ".text", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n, wrong := 0, 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			parts := strings.Split(lines.Text(), "\t")
			if len(parts) < 3 || strings.Contains(parts[2], "(bad)") || strings.HasPrefix(parts[2], ".") {
				continue
			}
			var code []byte
			for _, h := range strings.Fields(parts[1]) {
				var c byte
				if _, err := fmt.Sscanf(h, "%02x", &c); err != nil {
					t.Fatal(err)
				}
				code = append(code, c)
			}
			n++
			i, err := decode(append(code, make([]byte, maxInstruction)...))
			if (err != nil || i.length != len(code)) && !onlyPrefixes(parts[2]) {
				if wrong++; wrong < 10 {
					t.Errorf("%s: % x is %q: decoded as %d bytes, %v", path, code, parts[2], i.length, err)
				}
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d instructions, %d wrong", path, n, wrong)
		if n < 10_000 {
			t.Errorf("%s: only %d instructions", path, n)
		}
	}
}

// onlyPrefixes says whether objdump lists prefixes as an instruction of their own.
func onlyPrefixes(text string) bool {
	last := text[strings.LastIndexByte(text, ' ')+1:]
	return strings.TrimSpace(text) == "" || last == "fs" || last == "rex.W" || strings.HasPrefix(last, "rex") || last == "data16" || last == "lock" || last == "repz" || last == "cs"
}
