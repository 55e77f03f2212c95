package observe

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
	"github.com/meshwatch/meshwatch/topology/proxy"
)

// The demo's proxies: what each knew of the request, from what was seen of its connections.
func TestRequestOf(t *testing.T) {
	at := netip.MustParseAddrPort
	type known struct {
		Direction       proxy.Direction
		Local, Upstream netip.AddrPort
		Certain, OK     bool
	}
	compare := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	demo := journeytest.Demo
	unseen := func() *journey.Journey { // the caller is on another node
		j := demo()
		j.Exchanges[4].Leg.Client = journey.End{}
		return j
	}
	virtual := func(app string) func() *journey.Journey { // the caller asked for a service's address; its app is asked here
		return func() *journey.Journey {
			j := demo()
			j.Exchanges[4].Leg.Client.Peer, j.Exchanges[5].Leg.Client.Peer = at("10.96.0.1:80"), at(app)
			return j
		}
	}
	tunnel := func() *journey.Journey { // the endpoint is inside
		j := demo()
		j.Exchanges[4].Leg.Client.Peer = at("10.9.0.5:15008")
		return j
	}
	for name, c := range map[string]struct {
		of   func() *journey.Journey
		at   int
		want known
	}{
		"gateway":                  {demo, 0, known{proxy.Gateway, at("10.9.0.3:80"), at("10.9.0.4:8080"), true, true}},
		"inbound":                  {demo, 1, known{proxy.Inbound, at("10.9.0.4:8080"), at("10.9.0.4:8080"), true, true}},
		"outbound":                 {demo, 3, known{proxy.Outbound, at("10.9.0.5:8080"), at("10.9.0.5:8080"), true, true}},
		"by a tunnel":              {tunnel, 3, known{proxy.Outbound, at("10.9.0.5:8080"), netip.AddrPort{}, true, true}},
		"inbound of another node":  {unseen, 4, known{proxy.Inbound, at("10.9.0.5:8080"), at("10.9.0.5:8080"), false, true}},
		"by a service's address":   {virtual("10.9.0.5:8080"), 4, known{proxy.Inbound, at("10.9.0.5:8080"), at("10.9.0.5:8080"), false, true}},
		"to another port, locally": {virtual("127.0.0.1:9000"), 4, known{proxy.Inbound, at("127.0.0.1:9000"), at("127.0.0.1:9000"), false, false}},
	} {
		r, certain, ok := requestOf(c.of(), c.at)
		if d := cmp.Diff(c.want, known{r.Direction, r.Local, r.Upstream, certain, ok}, compare); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// What is captured of a head is known; what is not there was not sent, if all of the head was seen.
func TestHeader(t *testing.T) {
	o := New(NewNames(nil), []string{"x-a", "x-b"})
	h := &head.Head{Captured: [][]byte{[]byte("1"), nil}}
	for _, c := range []struct {
		name     string
		complete bool
		value    string
		is       proxy.Presence
	}{{"x-a", false, "1", proxy.Present}, {"x-b", true, "", proxy.Absent}, {"x-b", false, "", proxy.Unknown}, {"x-c", true, "", proxy.Unknown}} {
		if value, is := o.header(h, c.complete)(c.name); value != c.value || is != c.is {
			t.Errorf("%+v: %q, %d", c, value, is)
		}
	}
	if New(NewNames(nil), nil).header(h, true) != nil {
		t.Error("nothing is captured, but something is known")
	}
}

// The same answer is the same words, made once.
func TestSay(t *testing.T) {
	o := New(NewNames(nil), nil)
	a := proxy.Answer{Route: &proxy.Route{Name: "r", Policy: &proxy.Policy{Retry: &proxy.Retry{On: "5xx", Most: 2}, Mirrors: []proxy.Mirror{{Cluster: "m"}}, Fault: &proxy.Fault{Abort: 503, AbortShare: 1}}},
		Cluster: &proxy.Cluster{Name: "c", Subset: "v1", Host: "s"}, Why: proxy.Weights}
	want := &journey.Governance{Route: "r", Cluster: "c", Subset: "v1", Service: "s", Unknown: "weights",
		Policy: &journey.Policy{RetryOn: "5xx", Retries: 2, Mirrors: []string{"m"}, Abort: 503, AbortShare: 1}}
	first := o.say(a)
	if d := cmp.Diff(want, first); d != "" {
		t.Error(d)
	}
	if o.say(a) != first {
		t.Error("it was made twice")
	}
	for i := range maxSaid + 1 {
		o.say(proxy.Answer{Route: &proxy.Route{}, Why: proxy.Reason(rune(i))})
	}
	if len(o.said) > maxSaid {
		t.Errorf("%d are kept", len(o.said))
	}
}

// always is a Governor with one answer.
type always proxy.Answer

func (a always) Govern(*journey.Workload, *proxy.Request, uint64) proxy.Answer {
	return proxy.Answer(a)
}

// What is not said of a request is counted, unless there is nothing to say.
func TestUnsaid(t *testing.T) {
	for why, want := range map[proxy.Reason]uint64{proxy.Path: 1, proxy.NoMatch: 0, proxy.NoHTTP: 0, "": 0} {
		w := newWorld(t)
		w.names.SetStore(store(t, edgeWorkloads))
		w.Govern(always{Why: why}, &w.lost)
		asked := 0
		w.seen = func(tree *join.Tree) {
			for _, e := range w.Render(tree).Exchanges {
				if e.Governance != nil && e.Governance.Unknown == string(why) {
					asked++
				}
			}
		}
		w.oneRequest()
		w.finish(hour + uint64(time.Second))
		var got uint64
		for _, row := range w.lost.Rows() {
			if row.Stage == LostRoute {
				got += row.Count
			}
		}
		if got != want || asked != 1 {
			t.Errorf("%q: %d lost, want %d; %d requests have an answer, want 1", why, got, want, asked)
		}
	}
}

// Zones are compared where both are known.
func TestZonesOf(t *testing.T) {
	zone := func(region, name string) *journey.Workload { return &journey.Workload{Region: region, Zone: name} }
	for _, c := range []struct {
		a, b *journey.Workload
		want string
	}{
		{zone("r", "1"), zone("r", "1"), ZonesSame}, {zone("r", "1"), zone("r", "2"), ZonesAcross}, {zone("r", "1"), zone("s", "1"), ZonesAcross}, {zone("r", "1"), zone("r", ""), ""},
	} {
		if got := zonesOf(c.a, c.b); got != c.want {
			t.Errorf("%+v, %+v: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}
