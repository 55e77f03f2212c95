package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/control"
	"github.com/meshwatch/meshwatch/meshwatch/inject"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/loss"
	"github.com/meshwatch/meshwatch/meshwatch/probe"
)

func TestKubernetesState(t *testing.T) {
	now := time.Unix(1767323045, 0)
	before := now.Add(-time.Minute)
	for want, k := range map[string]control.Kubernetes{
		"0 objects; not connected yet: x509":                                          {Problem: "x509"},
		"9 objects, last change 1m0s ago; lost 1m0s ago, what it said stays: refused": {Objects: 9, Updated: before, Since: before, Problem: "refused"},
		"9 objects; connected for 1m0s; reading":                                      {Objects: 9, Connected: true, Since: before},
		"9 objects; connected for 1m0s\n\tthe service account may not …":              {Objects: 9, Connected: true, Ready: true, Since: before, Missing: []string{"the service account may not …"}},
	} {
		if got := kubernetesState(&k, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestStatusTable(t *testing.T) {
	started := time.Unix(1767323045, 0)
	s := &control.Status{
		Version: "v1", Pid: 7, Started: started, Recording: true, Depth: "auto, 1 namespaces in full depth now",
		Attached: control.Attached{Namespaces: 3, Links: 8},
		Ring:     control.Ring{Records: 16384, Read: 12, Open: 1, Lag: 2, MapBytes: 6_300_000},
		Joiner:   control.Joiner{Flights: 12, Requests: 6, Responses: 5, Journeys: 2, Relays: 4, Raw: 9, Kept: 1},
		Export:   control.Export{On: true, Endpoint: "http://localhost:4318", State: "connected"},
		Topology: control.Topology{File: "t.yaml", Addresses: 4, Loaded: started, Problem: "line 1:\x1b[2J", Proxies: &control.Proxies{Followed: 3, Connected: 2, Resources: 90, Problem: "demo/a: refused\x1b"}},
		Budget:   control.Budget{Agent: 0.2, AgentUsed: 0.1904, Recorder: 0.5, RecorderUsed: 0.31, Share: 0.5, Shallow: true},
		Memory:   50_000_000,
		TLS: []probe.Binary{
			{Path: "/usr/local/bin/envoy", Library: "BoringSSL", Processes: 3, Writes: true, Calls: 1000, Tied: 998},
			{Path: "/usr/lib/libssl.so.3", Library: "OpenSSL", Processes: 2, Writes: true, Reads: true, Stepped: true, Calls: 7, Tied: 7},
			{Path: "/app", Library: "Go crypto/tls", Processes: 2, Writes: true, HTTP: &probe.HTTP{Probed: true, Requests: 20, Tied: 19}},
			{Path: "/old", Library: "Go crypto/tls", Processes: 1, Writes: true, HTTP: &probe.HTTP{Problem: "runtime.newproc1: not known\x1b"}},
			{Path: "/odd\x1b", Processes: 1, Problem: "BoringSSL: 0 functions report as SSL_write does"},
		},
		Inject: &inject.State{On: true, Workloads: []string{"demo/a\x1b", "demo/b"}, Connections: 3, Injected: 40, HadID: 10},
		Losses: []loss.Row{{Stage: "pair", Reason: "no-response"}, {Stage: "relay", Reason: "no-id", Count: 7}},
	}
	var b strings.Builder
	if err := statusTable(&b, s, started.Add(90*time.Second)); err != nil {
		t.Fatal(err)
	}
	want := `agent     meshwatch v1, pid 7, up 1m30s, recording
depth     auto, 1 namespaces in full depth now; 3 namespaces recorded
cost      agent 0.190 of 0.2 CPUs, recorder 0.310 of 0.5 CPUs: above it, so 50.0 % of the time are recorded
flights   12 read, 1 under way, 2 behind in a ring of 16384
joined    6 requests, 5 responses, 4 relays, 2 journeys of which 1 kept; 9 flights of other protocols
memory    50.0 MB resident, 6.3 MB in BPF maps
tls       probes on 4 binaries of 5, in 8 processes
go        probes on net/http in 1 binaries of 2, in 2 processes: 20 requests, 19 with their goroutine
inject    40 of 50 requests were given an id, on 3 connections of demo/a?, demo/b
export    http://localhost:4318: connected
topology  4 addresses of t.yaml, read 1m30s ago; the file as it is now is not used: line 1:?[2J
proxies   3 followed, 2 told, 90 resources; demo/a: refused?

TLS IN                LIBRARY        PROCESSES  PROBED         CALLS  TIED  NOTE
/usr/local/bin/envoy  BoringSSL      3          writes         1000   998   
/usr/lib/libssl.so.3  OpenSSL        2          writes, reads  7      7     some single-stepped: 12 µs a call
/app                  Go crypto/tls  2          writes         0      0     
/old                  Go crypto/tls  1          writes         0      0     runtime.newproc1: not known?
/odd?                                1          no             0      0     BoringSSL: 0 functions report as SSL_write does

LOST AT  REASON  COUNT
relay    no-id   7
1 other reasons: none
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestInjectState(t *testing.T) {
	many := &inject.State{On: false, Workloads: strings.Split("abcdefghij", "")}
	for want, s := range map[string]*inject.State{
		"off": nil,
		"no workload with a sidecar of its own is chosen":                                                       {On: true},
		"0 of 0 requests were given an id, on 0 connections of a, b, c, d, e, f, g, h and 2 more; switched off": many,
	} {
		if got := injectState(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestRecentTable(t *testing.T) {
	var b strings.Builder
	start := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.Local)
	err := recentTable(&b, []control.Summary{
		{Start: start, TraceID: "0a", RequestID: "r-1", Root: "GET shop/cart", Status: 200, Duration: 3_980_000, Legs: 6, Class: journey.ClassApp, Where: "backend"},
		{Start: start, TraceID: "0b", Root: "GET shop/\x1b[2J" + strings.Repeat("x", 80), Error: "reset", Duration: 900, Legs: 1, Class: journey.ClassMixed},
	})
	want := `START         REQUEST                                                       STATUS  DURATION  LEGS  WHOSE TIME   ID
03:04:05.006  GET shop/cart                                                 200     3.98 ms   6     app backend  r-1
03:04:05.006  GET shop/?[2Jxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx  reset   900 ns    1     mixed        0b
`
	if diff := cmp.Diff(want, b.String()); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	b.Reset()
	if err := recentTable(&b, nil); err != nil || b.String() != "the agent has kept no request yet\n" {
		t.Errorf("%v %q", err, b.String())
	}
}
