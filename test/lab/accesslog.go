package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Access is one line of a proxy's access log: the truth about one request at one proxy, written by the proxy itself.
// UpstreamLocal of one proxy is DownstreamRemote of the next: that is the connection.
type Access struct {
	Pod              string   `json:"-"`
	Listener         string   `json:"listener"` // gateway, outbound, inbound
	RequestID        string   `json:"request_id"`
	TruthID          string   `json:"truth_id"` // x-truth-id, made by the load
	Method           string   `json:"method"`
	Path             string   `json:"path"` // HAProxy: without the query
	Code             int      `json:"code"`
	Flags            string   `json:"flags"`       // Envoy's response flags, HAProxy's termination state; "-" or "--" when all is well
	DurationMS       int      `json:"duration_ms"` // Envoy: to the last byte; HAProxy: Ta
	DownstreamRemote AddrPort `json:"downstream_remote"`
	DownstreamLocal  AddrPort `json:"downstream_local"` // after REDIRECT is undone: what the client connected to
	UpstreamLocal    AddrPort `json:"upstream_local"`   // zero: no connection was made
	UpstreamHost     AddrPort `json:"upstream_host"`
	Cluster          string   `json:"cluster"`
	Route            string   `json:"route"` // Envoy only
}

// AddrPort is an address as a proxy logs it. The zero value is none.
type AddrPort struct{ netip.AddrPort }

// UnmarshalText takes 10.0.0.1:80, [fd77::2]:80, HAProxy's [10.0.0.1]:80, and none as "-", "" or "[]:".
func (a *AddrPort) UnmarshalText(text []byte) error {
	*a = AddrPort{}
	colon := bytes.LastIndexByte(text, ':')
	if colon < 0 {
		return nil
	}
	host := strings.Trim(string(text[:colon]), "[]")
	if host == "" || host == "-" {
		return nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return fmt.Errorf("parse address %q: %w", text, err)
	}
	port, err := strconv.ParseUint(string(text[colon+1:]), 10, 16)
	if err != nil {
		return fmt.Errorf("parse address %q: %w", text, err)
	}
	a.AddrPort = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	return nil
}

// accessLog is the file of a pod's access log. HAProxy adds the thread's number.
func (l *Lab) accessLog(p Pod) string { return l.path("logs", p.Name+".access") }

// accessLogs are all files of a pod's access log.
func (l *Lab) accessLogs(pod string) ([]string, error) {
	p, ok := l.Pod(pod)
	if !ok || !l.Options.AccessLogs {
		return nil, fmt.Errorf("read access log of %s: no such pod, or Options.AccessLogs is off", pod)
	}
	return filepath.Glob(l.accessLog(p) + "*")
}

// AccessLog reads what the pod's proxy has logged so far: in its order, with HAProxy in the order of each thread.
// Proxies write late: Envoy within 0.2 s. A line that cannot be read is yielded as an error; reading goes on after it.
func (l *Lab) AccessLog(pod string) iter.Seq2[Access, error] {
	return func(yield func(Access, error) bool) {
		files, err := l.accessLogs(pod)
		if err != nil {
			yield(Access{}, err)
			return
		}
		for _, name := range files {
			if !readAccessLog(pod, name, yield) {
				return
			}
		}
	}
}

// readAccessLog yields one file's lines, and says whether to go on.
func readAccessLog(pod, name string, yield func(Access, error) bool) bool {
	f, err := os.Open(name)
	if err != nil {
		return yield(Access{}, fmt.Errorf("read access log of %s: %w", pod, err))
	}
	defer f.Close()
	if _, err := f.Seek(0, unix.SEEK_DATA); err != nil {
		return true // no data
	}
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return true // a line without its end is still being written
		}
		if err != nil {
			return yield(Access{}, fmt.Errorf("read access log of %s: %w", pod, err))
		}
		if !yield(parseAccess(pod, bytes.TrimLeft(line, "\x00"))) { // see ResetAccessLogs
			return false
		}
	}
}

func parseAccess(pod string, line []byte) (Access, error) {
	a := Access{Pod: pod}
	// with Options.Said it is the structured data of HAProxy's line (RFC 5424), and what the agent is told stands behind it
	if err := json.NewDecoder(bytes.NewReader(line[max(bytes.IndexByte(line, '{'), 0):])).Decode(&a); err != nil {
		return Access{Pod: pod}, fmt.Errorf("read access log of %s: %w: %s", pod, err, line)
	}
	for _, s := range []*string{&a.RequestID, &a.TruthID} {
		if *s == "-" { // HAProxy's word for none
			*s = ""
		}
	}
	return a, nil
}

// Proxies are the pods that write access logs, in the order in which a request meets them.
func (l *Lab) Proxies() []string {
	var names []string
	for _, p := range l.Pods() {
		if p.Sidecar || p.Role == RoleGateway {
			names = append(names, p.Name)
		}
	}
	return names
}

// ResetAccessLogs empties all access logs. Lines of requests that are under way may still be written after it. HAProxy
// goes on writing where it was, which leaves a hole that takes no space.
func (l *Lab) ResetAccessLogs() error {
	var errs []error
	for _, pod := range l.Proxies() {
		files, err := l.accessLogs(pod)
		errs = append(errs, err)
		for _, name := range files {
			if err := os.Truncate(name, 0); err != nil {
				errs = append(errs, fmt.Errorf("reset access log: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
