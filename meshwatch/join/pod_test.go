package join

import (
	"net/netip"
	"testing"

	"github.com/meshwatch/meshwatch/bpf"
)

// between says which addresses a flight's ends have, each by its own view.
func between(f *bpf.Flight, sender, sendersPeer, receiver, receiversPeer string) {
	put := func(s string, addr *[16]byte, port *uint16) {
		a := netip.MustParseAddrPort(s)
		*port = a.Port()
		copy(addr[:], a.Addr().AsSlice())
		if a.Addr().Is6() {
			f.Flags |= bpf.Flags(bpf.FlagIPv6)
		}
	}
	put(sender, &f.SendAddr, &f.SendPort)
	put(sendersPeer, &f.SendPaddr, &f.SendPeer)
	put(receiver, &f.RecvAddr, &f.RecvPort)
	put(receiversPeer, &f.RecvPaddr, &f.RecvPeer)
}

// An app's legs were not seen. What its sidecar sends for it to another pod is not what came in for the app.
func TestLeavesPod(t *testing.T) {
	for name, tt := range map[string]struct {
		dst, to string // of what the sidecar received
		next    string // of what it sent
		joined  bool
	}{
		"into the pod":           {"10.0.0.4:8080", "10.0.0.4:15006", "10.0.0.4:8080", true},
		"over loopback":          {"10.0.0.4:8080", "10.0.0.4:15006", "127.0.0.1:8080", true},
		"over loopback, IPv6":    {"[fd00::4]:8080", "[fd00::4]:15006", "[::1]:8080", true},
		"to another pod":         {"10.0.0.4:8080", "10.0.0.4:15006", "10.0.0.5:8080", false},
		"to another pod, IPv6":   {"[fd00::4]:8080", "[fd00::4]:15006", "[fd00::5]:8080", false},
		"of the app":             {"10.0.0.5:8080", "127.0.0.1:15001", "10.0.0.5:8080", true},
		"through a gateway":      {"10.0.0.4:8080", "10.0.0.4:8080", "10.0.0.5:8080", true},
		"gateway with a service": {"10.96.0.1:80", "10.0.0.4:8080", "10.0.0.5:8080", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.conn(1, 100), w.conn(100, 200)
			send := func(c *conn, side int, msg, dst, to string) {
				f, head := c.flight(side, msg)
				from := "10.0.0.4:40000"
				if netip.MustParseAddrPort(dst).Addr().Is6() {
					from = "[fd00::4]:40000"
				}
				if side == 0 {
					between(&f, from, dst, to, from)
				} else {
					between(&f, to, from, from, dst)
				}
				w.j.Flight(&f, head)
			}
			send(a, 0, get("/a", tlsID), tt.dst, tt.to)
			send(b, 0, get("/a", tlsID), tt.next, tt.next)
			send(b, 1, ok(200, ""), tt.next, tt.next)
			send(a, 1, ok(200, ""), tt.dst, tt.to)
			want := []string{"1-100 /a 200; >100-200 /a 200 (request-id 1)"}
			var losses []string
			if !tt.joined {
				want, losses = []string{"1-100 /a 200", "100-200 /a 200; no-parent"}, []string{"relay/no-parent 1"}
			}
			w.end(want, losses...)
		})
	}
}
