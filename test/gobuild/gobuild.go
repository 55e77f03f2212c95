// Package gobuild builds programs with the releases of Go that are here, for tests of what is found in them.
package gobuild

import (
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Releases are the toolchains of Go that this machine has: the one that runs the test ("local"), and those from 1.20 on that were fetched
// (GOTOOLCHAIN=go1.2x.y).
func Releases(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	list := []string{"local"}
	dirs, err := filepath.Glob(strings.TrimSpace(string(out)) + "/golang.org/toolchain@v0.0.1-go1.2[0-9]*.linux-amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		list = append(list, regexp.MustCompile(`go1\.\d+\.\d+`).FindString(dir))
	}
	return list
}

// Build builds a program of one file, without modules but the standard library. It is there until the test ends.
func Build(t testing.TB, source, release string, env []string, flags ...string) (path string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"main.go": source, "go.mod": "module x\n\ngo 1.20\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", append(append([]string{"build"}, flags...), "-o", "x", ".")...)
	build.Dir, build.Env = dir, append(append(os.Environ(), "GOFLAGS=-mod=mod", "GOTOOLCHAIN="+release), env...)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with %s: %w: %s", release, err, out)
	}
	return filepath.Join(dir, "x"), nil
}

// Goroutine is where the debug information of a program has the members of the runtime's struct g.
func Goroutine(t testing.TB, path string) map[string]uint16 {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := f.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	for r := d.Reader(); ; {
		e, err := r.Next()
		if err != nil || e == nil {
			t.Fatalf("no runtime.g: %v", err)
		}
		if e.Tag != dwarf.TagStructType || e.Val(dwarf.AttrName) != "runtime.g" {
			continue
		}
		typ, err := d.Type(e.Offset)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]uint16{}
		for _, m := range typ.(*dwarf.StructType).Field {
			at[m.Name] = uint16(m.ByteOffset) //nolint:gosec // a small structure
		}
		return at
	}
}
