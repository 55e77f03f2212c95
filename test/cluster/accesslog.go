package cluster

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
	"strconv"
	"strings"
	"time"
)

// Access is one line of an Envoy's access log: the truth about one request at one proxy, written by the proxy itself.
// UpstreamLocal of one proxy is DownstreamDirect of the next: that is the connection. Through a tunnel (HBONE) neither is
// known, and requests are matched by RequestID alone.
type Access struct {
	Start            Seconds `json:"start"`
	RequestID        string  `json:"request_id"`
	TruthID          string  `json:"truth_id"` // x-truth-id, made by the client
	Traceparent      string  `json:"traceparent"`
	Method           string  `json:"method"`
	Authority        string  `json:"authority"`
	Path             string  `json:"path"`
	Protocol         string  `json:"protocol"`
	Code             int     `json:"code"`    // 0: the client went before there was one
	Flags            string  `json:"flags"`   // Envoy's response flags; "-" when all is well
	Details          string  `json:"details"` // why this code
	DurationMS       int     `json:"duration_ms"`
	Attempts         int     `json:"attempts"` // upstream requests, also those that were repeated
	BytesReceived    int64   `json:"bytes_received"`
	BytesSent        int64   `json:"bytes_sent"`
	DownstreamDirect Addr    `json:"downstream_direct"` // the peer of the connection
	DownstreamRemote Addr    `json:"downstream_remote"` // the client; behind a gateway not the peer
	DownstreamLocal  Addr    `json:"downstream_local"`  // after REDIRECT is undone: what the client connected to
	DownstreamTLS    string  `json:"downstream_tls"`    // such as TLSv1.3
	DownstreamPeer   string  `json:"downstream_peer"`   // SPIFFE identity of the client
	UpstreamLocal    Addr    `json:"upstream_local"`    // zero: no connection was made
	UpstreamHost     Addr    `json:"upstream_host"`
	UpstreamPeer     string  `json:"upstream_peer"`
	Cluster          string  `json:"cluster"` // such as outbound|80|v1|backend.demo.svc.cluster.local
	Route            string  `json:"route"`
}

// Inbound says that the proxy is the one beside the app that answered.
func (a Access) Inbound() bool { return strings.HasPrefix(a.Cluster, "inbound|") }

// Seconds is a time as Envoy writes it: seconds since 1970 with a fraction.
type Seconds struct{ time.Time }

// UnmarshalJSON parses it without rounding, as a float would. null is the zero time.
func (s *Seconds) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	whole, frac, _ := strings.Cut(strings.Trim(string(text), `"`), ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return fmt.Errorf("parse time %q: %w", text, err)
	}
	const digits = 9
	ns, err := strconv.ParseInt((frac + strings.Repeat("0", digits))[:digits], 10, 64)
	if err != nil {
		return fmt.Errorf("parse time %q: %w", text, err)
	}
	s.Time = time.Unix(sec, ns)
	return nil
}

// Addr is an address as Envoy logs it. What is not an address, as a tunnel's envoy://…, is the zero value: none.
type Addr struct{ netip.AddrPort }

// UnmarshalText never fails.
func (a *Addr) UnmarshalText(text []byte) error {
	a.AddrPort, _ = netip.ParseAddrPort(string(text)) //nolint:errcheck // see above
	return nil
}

// AccessLog reads what a pod's proxy has logged so far. Envoy writes within a second. A line that cannot be read is yielded as
// an error; reading goes on after it.
func (p Pod) AccessLog() iter.Seq2[Access, error] {
	return func(yield func(Access, error) bool) {
		files, err := p.logFiles("istio-proxy")
		if err != nil {
			yield(Access{}, err)
			return
		}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				if !yield(Access{}, fmt.Errorf("read access log of %s: %w", p.Name, err)) {
					return
				}
				continue
			}
			more := readAccess(f, func(a Access, err error) bool {
				if err != nil {
					err = fmt.Errorf("read access log of %s: %w", p.Name, err)
				}
				return yield(a, err)
			})
			_ = f.Close()
			if !more {
				return
			}
		}
	}
}

// readAccess yields the access log's lines of a container's log, and says whether to go on. The container runtime writes
// "TIME STREAM F TEXT", and P instead of F for a part of a long line, whose other parts follow.
func readAccess(r io.Reader, yield func(Access, error) bool) bool {
	lines := bufio.NewReaderSize(r, 1<<16)
	texts := map[string][]byte{} // by stream: they are written independently
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return true // a line without its end is still being written
		}
		if err != nil {
			return yield(Access{}, err)
		}
		part := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
		if len(part) < 4 {
			continue
		}
		stream := string(part[1])
		text := append(texts[stream], part[3]...)
		texts[stream] = text
		if string(part[2]) != "F" {
			continue
		}
		texts[stream] = text[:0]
		if bytes.HasPrefix(text, []byte(`{"`)) { // the rest is what the proxy says of itself
			var a Access
			err := json.Unmarshal(text, &a)
			if !yield(a, err) {
				return false
			}
		}
	}
}
