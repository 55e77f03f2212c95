package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/loss"
)

func TestSilent(t *testing.T) {
	before := []loss.Row{{Stage: "ring", Reason: "lapped", Count: 5}, {Stage: "relay", Reason: "no-id", Count: 1}}
	lost := since(before, []loss.Row{
		{Stage: "keep", Reason: "over-limit", Count: 900}, {Stage: "relay", Reason: "no-id", Count: 1},
		{Stage: "relay", Reason: "no-parent", Count: 12}, {Stage: "ring", Reason: "lapped", Count: 15},
	})
	want := []loss.Row{
		{Stage: "keep", Reason: "over-limit", Count: 900}, {Stage: "relay", Reason: "no-parent", Count: 12}, {Stage: "ring", Reason: "lapped", Count: 10},
	}
	if diff := cmp.Diff(want, lost); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	// 8 of each were of requests that are not scored
	got := silent(map[string]int{unjoined: 5, missingHop: 2, noJourney: 1, duplicateLeg: 1}, lost, 8)
	if diff := cmp.Diff(map[string]int{unjoined: 1, duplicateLeg: 1}, got); diff != "" {
		t.Errorf("silent (-want +got):\n%s", diff)
	}
}

func TestArguments(t *testing.T) {
	got := withoutDump([]string{"--connections", "16", "--dump", "/d", "--ipv6", "-dump=/e"})
	if diff := cmp.Diff([]string{"--connections", "16", "--ipv6"}, got); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if n, err := numbers("16, 64"); err != nil || !cmp.Equal(n, []int{16, 64}) {
		t.Errorf("numbers: %v, %v", n, err)
	}
	if _, err := numbers("16,no"); err == nil {
		t.Error("numbers took one that is none")
	}
	for _, wrong := range [][]string{
		{"--rate", "-1"}, {"--warm-up", "-1s"}, {"--scenario", "no-ids,grpc", "--rate", "1000"}, {"--scenario", all, "--warm-up", "1s"},
	} {
		if _, err := parse(wrong); err == nil || !strings.Contains(err.Error(), "--rate, --warm-up: ") {
			t.Errorf("%v: error %v", wrong, err)
		}
	}
	if a, err := parse([]string{"--scenario", "no-ids,mtls", "--rate", "1000"}); err != nil || a.runner.rate != 1000 {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestLoads: a scenario's loads, what each sends on a connection, and how its level is called.
func TestLoads(t *testing.T) {
	for _, c := range []struct {
		list, scenario string
		want           []string
	}{
		{"", cleartext, []string{keepAlive}}, {"", "mtls", []string{keepAlive, churn, mixed}}, {"", "no-ids", []string{keepAlive, churn, mixed}},
		{"mixed,churn", cleartext, []string{mixed, churn}}, {"mixed,some", "mtls", nil},
	} {
		if got, err := loads(c.list, c.scenario); !cmp.Equal(c.want, got) || (err == nil) != (c.want != nil) {
			t.Errorf("--loads %q of %s: %v, %v", c.list, c.scenario, got, err)
		}
	}
	for kind, want := range map[string]struct {
		perConnection int
		name          string
	}{keepAlive: {0, "mtls_16"}, churn: {1, "mtls_16_churn"}, mixed: {3, "mtls_16_mixed"}} {
		l := level{Scenario: "mtls", Kind: kind, Connections: 16}
		if sent := l.request(&runner{}, 0); sent.PerConnection != want.perConnection || l.name() != want.name {
			t.Errorf("%s: %d requests on a connection, name %s", kind, sent.PerConnection, l.name())
		}
	}
}
