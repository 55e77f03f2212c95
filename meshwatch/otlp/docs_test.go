package otlp

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
	"github.com/meshwatch/meshwatch/meshwatch/verdict"
)

// Every attribute that is sent is in docs/spans.md, with the spans it is on, and no other.
func TestDocumentedAttributes(t *testing.T) {
	page, err := os.ReadFile("../../docs/spans.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z][^`]+)` \\| ([a-z, ]+) \\| [^|]+ \\|$").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]] = m[2]
	}
	j := journeytest.LostSYN()
	j.Verdict, j.Unjoined = verdict.Judge(j), "no-id"
	e := j.Exchanges[2]
	e.Status, e.Error, e.Method, e.Request.DropReason = 503, "503", "PURGE", 2

	e.Leg.CrossZone = true
	e.TLS, e.Stream, e.GRPC = true, 1, &journey.GRPC{Status: 14, Sent: 1, Received: 2}
	e.Governance = &journey.Governance{
		Route: "r", VirtualHost: "h", Cluster: "c", Subset: "v1", Service: "s", Unknown: "weights", Defined: journey.Resource{Kind: "VirtualService", Namespace: "n", Name: "v"},
		Destination: journey.Resource{Kind: "DestinationRule", Namespace: "n", Name: "d"}, Policy: &journey.Policy{Timeout: time.Second, Retries: 2, Delay: time.Second, Abort: 503, Local: "redirect"},
	}
	for i, kind := range []string{"HTTPRoute", "GRPCRoute"} {
		j.Exchanges[3+i].Governance = &journey.Governance{Defined: journey.Resource{Kind: kind, Namespace: "n", Name: "r"}}
	}
	j.RecordedShare = 0.5
	sent := map[string]map[string]bool{}
	for k, s := range Spans(j, journeytest.Epoch) {
		for _, kv := range s.Attributes {
			name := string(kv.Key)
			if strings.HasPrefix(name, "http.request.header.") {
				name = "http.request.header.<name>"
			}
			if sent[name] == nil {
				sent[name] = map[string]bool{}
			}
			sent[name][spanKind(k, &s)] = true
		}
	}
	got := map[string]string{}
	for name, on := range sent {
		switch {
		case len(on) == 5:
			got[name] = "all"
		case on["leg"] && on["connect"]:
			got[name] = "leg, connect"
		case on["leg"] && on["relay"]:
			got[name] = "leg, relay"
		case on["leg"] || strings.HasPrefix(name, "http.request.header."):
			got[name] = "leg"
		default:
			for one := range on {
				got[name] = one
			}
		}
	}
	if diff := cmp.Diff(documented, got); diff != "" {
		t.Errorf("docs/spans.md (-documented +sent)\n%s", diff)
	}
}

func spanKind(index int, s *Span) string {
	if s.Name == "connect" {
		return "connect"
	}
	for _, kv := range s.Attributes {
		switch kv.Key {
		case keySeq:
			if index == 0 {
				return "root leg"
			}
			return "leg"
		case keyDirection:
			return "hop"
		}
	}
	return "relay"
}
