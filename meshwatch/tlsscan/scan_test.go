package tlsscan

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A program that maps libssl appears, with what is found in it, and goes.
func TestScan(t *testing.T) {
	s := New()
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
	done := func() { in.Close(); _ = cmd.Wait() }
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" { //nolint:errcheck // the line tells
		done()
		t.Skip("no python3 with ssl")
	}
	pid := cmd.Process.Pid
	b := until(t, s, "appears", func(b *Binary) bool { return b != nil && slices.Contains(b.Pids, pid) }, pid)
	if b.Library == nil || b.Library.Name != "OpenSSL" || !strings.Contains(b.Path, "ssl") {
		t.Errorf("%+v", b)
	}
	if f, err := os.Open(b.Open); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	done()
	until(t, s, "goes", func(b *Binary) bool { return b == nil }, pid)
}

// until scans until the binary with OpenSSL that a process has is as wanted.
func until(t *testing.T, s *Scanner, what string, holds func(*Binary) bool, pid int) *Binary {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		list, err := s.Scan()
		if err != nil {
			t.Fatal(err)
		}
		var got *Binary
		for i := range list {
			if slices.Contains(list[i].Pids, pid) {
				got = &list[i]
			}
		}
		if holds(got) {
			return got
		}
	}
	t.Fatalf("not within 30 s: it %s", what)
	return nil
}

func TestExecutable(t *testing.T) {
	for line, want := range map[string]string{
		"7f00-7f01 r-xp 00001000 fe:00 1234                       /usr/lib/libx.so\n": "/usr/lib/libx.so",
		"7f00-7f01 r-xp 00001000 fe:00 1234 /a b/lib x.so (deleted)\n":                "/a b/lib x.so",
		"7f00-7f01 r--p 00001000 fe:00 1234 /usr/lib/libx.so\n":                       "",
		"7f00-7f01 r-xp 00000000 00:00 0    [vdso]\n":                                 "",
		"7f00-7f01 rwxp 00000000 00:00 0 \n":                                          "",
		"":                                                                            "",
		"x":                                                                           "",
	} {
		if got := executable([]byte(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// BenchmarkScan is a look at all processes of this machine when nothing is new.
func BenchmarkScan(b *testing.B) {
	s := New()
	for range 20 {
		if _, err := s.Scan(); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := s.Scan(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(s.procs)), "processes")
}

// A copy of a binary, as in another image, is another file that is not searched again.
func TestCopyIsNotSearched(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := New()
	first, second := s.search(self, int64(len(b))), s.search(copied, int64(len(b)))
	if first != second {
		t.Errorf("searched twice: %+v, %+v", first, second)
	}
	if err := os.WriteFile(copied, append(b, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if third := s.search(copied, int64(len(b))+1); third == first {
		t.Error("a file of another size was taken for a copy")
	}
}

// What was replaced since it was looked at is not taken for what it was.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lib")
	write := func(to, text string) {
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "old")
	was, err := New().stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b := Binary{Path: path, Open: path, File: was}
	f, err := b.Reopen()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	write(path+".new", "new")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Reopen(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("replaced: %v", err)
	}
	os.Remove(path) //nolint:errcheck // then the next line tells
	if _, err := b.Reopen(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
}
