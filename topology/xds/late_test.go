package xds

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshwatch/meshwatch/topology"
	"github.com/meshwatch/meshwatch/topology/proxy"
)

const second = uint64(time.Second)

// still is a client that does not run, by a clock that the test sets.
func still(now *uint64) (*Client, *topology.Builder) {
	b := topology.NewBuilder("", uint64(time.Hour))
	return New(plainSettings, Options{Node: "node-1", Builder: b, Clock: func() uint64 { return *now }, Refused: func(int) {}, Log: slog.New(slog.DiscardHandler)}), b
}

var plainSettings = Settings{Address: "127.0.0.1:1", Security: Plaintext}

// What a control plane says first was always so if it says it at once. If it was away when the agent began, the addresses may have been
// somebody else's until now.
func TestFirstAnswer(t *testing.T) {
	for _, late := range []bool{false, true} {
		now := 1000 * second
		c, b := still(&now)
		now += second
		if late {
			now += topology.Lateness
		}
		answer := c.read(&discovery.DeltaDiscoveryResponse{TypeUrl: addressType, Resources: []*discovery.Resource{
			{Name: "a", Version: "1", Resource: &anypb.Any{TypeUrl: addressType, Value: pod("a", "10.0.0.1")}},
		}})
		if answer.ErrorDetail != nil {
			t.Fatal(answer.ErrorDetail)
		}
		s := b.Store(now)
		for at, want := range map[uint64]bool{now: true, now + second: true, now - second: !late, 0: !late} {
			if w, ok := s.Lookup(netip.MustParseAddrPort("10.0.0.1:80"), at); ok != want || ok && w.Name != "a" {
				t.Errorf("late: %t: at %d s it is %v, %t; want %t", late, at/second, w, ok, want)
			}
		}
	}
}

// So it is with what a proxy is told.
func TestFirstConfig(t *testing.T) {
	for _, late := range []bool{false, true} {
		now := 1000 * second
		c, _ := still(&now)
		p, _ := onePod("p")
		s := newProxyStream(c.proxies, &p)
		now += second
		if late {
			now += topology.Lateness
		}
		s.answer(response(t, "1", clusterType, nil, clusterOf("outbound|80||a", "a")))
		s.answer(response(t, "2", listenerType, nil, listenerOf(t, "r")))
		s.publish(now)
		s.answer(response(t, "3", routeType, nil, routesOf("r", "one", "outbound|80||a")))
		v := s.publish(now)
		r := proxy.Request{Direction: proxy.Gateway, Local: netip.MustParseAddrPort("10.0.0.7:80"), Protocol: "http/1.1", Authority: "a", Method: "GET", Path: "/"}
		for at, want := range map[uint64]bool{now + topology.Lateness: true, now: !late, now - topology.Lateness - 1: !late} {
			if a := v.Lookup(&r, at); (a.Route != nil) != want {
				t.Errorf("late: %t: at %d s: %+v, want one: %t", late, at/second, a, want)
			}
		}
	}
}
