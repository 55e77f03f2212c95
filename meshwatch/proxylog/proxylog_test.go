package proxylog

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	service "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

const within = 10 * time.Second

func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano()) //nolint:gosec // since boot
}

// listen starts a Server that the test ends.
func listen(t *testing.T, opts Options) (*Server, *loss.Set) {
	t.Helper()
	set := &loss.Set{}
	opts.Monotonic, opts.Losses, opts.Log = monotonic, set, slog.New(slog.DiscardHandler)
	if opts.PerSecond == 0 {
		opts.PerSecond, opts.PerPeer = 10_000, 10_000
	}
	s, err := Listen(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, set
}

func next(t *testing.T, s *Server) journey.Said {
	t.Helper()
	select {
	case e := <-s.Entries():
		return e
	case <-time.After(within):
		t.Fatalf("nothing was said within %s; lost: %v", within, s.opts.Losses.Rows())
	}
	return journey.Said{}
}

// counted waits until so many were lost for a reason.
func counted(t *testing.T, set *loss.Set, reason string, least uint64) {
	t.Helper()
	deadline := time.Now().Add(within)
	for set.Counter("accesslog", reason).Value() < least { //nolint:revive // its stage is one
		if time.Now().After(deadline) {
			t.Fatalf("%s is not %d within %s: %v", reason, least, within, set.Rows())
		}
		time.Sleep(time.Millisecond)
	}
}

func socketAddress(host string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: host, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port}}}}
}

// entryOf is as Envoy makes them.
func entryOf(start time.Time) *data.HTTPAccessLogEntry {
	return &data.HTTPAccessLogEntry{
		CommonProperties: &data.AccessLogCommon{
			DownstreamRemoteAddress: socketAddress("203.0.113.9", 1), DownstreamDirectRemoteAddress: socketAddress("10.0.0.1", 40000),
			DownstreamLocalAddress: socketAddress("10.0.0.2", 8080), UpstreamLocalAddress: socketAddress("127.0.0.6", 50000), UpstreamRemoteAddress: socketAddress("10.0.0.2", 8080),
			StartTime: timestamppb.New(start), TimeToLastDownstreamTxByte: durationpb.New(12 * time.Millisecond), Duration: durationpb.New(11 * time.Millisecond),
			TimeToFirstUpstreamTxByte: durationpb.New(2 * time.Millisecond), TimeToFirstUpstreamRxByte: durationpb.New(9 * time.Millisecond), ResponseFlags: &data.ResponseFlags{UpstreamConnectionFailure: true, UpstreamRetryLimitExceeded: true},
			AccessLogType: data.AccessLogType_DownstreamEnd,
		},
		Request:  &data.HTTPRequestProperties{RequestMethod: core.RequestMethod_POST, Authority: "backend:8080", Path: "/rewritten?x=1", OriginalPath: "/asked?x=1", RequestId: "id-1"},
		Response: &data.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(503)},
	}
}

func saidByEnvoy() journey.Said {
	return journey.Said{
		Downstream: journey.Connection{Local: netip.MustParseAddrPort("10.0.0.2:8080"), Remote: netip.MustParseAddrPort("10.0.0.1:40000")},
		Upstream:   journey.Connection{Local: netip.MustParseAddrPort("127.0.0.6:50000"), Remote: netip.MustParseAddrPort("10.0.0.2:8080")},
		RequestID:  "id-1", Method: "POST", Path: "/asked", Authority: "backend:8080", Status: 503, Flags: "UF,URX",
		Duration: 12 * time.Millisecond, Upto: 2 * time.Millisecond, Answer: 9 * time.Millisecond,
	}
}

func message(entries ...*data.HTTPAccessLogEntry) *service.StreamAccessLogsMessage {
	return &service.StreamAccessLogsMessage{LogEntries: &service.StreamAccessLogsMessage_HttpLogs{HttpLogs: &service.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}}}
}

// dial opens a stream as Envoy does.
func dial(t *testing.T, target string) service.AccessLogService_StreamAccessLogsClient {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	stream, err := service.NewAccessLogServiceClient(conn).StreamAccessLogs(ctx, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

var addresses = cmp.Options{cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})}

// What Envoy says comes out as it said it, with who it was and the time by the recorder's clock.
func TestEnvoy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "als")
	s, set := listen(t, Options{Envoy: []string{path}})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("%v %v: every proxy must come in, whatever its user", info.Mode(), err)
	}
	stream := dial(t, "unix://"+path)
	began := monotonic()
	unfinished := entryOf(time.Now())
	unfinished.CommonProperties.AccessLogType = data.AccessLogType_DownstreamStart
	if err := stream.Send(message(unfinished, entryOf(time.Now()))); err != nil {
		t.Fatal(err)
	}
	got := next(t, s)
	if got.Start < began || got.Start > monotonic() {
		t.Errorf("began at %d, not from %d to %d", got.Start, began, monotonic())
	}
	want := saidByEnvoy()
	want.By, want.Start, want.Error = journey.Speaker{Pid: os.Getpid()}, got.Start, got.Error
	if diff := cmp.Diff(want, got, addresses); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	counted(t, set, "not-over", 1)
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Error(err)
	}
}

func TestEnvoyOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	s, set := listen(t, Options{Envoy: []string{address}})
	stream := dial(t, address)
	tcp := &service.StreamAccessLogsMessage{LogEntries: &service.StreamAccessLogsMessage_TcpLogs{TcpLogs: &service.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*data.TCPAccessLogEntry{{}}}}}
	for _, m := range []*service.StreamAccessLogsMessage{tcp, message(entryOf(time.Now()))} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if got := next(t, s); got.By != (journey.Speaker{Addr: netip.MustParseAddr("127.0.0.1")}) {
		t.Errorf("said by %v", got.By)
	}
	counted(t, set, "not-a-request", 1)
}

// What cannot be is refused and counted, and what follows it is still read.
func TestEnvoyRefused(t *testing.T) {
	s, set := listen(t, Options{})
	for name, change := range map[string]func(*data.HTTPAccessLogEntry){
		"nothing":  func(e *data.HTTPAccessLogEntry) { *e = data.HTTPAccessLogEntry{} }, //nolint:govet // no lock is held
		"no start": func(e *data.HTTPAccessLogEntry) { e.CommonProperties.StartTime = nil },
		"from the future": func(e *data.HTTPAccessLogEntry) {
			e.CommonProperties.StartTime = timestamppb.New(time.Now().Add(time.Hour))
		},
		"of last year": func(e *data.HTTPAccessLogEntry) {
			e.CommonProperties.StartTime = timestamppb.New(time.Now().AddDate(-1, 0, 0))
		},
		"no such time": func(e *data.HTTPAccessLogEntry) { e.CommonProperties.StartTime = &timestamppb.Timestamp{Nanos: -1} },
		"too long":     func(e *data.HTTPAccessLogEntry) { e.CommonProperties.Duration = durationpb.New(2 * time.Hour) },
		"sent before":  func(e *data.HTTPAccessLogEntry) { e.CommonProperties.TimeToFirstUpstreamTxByte = durationpb.New(-1) },
		"sent after its end": func(e *data.HTTPAccessLogEntry) {
			e.CommonProperties.TimeToFirstUpstreamTxByte = durationpb.New(time.Minute)
		},
		"no address": func(e *data.HTTPAccessLogEntry) { e.CommonProperties.DownstreamDirectRemoteAddress = nil },
		"no port": func(e *data.HTTPAccessLogEntry) {
			e.CommonProperties.DownstreamLocalAddress = socketAddress("10.0.0.2", 0)
		},
		"a name": func(e *data.HTTPAccessLogEntry) {
			e.CommonProperties.DownstreamLocalAddress = socketAddress("backend", 8080)
		},
		"no such status": func(e *data.HTTPAccessLogEntry) { e.Response.ResponseCode = wrapperspb.UInt32(1 << 31) },
	} {
		e := entryOf(time.Now())
		change(e)
		before := set.Counter("accesslog", "malformed").Value()
		s.message(marshal(t, message(e)), journey.Speaker{}, time.Now())
		if n := set.Counter("accesslog", "malformed").Value() - before; n != 1 || len(s.out) != 0 {
			t.Errorf("%s: %d counted, %d given out", name, n, len(s.out))
		}
	}
	own := entryOf(time.Now())
	own.CommonProperties.UpstreamLocalAddress = nil
	own.Request.RequestId = strings.Repeat("x", maxID+1)
	s.message(marshal(t, message(own)), journey.Speaker{}, time.Now())
	if e := next(t, s); e.Upstream != (journey.Connection{}) || e.RequestID != "" {
		t.Errorf("upstream %v, id %q", e.Upstream, e.RequestID)
	}
}

// One that says too much is not heard, others are; all is counted.
func TestFlood(t *testing.T) {
	s, set := listen(t, Options{PerSecond: 1000, PerPeer: 100})
	now := time.Now()
	liar, other := journey.Speaker{Pid: 1}, journey.Speaker{Pid: 2}
	flood := make([]*data.HTTPAccessLogEntry, 500)
	for i := range flood {
		flood[i] = entryOf(now)
	}
	if !s.message(marshal(t, message(flood...)), liar, now) {
		t.Error("it is not slowed down")
	}
	if s.message(marshal(t, message(entryOf(now))), other, now) {
		t.Error("the other one is slowed down")
	}
	if n := set.Counter("accesslog", "over-limit").Value(); n != 400 || len(s.out) != 101 {
		t.Errorf("%d over the limit, %d given out", n, len(s.out))
	}
	if s.message(marshal(t, message(entryOf(now))), liar, now.Add(time.Second)) {
		t.Error("a second later it is still not heard")
	}
	for i := range 2000 { // each says one thing: together too much
		s.message(marshal(t, message(entryOf(now))), journey.Speaker{Pid: 10 + i}, now)
	}
	if n := len(s.out); n != 101+1000 { // in the first second, and the budget of the next
		t.Errorf("%d given out", n)
	}
	if n := len(s.budget.peers); n > mostPeers {
		t.Errorf("%d speakers are remembered", n)
	}
}

// So many speakers that not each can have a budget of its own share one.
func TestManySpeakers(t *testing.T) {
	b := newBudget(1_000_000, 10)
	now := time.Now()
	taken := 0
	for i := range 2 * mostPeers {
		if b.take(journey.Speaker{Pid: i + 1}, now) {
			taken++
		}
	}
	if taken != mostPeers+10 || len(b.peers) != mostPeers {
		t.Errorf("%d heard, %d remembered", taken, len(b.peers))
	}
	if !b.take(journey.Speaker{Pid: 1 << 20}, now.Add(time.Second)) || len(b.peers) != 1 {
		t.Errorf("%d remembered a second later", len(b.peers))
	}
}

// Nobody takes what is said: it is not kept without end.
func TestQueueFull(t *testing.T) {
	s, set := listen(t, Options{})
	for range queueLength + 7 {
		s.message(marshal(t, message(entryOf(time.Now()))), journey.Speaker{}, time.Now())
	}
	if n := set.Counter("accesslog", "queue-full").Value(); n != 7 {
		t.Errorf("%d counted", n)
	}
}

func TestMessageTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "als")
	s, set := listen(t, Options{Envoy: []string{path}})
	stream := dial(t, "unix://"+path)
	long := entryOf(time.Now())
	long.Request.UserAgent = strings.Repeat("x", mostMessage)
	if err := stream.Send(message(long)); err != nil {
		t.Fatal(err)
	}
	counted(t, set, "too-long", 1)
	again := dial(t, "unix://"+path)
	if err := again.Send(message(entryOf(time.Now()))); err != nil {
		t.Fatal(err)
	}
	next(t, s)
}

// crowd opens more connections than one process may have, sees that the last are refused and counted, and ends all.
func crowd(t *testing.T, path string, set *loss.Set) {
	t.Helper()
	var open []net.Conn
	for range mostOfPeer + 5 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	counted(t, set, "too-many-connections", 5)
	for _, c := range open {
		_ = c.Close()
	}
}

func TestTooManyConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "als")
	s, set := listen(t, Options{Envoy: []string{path}})
	crowd(t, path, set)
	stream := dial(t, "unix://"+path) // tries again until those that ended are gone
	if err := stream.Send(message(entryOf(time.Now()))); err != nil {
		t.Fatal(err)
	}
	next(t, s)
}

func lineOf(end time.Time) string {
	return fmt.Sprintf("meshwatch/1 down=10.0.0.1|40000|10.0.0.2|8080 up=127.0.0.6|50000|10.0.0.2|8080 id=id%%201 method=GET path=%%2Fa%%20b host=backend%%3A8080 "+
		"status=200 flags=-- start=%d end=%d upto=1+2 answer=4", end.UnixMicro()-12_000, end.UnixMicro())
}

func saidByHAProxy() journey.Said {
	return journey.Said{
		Downstream: journey.Connection{Local: netip.MustParseAddrPort("10.0.0.2:8080"), Remote: netip.MustParseAddrPort("10.0.0.1:40000")},
		Upstream:   journey.Connection{Local: netip.MustParseAddrPort("127.0.0.6:50000"), Remote: netip.MustParseAddrPort("10.0.0.2:8080")},
		RequestID:  "id 1", Method: "GET", Path: "/a b", Authority: "backend:8080", Status: 200,
		Duration: 12 * time.Millisecond, Upto: time.Millisecond, Answer: 10 * time.Millisecond, Early: haproxyTurn,
	}
}

func TestHAProxy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().String()
	_ = free.Close()
	ring := filepath.Join(t.TempDir(), "ring")
	s, set := listen(t, Options{HAProxy: []string{path, address}, Rings: []string{ring, address}})
	for _, to := range []struct {
		network, address string
		by               journey.Speaker
	}{
		{"unixgram", path, journey.Speaker{Pid: os.Getpid()}},
		{"udp", address, journey.Speaker{Addr: netip.MustParseAddr("127.0.0.1")}},
		{"unix", ring, journey.Speaker{Pid: os.Getpid()}},
		{"tcp", address, journey.Speaker{Addr: netip.MustParseAddr("127.0.0.1")}},
	} {
		c, err := net.Dial(to.network, to.address)
		if err != nil {
			t.Fatal(err)
		}
		before := monotonic()
		for _, text := range []string{"<134>Nov 27 22:00:00 haproxy[7]: Proxy mesh started.", lineOf(time.Now()), "<134>1 - " + lineOf(time.Now()) + "\n", strings.Repeat("x", mostLine+1)} {
			if to.network == "unix" || to.network == "tcp" {
				text = fmt.Sprintf("%d %s", len(text), text)
			}
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.Close()
		for range 2 {
			got := next(t, s)
			if got.Start+uint64(12*time.Millisecond) < before-uint64(time.Millisecond) || got.Start > monotonic() {
				t.Errorf("began at %d", got.Start)
			}
			want := saidByHAProxy()
			want.By, want.Start, want.Error = to.by, got.Start, got.Error
			if diff := cmp.Diff(want, got, addresses); diff != "" {
				t.Errorf("%s (-want +got):\n%s", to.network, diff)
			}
		}
	}
	counted(t, set, "not-a-request", 4)
	counted(t, set, "too-long", 4)
}

// docs/audit.md has the log-format that is read.
func TestLogFormatIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil || !strings.Contains(string(page), "\nlog-format \""+LogFormat+"\"\n") {
		t.Errorf("%v; want the line\nlog-format %q", err, LogFormat)
	}
}

func TestLines(t *testing.T) {
	const good = "down=10.0.0.1|1|10.0.0.2|2 up=-|-|-|- id=- method=<BADREQ> path=- host=- status=-1 flags=CR start=- end=1 upto=-1+-1 answer=-1"
	e, _, ok := parseLine(good)
	want := journey.Said{
		Downstream: journey.Connection{Local: netip.MustParseAddrPort("10.0.0.2:2"), Remote: netip.MustParseAddrPort("10.0.0.1:1")}, Flags: "CR", Early: haproxyTurn,
	}
	if diff := cmp.Diff(want, e, addresses); diff != "" || !ok {
		t.Errorf("%t (-want +got):\n%s", ok, diff)
	}
	for _, change := range [][2]string{
		{"10.0.0.1|1|", "10.0.0.1|0|"}, {"10.0.0.1|1|", "10.0.0.1|65536|"}, {"10.0.0.1|1|", "fe80::1%eth0|1|"}, {"10.0.0.1|1|", "-|-|"}, {"|2 ", "|2|3 "}, {"up=-|-|-|-", "up=-"},
		{"id=-", "id=%2"}, {"id=-", "id=- id=-"}, {"id=-", "id"}, {"end=1", "end=-1"}, {"end=1", "end=99999999999999999999"}, {"start=-", "start=x"}, {"start=-", "start=2"}, {"start=- end=1", "start=1 end=3600000002"},
		{"status=-1", "status=1000"}, {"start=- ", ""}, {"down", "DOWN"},
	} {
		text := strings.Replace(good, change[0], change[1], 1)
		if text == good {
			t.Fatalf("%q is not in it", change[0])
		}
		if e, _, ok := parseLine(text); ok {
			t.Errorf("%q: %+v", text, e)
		}
	}
}

// The socket of an agent that is gone is taken over, one that is in use is not, nor is a file; and nothing is left behind.
func TestSockets(t *testing.T) {
	dir := t.TempDir()
	als, log := filepath.Join(dir, "als"), filepath.Join(dir, "log")
	opts := Options{Envoy: []string{als}, HAProxy: []string{log}, PerSecond: 1, PerPeer: 1, Monotonic: monotonic, Losses: &loss.Set{}, Log: slog.New(slog.DiscardHandler)}
	first, err := Listen(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{Envoy: []string{als}}, {HAProxy: []string{log}}} {
		o.PerSecond, o.PerPeer, o.Monotonic, o.Losses, o.Log = 1, 1, monotonic, &loss.Set{}, opts.Log
		if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), "somebody listens") {
			t.Errorf("a second one: %v", err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	stale, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: log})
	if err != nil {
		t.Fatal(err)
	}
	_ = stale.Close() // leaves its file
	if err := os.WriteFile(als, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(opts); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	opts.Envoy = nil
	again, err := Listen(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
