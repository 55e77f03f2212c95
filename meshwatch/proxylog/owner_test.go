package proxylog

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
)

// Who speaks over IP is known by its process; it is looked for no more often than is allowed, and not again at each datagram.
func TestOwners(t *testing.T) {
	looked := 0
	o := newOwners(func(transport string, at netip.AddrPort) (int, error) {
		looked++
		if at.Port() == 9 {
			return 0, errors.New("nobody's")
		}
		return int(at.Port()), nil
	})
	now := time.Unix(1000, 0)
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	for _, c := range []struct {
		at   string
		want journey.Speaker
		all  int
	}{
		{"10.0.0.1:7", journey.Speaker{Pid: 7}, 1}, {"10.0.0.1:7", journey.Speaker{Pid: 7}, 1}, {"[::ffff:10.0.0.1]:9", journey.Speaker{Addr: netip.MustParseAddr("10.0.0.1")}, 2},
		{"10.0.0.1:9", journey.Speaker{Addr: netip.MustParseAddr("10.0.0.1")}, 2},
	} {
		if got := o.again("udp", at(c.at), now); got != c.want || looked != c.all {
			t.Errorf("%s: %+v after %d looks; want %+v, %d", c.at, got, looked, c.want, c.all)
		}
	}
	if got := o.again("udp", at("10.0.0.1:7"), now.Add(ownerLasts+time.Second)); got.Pid != 7 || looked != 3 {
		t.Errorf("later: %+v after %d looks", got, looked)
	}
	now = now.Add(time.Minute)
	looked = 0
	for port := range uint16(100) {
		o.speaker("tcp", netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), 100+port), now)
	}
	if looked != mostLookups {
		t.Errorf("%d looks at once", looked)
	}
	for port := range uint16(3 * mostOwners) {
		o.again("udp", netip.AddrPortFrom(netip.MustParseAddr("10.0.0.3"), 1000+port), now)
	}
	if len(o.known) > mostOwners {
		t.Errorf("%d addresses are remembered", len(o.known))
	}
	none := newOwners(nil)
	if diff := cmp.Diff(journey.Speaker{Addr: netip.MustParseAddr("10.0.0.1")}, none.again("udp", at("10.0.0.1:7"), now), addresses); diff != "" {
		t.Error(diff)
	}
}
