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

// LogFormat is the log-format of HAProxy that is read. Three variables are set while the request is there:
//
//	http-request set-var(txn.meshwatch_id) req.hdr(x-request-id)
//	http-request set-var(txn.meshwatch_path) path
//	http-request set-var(txn.meshwatch_host) req.hdr(host)
const LogFormat = "meshwatch/1 " +
	"down=%[src]|%[src_port]|%[dst]|%[dst_port] up=%[bc_src]|%[bc_src_port]|%[bc_dst]|%[bc_dst_port] " +
	"id=%[var(txn.meshwatch_id),url_enc] method=%HM path=%[var(txn.meshwatch_path),url_enc] host=%[var(txn.meshwatch_host),url_enc] " +
	"status=%ST flags=%ts end=%[date(0,us)] took=%Ta upto=%TR+%Tw+%Tc"

const (
	mark       = "meshwatch/1 "
	mostPrefix = 256 // bytes before it, that syslog adds
)

// haproxyError is by how much HAProxy's start of a request may be off: milliseconds that are cut off, and its clock, which stands still while it
// does its work of a round. Too much costs ambiguity, too little would have a neighbor taken for the request that is meant.
const haproxyError = 20 * time.Millisecond

// line takes a datagram.
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
	said, end, ok := parseLine(string(b[at+len(mark):]))
	if ok {
		said.By = by
		said.Start, ok = s.monotonic(end - said.Duration)
	}
	if !ok {
		s.lost.malformed.Add(1)
		return false
	}
	s.give(said)
	return false
}

// parseLine reads what stands behind the mark, all but when it began. end is when it was over, after 1970.
func parseLine(text string) (e journey.Said, end time.Duration, ok bool) {
	seen := map[string]string{}
	for _, field := range strings.Fields(text) {
		key, value, found := strings.Cut(field, "=")
		if _, twice := seen[key]; !found || twice || len(seen) == 16 {
			return e, 0, false
		}
		seen[key] = value
	}
	e.Error = haproxyError
	var valid [7]bool
	e.Downstream, valid[0] = connection(seen["down"], true)
	e.Upstream, valid[1] = connection(seen["up"], false)
	e.RequestID, valid[2] = unescape(seen["id"], mostLine)
	e.RequestID = idOf(e.RequestID)
	e.Path, valid[3] = unescape(seen["path"], maxPath)
	e.Authority, valid[4] = unescape(seen["host"], maxAuthority)
	micros, valid5 := strconv.ParseUint(seen["end"], 10, 53)
	end, valid[5] = time.Duration(micros)*time.Microsecond, valid5 == nil && micros < 1<<53 //nolint:gosec // 53 bits
	took, valid6 := number(seen["took"])
	e.Duration, valid[6] = time.Duration(took)*time.Millisecond, valid6
	e.Status, _ = number(seen["status"]) // -1: none
	e.Method, e.Flags = none(shorten(seen["method"], maxMethod)), none(strings.Trim(shorten(seen["flags"], maxFlags), "-"))
	e.Upto = min(sum(seen["upto"]), e.Duration)
	return e, end, valid == [7]bool{true, true, true, true, true, true, true} && e.Downstream.IsValid() && e.Status < 1000 && sound(&e)
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
