package bpf

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var differences = flag.Int("requests", 20000, "how many requests TestInjectChangesNothingElse sends with and without")

var (
	requestHead = regexp.MustCompile(`^(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) ([!-~]+) HTTP/1\.[01]\r\n((?:[!#$%&'*+\-.^_\x60|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*)\r\n`)
	fieldOf     = func(name string) *regexp.Regexp { return regexp.MustCompile(`(?mi)^` + name + `:[ \t]*(.*?)[ \t]*\r$`) }
	idField     = fieldOf("x-(?:request|correlation)-id")
	lengthField = fieldOf("content-length")
	codingField = fieldOf("transfer-encoding")
	upgradeTo   = fieldOf("upgrade")
	number      = regexp.MustCompile(`^[0-9]{1,10}$`)
)

// latin makes each byte a rune: regular expressions are about runes.
func latin(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

// expected says which writes are to get a line: another telling of the rules than the programs'.
func expected(writes [][]byte) []bool {
	out, at, next, sure := make([]bool, len(writes)), 0, 0, true
	for i, w := range writes {
		begins := at == next
		at += len(w)
		if !begins {
			sure = sure && at-len(w) < next
		}
		if !begins || !sure {
			continue
		}
		head := latin(w[:min(len(w), HeadLimit)])
		m := requestHead.FindStringSubmatch(head)
		if m == nil {
			sure = false
			continue
		}
		fields := m[2]
		length, lengths := 0, lengthField.FindAllStringSubmatch(fields, -1)
		if len(lengths) > 1 || codingField.MatchString(fields) || len(lengths) == 1 && !number.MatchString(lengths[0][1]) {
			sure = false
			continue
		}
		if len(lengths) == 1 {
			length, _ = strconv.Atoi(lengths[0][1])
		}
		if length > 1<<30 {
			sure = false
			continue
		}
		next = at - len(w) + len([]rune(m[0])) + length
		out[i] = !idField.MatchString(fields) && strings.IndexByte(head, '\n') < 3072
		sure = !upgradeTo.MatchString(fields) && at <= next
	}
	return out
}

// HeadLimit is HEAD_LIMIT in inject.bpf.c.
const HeadLimit = 8192

// strip takes lines out of what was received where they may be, and says which writes had one. whole: all that was written has come.
func strip(h *heard, may []bool, whole bool) (had int, err error) {
	left := h.received
	for i, w := range h.writes {
		if bytes.HasPrefix(left, w) {
			left = left[len(w):]
			continue
		}
		if !whole && len(left) < len(w)+InjectedBytes { // cut off by a reset
			return had, nil
		}
		first := bytes.Index(w, []byte("\r\n")) + 2
		if !may[i] || len(left) < len(w)+InjectedBytes || !bytes.Equal(left[:first], w[:first]) || !injectedLine.Match(left[first:first+InjectedBytes]) ||
			!bytes.HasPrefix(left[first+InjectedBytes:], w[first:]) {
			return had, fmt.Errorf("write %d of %d, may have a line: %v, %.300q, came as %.400q", i, len(h.writes), may[i], w, left)
		}
		left = left[len(w)+InjectedBytes:]
		had++
	}
	if len(left) > 0 {
		return had, fmt.Errorf("%.100q came though nobody wrote it", left)
	}
	return had, nil
}

// release lets go of what is left alone all the time: while it is written to.
func release(r *Recorder, done chan struct{}) error {
	tick := time.NewTicker(time.Millisecond / 4)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
		if err := r.Inject.Release(); err != nil {
			return err
		}
	}
}

// Requests of all kinds, whole and broken, written in all ways, on connections with and without: what is written, what comes, what is
// answered and what fails is the same, but for the lines.
func TestInjectChangesNothingElse(t *testing.T) {
	r, with := startInject(t)
	without := newSidecar(t, "tcp4", "127.0.0.1:0")
	seed := uint64(time.Now().UnixNano())
	d := rand.New(rand.NewPCG(seed, 0))
	var sent, had, may int
	done, releasing := make(chan struct{}), make(chan error)
	go func() { releasing <- release(r, done) }()
	for sent < *differences {
		k := drawTalk(d)
		a, b := k.hold(t, with), k.hold(t, without)
		sent += k.requests
		wanted := expected(a.writes)
		n, err := strip(&a, wanted, k.end == closes)
		had, may = had+n, may+n
		for _, w := range wanted {
			if w && k.end == closes {
				may++
			}
		}
		if k.end == closes {
			may -= n
		}
		if err != nil {
			t.Fatalf("seed %d, after %d requests: %v", seed, sent, err)
		}
		if _, err := strip(&b, make([]bool, len(b.writes)), k.end == closes); err != nil {
			t.Fatalf("seed %d: without: %v", seed, err)
		}
		if x, y := bytes.Join(a.writes, nil), bytes.Join(b.writes, nil); !bytes.Equal(x, y) || !bytes.Equal(a.answers, b.answers) || fmt.Sprint(a.errs) != fmt.Sprint(b.errs) {
			t.Fatalf("seed %d: with: %d bytes written, %d answered, %v; without: %d, %d, %v", seed, len(x), len(a.answers), a.errs, len(y), len(b.answers), b.errs)
		}
	}
	close(done)
	if err := <-releasing; err != nil {
		t.Error(err)
	}
	o, err := r.Inject.Outcomes()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests: %d were given a line, of %d that could be; %+v", sent, had, may, o)
	if missed := uint64(may - had); missed > o.Missed["busy"] || had == 0 || o.Missed["no-memory"] != 0 {
		t.Errorf("%d requests should have a line and have none", missed)
	}
}
