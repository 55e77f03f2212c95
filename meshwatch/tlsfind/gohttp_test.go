package tlsfind

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/meshwatch/meshwatch/test/gobuild"
)

const goHTTP = `package main
import ("net/http"; "os")
func main() { http.Get(os.Args[1]) }`

// Of every release of Go that is here, however it is linked, net/http's client is found where symbols have it, and a goroutine's number where
// the debug information has it; and just so when both are stripped. A release that has no number of the goroutine's parent is refused.
func TestGoHTTP(t *testing.T) {
	for _, release := range gobuild.Releases(t) {
		for how, tt := range map[string]struct{ env, flags string }{
			"static": {"CGO_ENABLED=0", "-buildmode=exe"}, "pie": {"CGO_ENABLED=0", "-buildmode=pie"}, "cgo": {"CGO_ENABLED=1", "-buildmode=exe"},
		} {
			if release != "local" && how != "static" {
				continue
			}
			t.Run(release+", "+how, func(t *testing.T) {
				path, err := gobuild.Build(t, goHTTP, release, []string{tt.env}, tt.flags)
				if err != nil {
					if how == "cgo" && strings.Contains(err.Error(), "gcc") {
						t.Skip(err)
					}
					t.Fatal(err)
				}
				testHTTP(t, path, strings.HasPrefix(release, "go1.20"))
			})
		}
	}
}

func testHTTP(t *testing.T, path string, old bool) {
	t.Helper()
	whole, err := find(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if old {
		if whole.HTTP != nil || whole.HTTPErr == nil || errors.Is(whole.HTTPErr, ErrNotHere) {
			t.Errorf("%+v, %v", whole.HTTP, whole.HTTPErr)
		}
		t.Log(whole.HTTPErr)
		return
	}
	if whole.HTTPErr != nil {
		t.Fatal(whole.HTTPErr)
	}
	g := gobuild.Goroutine(t, path)
	h := *whole.HTTP
	if h.Goid != g["goid"] || h.Parent != g["parentGoid"] {
		t.Errorf("a goroutine's number at %d, its parent's at %d, want %d and %d", h.Goid, h.Parent, g["goid"], g["parentGoid"])
	}
	for _, p := range []Point{h.RoundTrip, h.Write} {
		at := goSymbol(t, path, p.Symbol)
		if p.Stepped || p.Offset <= at || p.Offset > at+32 {
			t.Errorf("%+v, want it just behind %#x", p, at)
		}
	}
	if out, err := exec.Command("strip", "-s", path).CombinedOutput(); err != nil {
		t.Fatalf("strip: %v: %s", err, out)
	}
	stripped, err := find(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if stripped.HTTP == nil || *stripped.HTTP != h {
		t.Errorf("stripped %+v (%v), whole %+v", stripped.HTTP, stripped.HTTPErr, h)
	}
}

// Code that is not what is known of newproc1 is refused.
func TestGoroutineNumbers(t *testing.T) {
	load := []byte{0x48, 0x8b, 0x88, 0x98, 0, 0, 0}   // mov 0x98(ax), cx
	store := []byte{0x48, 0x89, 0x8a, 0x18, 1, 0, 0}  // mov cx, 0x118(dx)
	stack := []byte{0x48, 0x8b, 0x4c, 0x24, 0x70}     // mov 0x70(sp), cx
	gopc := []byte{0x48, 0x89, 0x8a, 0x20, 1, 0, 0}   // mov cx, 0x120(dx)
	number := []byte{0x48, 0x89, 0x97, 0x98, 0, 0, 0} // mov dx, 0x98(di)
	call := []byte{0xe8, 0, 1, 0, 0}                  // of what is 256 bytes further on
	other := []byte{0xe8, 0, 2, 0, 0}
	for name, c := range map[string]struct {
		code [][]byte
		ok   bool
	}{
		"as it is":           {[][]byte{load, store, stack, gopc, call, number}, true},
		"no call":            {[][]byte{load, store, stack, gopc, other, number}, false},
		"a call between":     {[][]byte{load, store, other, stack, gopc, call, number}, false},
		"nothing copied":     {[][]byte{load, stack, gopc, call, number}, false},
		"only gopc":          {[][]byte{stack, gopc, call, number}, false},
		"another order":      {[][]byte{stack, gopc, load, store, call, number}, false},
		"number not written": {[][]byte{load, store, stack, gopc, call}, false},
		"written elsewhere":  {[][]byte{load, store, stack, gopc, call, gopc}, false},
		"overwritten":        {[][]byte{load, stack, store, gopc, call, number}, false},
		"damaged":            {[][]byte{load, store, {0xc4, 0xff}, stack, gopc, call, number}, false},
	} {
		var code []byte
		ancestors := uint64(0)
		for _, i := range c.code {
			code = append(code, i...)
			if len(i) == len(call) && &i[0] == &call[0] {
				ancestors = uint64(len(code) + 256) //nolint:gosec // not negative
			}
		}
		goid, parent, err := goroutineNumbers(code, ancestors)
		if (err == nil) != c.ok || c.ok && (goid != 0x98 || parent != 0x118) {
			t.Errorf("%s: %#x, %#x, %v", name, goid, parent, err)
		}
	}
}
