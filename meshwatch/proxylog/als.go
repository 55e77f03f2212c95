package proxylog

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Numbers of the fields of StreamAccessLogsMessage, and of the lists in it. A message is not decoded whole: of many entries that are nearly
// empty, or of many that are over the limit, that would cost much more memory than their bytes.
const (
	fieldHTTP  = 2
	fieldTCP   = 3
	fieldEntry = 1 // of either list
)

// message takes a StreamAccessLogsMessage. over says that its sender has said too much.
func (s *Server) message(raw []byte, by journey.Speaker, now time.Time) (over bool) {
	ok := fields(raw, func(number protowire.Number, list []byte) bool {
		if number != fieldHTTP && number != fieldTCP {
			return true // who it is: the kernel says that better
		}
		return fields(list, func(inner protowire.Number, entry []byte) bool {
			switch {
			case inner != fieldEntry:
			case number == fieldTCP:
				s.lost.others.Add(1)
			case !s.budget.take(by, now):
				s.lost.overLimit.Add(1)
				over = true
			default:
				s.entry(entry, by)
			}
			return true
		})
	})
	if !ok {
		s.lost.malformed.Add(1)
	}
	return over
}

// fields calls f for each field that has bytes, until it returns false. False: these are no fields, or f said so.
func fields(b []byte, f func(protowire.Number, []byte) bool) bool {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return false
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 || !f(number, value) {
			return false
		}
		b = b[n:]
	}
	return true
}

// entry takes an HTTPAccessLogEntry.
func (s *Server) entry(raw []byte, by journey.Speaker) {
	s.decoding.Lock()
	defer s.decoding.Unlock()
	var e data.HTTPAccessLogEntry
	if err := proto.Unmarshal(raw, &e); err != nil {
		s.lost.malformed.Add(1)
		return
	}
	c := e.GetCommonProperties()
	if kind := c.GetAccessLogType(); kind != data.AccessLogType_NotSet && kind != data.AccessLogType_DownstreamEnd {
		s.lost.partial.Add(1)
		return
	}
	said, ok := ofEnvoy(&e)
	if ok {
		said.By = by
		said.Start, said.Error, ok = s.monotonic(c.GetStartTime().AsTime().Sub(time.Unix(0, 0)))
	}
	if !ok {
		s.lost.malformed.Add(1)
		return
	}
	s.give(said)
}

// ofEnvoy reads an entry, all but when it began. False: without the connection on which it was asked it says nothing.
func ofEnvoy(e *data.HTTPAccessLogEntry) (s journey.Said, ok bool) {
	c, q := e.GetCommonProperties(), e.GetRequest()
	s = journey.Said{
		Downstream: journey.Connection{Local: addressOf(c.GetDownstreamLocalAddress()), Remote: addressOf(c.GetDownstreamDirectRemoteAddress())},
		Upstream:   journey.Connection{Local: addressOf(c.GetUpstreamLocalAddress()), Remote: addressOf(c.GetUpstreamRemoteAddress())},
		RequestID:  idOf(q.GetRequestId()), Path: pathOf(q.GetOriginalPath(), q.GetPath()), Authority: shorten(q.GetAuthority(), maxAuthority),
		Status: int(e.GetResponse().GetResponseCode().GetValue()), Flags: flagsOf(c.GetResponseFlags()),
		Duration: later(c.GetTimeToLastDownstreamTxByte(), c.GetDuration(), c.GetTimeToLastUpstreamRxByte()),
		Upto:     c.GetTimeToFirstUpstreamTxByte().AsDuration(), Answer: c.GetTimeToFirstUpstreamRxByte().AsDuration(),
	}
	if m := q.GetRequestMethod(); m != core.RequestMethod_METHOD_UNSPECIFIED {
		s.Method = shorten(m.String(), maxMethod)
	}
	if !s.Upstream.IsValid() {
		s.Upstream = journey.Connection{}
	}
	return s, s.Downstream.IsValid() && c.GetStartTime().IsValid() && s.Status < 1000 && sound(&s)
}

// later is the longest of some durations.
func later(list ...*durationpb.Duration) (most time.Duration) {
	for _, d := range list {
		most = max(most, d.AsDuration())
	}
	return most
}

// pathOf is what was asked for, before it was rewritten, without the query.
func pathOf(original, now string) string {
	if original == "" {
		original = now
	}
	path, _, _ := strings.Cut(original, "?")
	return shorten(path, maxPath)
}

// addressOf is an IP address with its port; the zero value for anything else, as pipes.
func addressOf(a *core.Address) netip.AddrPort {
	s := a.GetSocketAddress()
	addr, err := netip.ParseAddr(s.GetAddress())
	if err != nil || addr.Zone() != "" || s.GetPortValue() == 0 || s.GetPortValue() > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(s.GetPortValue())) //nolint:gosec // checked
}

// flagsOf are response flags as Envoy's text log has them, such as UF,URX.
func flagsOf(f *data.ResponseFlags) string {
	var list []string
	for _, flag := range []struct {
		on   bool
		name string
	}{
		{f.GetFailedLocalHealthcheck(), "LH"}, {f.GetNoHealthyUpstream(), "UH"}, {f.GetUpstreamRequestTimeout(), "UT"}, {f.GetLocalReset(), "LR"},
		{f.GetUpstreamRemoteReset(), "UR"}, {f.GetUpstreamConnectionFailure(), "UF"}, {f.GetUpstreamConnectionTermination(), "UC"},
		{f.GetUpstreamOverflow(), "UO"}, {f.GetNoRouteFound(), "NR"}, {f.GetDelayInjected(), "DI"}, {f.GetFaultInjected(), "FI"},
		{f.GetRateLimited(), "RL"}, {f.GetUnauthorizedDetails() != nil, "UAEX"}, {f.GetRateLimitServiceError(), "RLSE"},
		{f.GetDownstreamConnectionTermination(), "DC"}, {f.GetUpstreamRetryLimitExceeded(), "URX"}, {f.GetStreamIdleTimeout(), "SI"},
		{f.GetInvalidEnvoyRequestHeaders(), "IH"}, {f.GetDownstreamProtocolError(), "DPE"}, {f.GetUpstreamMaxStreamDurationReached(), "UMSDR"},
		{f.GetResponseFromCacheFilter(), "RFCF"}, {f.GetNoFilterConfigFound(), "NFCF"}, {f.GetDurationTimeout(), "DT"},
		{f.GetUpstreamProtocolError(), "UPE"}, {f.GetNoClusterFound(), "NC"}, {f.GetOverloadManager(), "OM"}, {f.GetDnsResolutionFailure(), "DF"},
		{f.GetDownstreamRemoteReset(), "DR"},
	} {
		if flag.on {
			list = append(list, flag.name)
		}
	}
	return shorten(strings.Join(list, ","), maxFlags)
}

// number reads a whole number of at most nine digits.
func number(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 30)
	return int(n), err == nil //nolint:gosec // 30 bits
}
