package proxylog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// frames are all lines of a stream, how many were skipped, and what ended it.
func frames(r io.Reader) (lines []string, skipped int, err error) {
	b := bufio.NewReaderSize(r, mostLine)
	for {
		line, err := frame(b)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			skipped++
		case err != nil:
			return lines, skipped, err
		default:
			lines = append(lines, string(line))
		}
	}
}

func TestFrames(t *testing.T) {
	longest, tooLong := strings.Repeat("x", mostLine), strings.Repeat("y", mostLine+1)
	for _, c := range []struct {
		text    string
		lines   []string
		skipped int
		err     error
	}{
		{"", nil, 0, io.EOF},
		{"3 abc12 a longer one2 \n\n", []string{"abc", "a longer one", "\n\n"}, 0, io.EOF},
		{fmt.Sprintf("%d %s%d %s1 z", mostLine, longest, mostLine+1, tooLong), []string{longest, "z"}, 1, io.EOF},
		{"1 a4 abc", []string{"a"}, 0, io.ErrUnexpectedEOF},
		{"99999 abc", nil, 0, io.ErrUnexpectedEOF},
		{"1 a0 ", []string{"a"}, 0, errFraming},
		{"1 a05 abcde", []string{"a"}, 0, errFraming},
		{"1 a b", []string{"a"}, 0, errFraming},
		{"<134>meshwatch/1\n", nil, 0, errFraming},
		{"-1 a", nil, 0, errFraming},
		{"100000 a", nil, 0, errFraming},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text))} {
			lines, skipped, err := frames(r)
			if diff := cmp.Diff(c.lines, lines, cmpopts.EquateEmpty()); diff != "" || skipped != c.skipped || !errors.Is(err, c.err) {
				t.Errorf("%.40q: %d skipped, %v (-want +got):\n%s", c.text, skipped, err, diff)
			}
		}
	}
}

// A ring that says too much is made to wait, and another one is not; one that says nothing sensible loses its connection, and may come again.
func TestRingFlood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	s, set := listen(t, Options{Rings: []string{path}, PerSecond: 1000, PerPeer: 100})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test's connection
	began := time.Now()
	line := lineOf(began)
	flood := strings.Repeat(fmt.Sprintf("%d %s", len(line), line), 200)
	for set.Counter("accesslog", "over-limit").Value() < 3 {
		if err := c.SetWriteDeadline(began.Add(within)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, flood); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 2*slowDown {
		t.Errorf("three times over the limit within %s", took)
	}
	if n := len(s.out); n < 100 || n > 100+int(100*time.Since(began).Seconds())+1 {
		t.Errorf("%d are given out after %s", n, time.Since(began))
	}
	for _, text := range []string{"no length\n", "GET / HTTP/1.1\r\n"} {
		bad, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := bad.SetDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(bad, text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(bad); errors.Is(err, io.EOF) || bad.Close() != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	counted(t, set, "malformed", 2)
}

// At most so many connections of one process; the others' ends make room.
func TestTooManyRings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	s, set := listen(t, Options{Rings: []string{path}})
	crowd(t, path, set)
	line := lineOf(time.Now())
	for deadline := time.Now().Add(within); len(s.out) == 0; {
		c, err := net.Dial("unix", path) // refused until those that ended are gone
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(c, "%d %s", len(line), line)
		_ = c.(*net.UnixConn).CloseWrite() //nolint:forcetypeassert // dialed
		_, _ = io.Copy(io.Discard, c)      // until it is closed
		_ = c.Close()
		if time.Now().After(deadline) {
			t.Fatal(set.Rows())
		}
	}
}

// FuzzRing has each frame of a stream come out as it is, skipped, or the end of it.
func FuzzRing(f *testing.F) {
	f.Add([]byte("3 abc12 a longer one2 \n\n"))
	f.Add([]byte("0 1 a"))
	f.Add([]byte("99999 short"))
	f.Add([]byte("<134>meshwatch/1 "))
	f.Add(fmt.Appendf(nil, "%d %s1 z", mostLine+1, strings.Repeat("y", mostLine+1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, skipped, err := frames(bytes.NewReader(b))
		if err == nil || skipped > len(b)/mostLine {
			t.Errorf("%d skipped, %v", skipped, err)
		}
		var again []byte
		for _, line := range lines {
			if len(line) == 0 || len(line) > mostLine {
				t.Errorf("a line of %d bytes", len(line))
			}
			again = fmt.Appendf(again, "%d %s", len(line), line)
		}
		if skipped == 0 && !bytes.HasPrefix(b, again) {
			t.Errorf("%q is not how %q begins", again, b)
		}
	})
}
