package proxylog

import (
	"bytes"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// LogFormat is the log-format of HAProxy that is read. Four variables are set while the request is there:
//
//	http-request set-var(txn.meshwatch_id) req.hdr(x-request-id)
//	http-request set-var(txn.meshwatch_path) path
//	http-request set-var(txn.meshwatch_host) req.hdr(host)
//	http-request set-var(txn.meshwatch_start) date(0,us)
const LogFormat = "meshwatch/1 " +
	"down=%[src]|%[src_port]|%[dst]|%[dst_port] up=%[bc_src]|%[bc_src_port]|%[bc_dst]|%[bc_dst_port] " +
	"id=%[var(txn.meshwatch_id),url_enc] method=%HM path=%[var(txn.meshwatch_path),url_enc] host=%[var(txn.meshwatch_host),url_enc] " +
	"status=%ST flags=%ts start=%[var(txn.meshwatch_start)] end=%[date(0,us)] upto=%Tw+%Tc answer=%Tr"

const (
	mark       = "meshwatch/1 "
	mostPrefix = 256 // bytes before it, that syslog adds
)

// haproxyTurn is by how much HAProxy's times may be early: its clock stands still while it does the work of a round, or has no CPU for it.
const haproxyTurn = 50 * time.Millisecond

// A time is how often the clock's millisecond changed meanwhile: it may be longer or shorter by one.
const (
	mostUpto   = 2 * time.Millisecond // by which the two until it went on may be shorter
	mostAnswer = 3 * time.Millisecond // and the three until the answer came longer
)

// line takes a line, whichever way it came. over says that its sender has said too much.
func (s *Server) line(b []byte, by journey.Speaker, now time.Time) (over bool) {
	if !s.budget.take(by, now) {
		s.lost.overLimit.Add(1)
		return true
	}
	at := bytes.Index(b[:min(len(b), mostPrefix)], []byte(mark))
	if at < 0 {
		s.lost.others.Add(1) // HAProxy logs about itself, too
		return false
	}
	said, start, ok := parseLine(string(b[at+len(mark):]))
	if ok {
		said.By = by
		said.Start, said.Error, ok = s.monotonic(start)
	}
	if !ok {
		s.lost.malformed.Add(1)
		return false
	}
	s.give(said)
	return false
}

// parseLine reads what stands behind the mark, all but when it began on the recorder's clock. start is how long after 1970 that was.
func parseLine(text string) (e journey.Said, start time.Duration, ok bool) {
	seen := map[string]string{}
	for _, field := range strings.Fields(text) {
		key, value, found := strings.Cut(field, "=")
		if _, twice := seen[key]; !found || twice || len(seen) == 16 {
			return e, 0, false
		}
		seen[key] = value
	}
	e.Early = haproxyTurn
	var valid [7]bool
	e.Downstream, valid[0] = connection(seen["down"], true)
	e.Upstream, valid[1] = connection(seen["up"], false)
	e.RequestID, valid[2] = unescape(seen["id"], mostLine)
	e.RequestID = idOf(e.RequestID)
	e.Path, valid[3] = unescape(seen["path"], maxPath)
	e.Authority, valid[4] = unescape(seen["host"], maxAuthority)
	end, valid5 := micros(seen["end"])
	valid[5] = valid5
	if start, valid[6] = micros(seen["start"]); seen["start"] == "-" { // it never came to the rules
		start, valid[6] = end, true
	}
	e.Duration = end - start
	e.Status, _ = number(seen["status"]) // -1: none
	e.Method, e.Flags = none(shorten(seen["method"], maxMethod)), none(strings.Trim(shorten(seen["flags"], maxFlags), "-"))
	upto, most := sum(seen["upto"]), max(e.Duration, 0)
	e.Upto = min(max(upto-mostUpto, 0), most)
	if n, ok := number(seen["answer"]); ok { // -1: none came
		e.Answer = min(upto+time.Duration(n)*time.Millisecond+mostAnswer, most)
	}
	return e, start, valid == [7]bool{true, true, true, true, true, true, true} && e.Downstream.IsValid() && e.Status < 1000 && sound(&e)
}

// micros reads µs since 1970.
func micros(text string) (time.Duration, bool) {
	n, err := strconv.ParseUint(text, 10, 53)
	return time.Duration(n) * time.Microsecond, err == nil //nolint:gosec // 53 bits
}

// none is a text, empty where HAProxy has its word for none.
func none(text string) string {
	if text == "-" || text == "<BADREQ>" {
		return ""
	}
	return text
}

// connection reads SRC|PORT|DST|PORT: from who connected to whom. asked: the proxy is the latter. None, as "-|-|-|-", is the zero value.
func connection(text string, asked bool) (c journey.Connection, ok bool) {
	part := strings.Split(text, "|")
	if len(part) != 4 {
		return c, false
	}
	if part[0] == "-" || part[2] == "-" {
		return c, true
	}
	from, ok1 := addrPort(part[0], part[1])
	to, ok2 := addrPort(part[2], part[3])
	if asked {
		from, to = to, from
	}
	return journey.Connection{Local: from, Remote: to}, ok1 && ok2
}

func addrPort(host, port string) (netip.AddrPort, bool) {
	addr, err := netip.ParseAddr(host)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil || n == 0 || addr.Zone() != "" {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), true
}

// unescape undoes url_enc.
func unescape(text string, most int) (string, bool) {
	plain, err := url.PathUnescape(none(text))
	return shorten(plain, most), err == nil
}

// sum adds milliseconds as A+B+C; what HAProxy did not come to is -1.
func sum(text string) (d time.Duration) {
	for _, part := range strings.Split(text, "+") {
		n, _ := number(part)
		d += time.Duration(n) * time.Millisecond
	}
	return d
}
