package proxylog

import (
	"strings"
	"testing"
	"time"

	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// silent is a Server that listens nowhere.
func silent() (*Server, *loss.Set) {
	set := &loss.Set{}
	s, err := Listen(Options{PerSecond: 1 << 20, PerPeer: 1 << 20, Monotonic: monotonic, Losses: set})
	if err != nil {
		panic(err)
	}
	return s, set
}

// checkSaid says what must not be given out, whoever said it.
func checkSaid(t *testing.T, e *journey.Said) {
	t.Helper()
	now := monotonic()
	switch {
	case !e.Downstream.IsValid(), e.Upstream != (journey.Connection{}) && !e.Upstream.IsValid():
		t.Errorf("addresses of %+v", e)
	case !sound(e), e.Error <= 0, e.Start > now+uint64(2*time.Minute), now > uint64(3*longest) && e.Start < now-uint64(3*longest):
		t.Errorf("times of %+v", e)
	case e.Status < 0, e.Status > 999, len(e.Method) > maxMethod, len(e.Path) > maxPath, len(e.Authority) > maxAuthority, len(e.Flags) > maxFlags, len(e.RequestID) > maxID:
		t.Errorf("%+v", e)
	}
}

// account is how many entries came out, or were counted, since the last time.
func account(t *testing.T, s *Server, set *loss.Set, before uint64) (n uint64) {
	t.Helper()
	for len(s.out) > 0 {
		e := <-s.out
		checkSaid(t, &e)
		n++
	}
	return n + lost(set) - before
}

func lost(set *loss.Set) (n uint64) {
	for _, r := range set.Rows() {
		n += r.Count
	}
	return n
}

// Whatever the bytes are, each entry in them is given out or counted, and what is given out can be.
func FuzzEnvoy(f *testing.F) {
	now := time.Now()
	whole := marshal(f, message(entryOf(now), entryOf(now)))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(marshal(f, message(&data.HTTPAccessLogEntry{})))
	f.Add([]byte{0x12, 0x04, 0x0a, 0x00, 0x0a, 0x00})
	f.Add([]byte{0x1a, 0x02, 0x0a, 0x00})
	f.Add([]byte(strings.Repeat("\x12\x00", 100)))
	s, set := silent()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > mostMessage {
			return
		}
		entries, before := uint64(0), lost(set)
		whole := fields(b, func(n protowire.Number, list []byte) bool {
			return n != fieldHTTP && n != fieldTCP || fields(list, func(n protowire.Number, _ []byte) bool {
				if n == fieldEntry {
					entries++
				}
				return true
			})
		})
		if !whole {
			entries++ // the rest, as one
		}
		s.message(b, journey.Speaker{Pid: 1}, time.Now())
		if n := account(t, s, set, before); n != entries {
			t.Errorf("%d of %d entries accounted for", n, entries)
		}
	})
}

// Whatever the text is, it is one entry that can be, or counted.
func FuzzHAProxy(f *testing.F) {
	f.Add(lineOf(time.Now()))
	f.Add("<134>Nov 27 22:00:00 haproxy[7]: " + lineOf(time.Now()))
	f.Add("meshwatch/1 down=10.0.0.1|1|10.0.0.2|2 up=-|-|-|- id=- method=<BADREQ> path=- host=- status=-1 flags=CR start=- end=1 upto=-1+-1 answer=-1")
	f.Add("meshwatch/1 down=::1|1|::ffff:10.0.0.2|2 up=fe80::1%eth0|1|-|- id=%00%ff start=1795818999999000 end=1795819000000000 upto=99999999999 answer=5")
	f.Add("Proxy mesh started.")
	s, set := silent()
	f.Fuzz(func(t *testing.T, line string) {
		if len(line) > mostLine {
			return
		}
		before := lost(set)
		s.line([]byte(line), journey.Speaker{Pid: 1}, time.Now())
		if n := account(t, s, set, before); n != 1 {
			t.Errorf("accounted for %d times", n)
		}
	})
}
