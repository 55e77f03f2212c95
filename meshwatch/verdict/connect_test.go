package verdict

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/journey"
	"github.com/meshwatch/meshwatch/meshwatch/journey/journeytest"
)

// opened gives an exchange a connect whose SYN was lost on its way: 10 ns of the node's, then the network's.
func opened(e *journey.Exchange, from, to uint64) *journey.Exchange {
	e.Connect = &journey.Flight{Start: from, Recv: to, RecvEnd: to, Hops: []journey.Hop{
		{Name: "veth", Kind: "veth", Class: journey.ClassNode, From: from, To: from + 10, Iface: "eth0"},
		{Name: "retransmission wait", Kind: "retransmit", Class: journey.ClassNetwork, From: from + 10, To: to, Net: "node"},
	}}
	return e
}

func TestConnect(t *testing.T) {
	app, sidecar := journey.RoleApp, journey.RoleSidecar
	for _, tc := range []struct {
		name      string
		exchanges []*journey.Exchange
		want      journey.Verdict
	}{
		{"opened for it", []*journey.Exchange{call(-1, sidecar, 0, 1000), opened(call(0, app, 600, 900), 90, 590)},
			verdict("mixed", 0.49, "retransmission wait in node", "network", 490, "app", 280, "sidecar", 180, "node", 50)},
		{"most of it", []*journey.Exchange{call(-1, sidecar, 0, 1000), opened(call(0, app, 800, 900), 90, 790)},
			verdict("network", 0.69, "retransmission wait in node", "network", 690, "sidecar", 180, "app", 80, "node", 50)},
		{"the root's own", []*journey.Exchange{opened(call(-1, app, 600, 1600), 90, 590)},
			verdict("app", 0.98, "app1", "app", 980, "node", 20)},
		{"begun before the request was read", []*journey.Exchange{call(-1, sidecar, 500, 1500), opened(call(0, app, 1000, 1400), 100, 400)},
			verdict("sidecar", 0.58, "sidecar1", "sidecar", 580, "app", 380, "node", 40)},
		{"ended after its request was sent", []*journey.Exchange{call(-1, sidecar, 0, 1000), opened(call(0, app, 600, 900), 90, 700)},
			verdict("network", 0.5, "retransmission wait in node", "network", 500, "app", 280, "sidecar", 170, "node", 50)},
		{"while another exchange was waited for", []*journey.Exchange{call(-1, sidecar, 0, 1000), call(0, app, 50, 550), opened(call(0, app, 600, 900), 100, 500)},
			verdict("app", 0.76, "app1", "app", 760, "sidecar", 180, "node", 60)},
		{"longer than another exchange", []*journey.Exchange{call(-1, sidecar, 0, 1000), call(0, app, 50, 250), opened(call(0, app, 600, 900), 140, 550)},
			verdict("mixed", 0.4, "retransmission wait in node", "network", 400, "app", 360, "sidecar", 180, "node", 60)},
		{"two after each other", []*journey.Exchange{call(-1, sidecar, 0, 1000), opened(call(0, app, 300, 400), 90, 290), opened(call(0, app, 700, 900), 490, 690)},
			verdict("mixed", 0.38, "retransmission wait in node", "network", 380, "sidecar", 280, "app", 260, "node", 80)},
		{"to try again", []*journey.Exchange{call(-1, sidecar, 0, 1000), lost(0, app, 100, "closed"), opened(call(0, app, 800, 900), 300, 790)},
			verdict("mixed", 0.48, "retransmission wait in node", "network", 480, "app", 270, "sidecar", 190, "node", 60)},
		{"begun before what failed", []*journey.Exchange{call(-1, sidecar, 0, 1000), lost(0, app, 100, "closed"), opened(call(0, app, 800, 900), 50, 790)},
			verdict("app", 0.77, "app1", "app", 770, "sidecar", 130, "node", 60, "network", 40)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := &journey.Journey{Exchanges: tc.exchanges}
			if diff := cmp.Diff(tc.want, Judge(j)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestLostSYNIsTheNetworks(t *testing.T) {
	j := journeytest.LostSYN()
	if v := Judge(j); v.Class != journey.ClassNetwork || v.Where != "retransmission wait in node" || v.Share < 0.9 {
		t.Errorf("got %+v, want network", v)
	}
	var connects int
	for _, r := range Breakdown(j, nil) {
		if r.Part == Connect {
			connects++
			if r.Exchange != 4 || r.Hop == nil || r.Own != 0 && uint64(r.Own) != r.To-r.From {
				t.Errorf("row %+v", r)
			}
		}
	}
	if n := len(j.Exchanges[4].Connect.Hops); connects != n {
		t.Errorf("%d rows of the connect, want %d", connects, n)
	}
}

// A connect that nobody waited for has rows too, of no time of their own.
func TestConnectOfNobody(t *testing.T) {
	rows := Breakdown(&journey.Journey{Exchanges: []*journey.Exchange{opened(call(-1, journey.RoleApp, 600, 1600), 90, 590)}}, nil)
	if r := rows[1]; r.Part != Connect || r.Class != journey.ClassNetwork || r.Hop.Name != "retransmission wait" || r.Own != 0 || r.To != 590 {
		t.Errorf("got %+v", r)
	}
}
