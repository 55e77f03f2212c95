package netpath

import (
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meshwatch/meshwatch/test/leaks"
)

// istioLike are rules of the form of Istio's, for one of the three tools that write such.
func istioLike(tool string) []string {
	return []string{
		tool + " -t nat -N ISTIO_OUTPUT", tool + " -t nat -N ISTIO_REDIRECT", tool + " -t nat -N ISTIO_IN_REDIRECT",
		tool + " -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT",
		tool + " -t nat -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
		tool + " -t nat -A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT",
		tool + " -t nat -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
		tool + " -t nat -A PREROUTING -p tcp -j ISTIO_IN_REDIRECT",
		tool + " -t nat -A ISTIO_IN_REDIRECT -p tcp -m tcp --dport 15008 -j RETURN",
		tool + " -t nat -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
		tool + " -t nat -A ISTIO_IN_REDIRECT -p udp -j REDIRECT --to-ports 15053",
	}
}

// nftNative are rules as `pilot-agent istio-iptables --native-nftables` writes them, and a TPROXY.
func nftNative() []string {
	return []string{
		"nft -- add table inet istio",
		"nft -- add chain inet istio out { type nat hook output priority -100 ; }",
		"nft -- add chain inet istio in { type nat hook prerouting priority -100 ; }",
		"nft -- add chain inet istio tp { type filter hook prerouting priority -150 ; }",
		"nft -- add chain inet istio tosidecar",
		"nft -- add rule inet istio out meta l4proto tcp goto tosidecar",
		"nft -- add rule inet istio tosidecar meta l4proto tcp redirect to :15001",
		"nft -- add rule inet istio in tcp dport 80 redirect to :15006",
		"nft -- add rule inet istio tp meta nfproto ipv4 tcp dport 81 tproxy ip to 127.0.0.1:15006",
	}
}

func inNetns(tb testing.TB, name string, lines []string) *Namespace {
	tb.Helper()
	makeNetns(tb, name)
	for _, line := range lines {
		run(tb, "ip netns exec {"+name+"} "+line)
	}
	s, _, err := Scan()
	if err != nil {
		tb.Fatal(err)
	}
	return s.Named(netnsName(name))
}

func TestRulesOfThisKernel(t *testing.T) {
	privileged(t, "ip", "nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
	leaks.None(t)
	nft := inNetns(t, "nft", append(istioLike("iptables-nft"), "ip6tables-nft -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 15006"))
	native := inNetns(t, "native", nftNative())
	legacy := inNetns(t, "legacy", append(istioLike("iptables-legacy"), istioLike("ip6tables-legacy")...))
	none := inNetns(t, "none", nil)
	if *update {
		recordRules(t, nft, native, legacy)
	}
	redirects := []uint16{15001, 15006, 15053}
	four := func(family string) []HookRules {
		return []HookRules{
			{"PREROUTING", family, "legacy", 1, 1, 4}, {"INPUT", family, "legacy", 1, 0, 0},
			{"OUTPUT", family, "legacy", 1, 1, 4}, {"POSTROUTING", family, "legacy", 1, 0, 0},
		}
	}
	v4, v6 := four("ip"), four("ip6")
	for _, c := range []struct {
		n    *Namespace
		want Filter
	}{
		{nft, Filter{Hooks: []HookRules{
			{"PREROUTING", "ip", "nft", 1, 1, 4}, {"PREROUTING", "ip6", "nft", 1, 1, 1}, {"OUTPUT", "ip", "nft", 1, 1, 4},
		}, Redirects: redirects, Outbound: redirects[:1]}},
		{native, Filter{Hooks: []HookRules{
			{"PREROUTING", "inet", "nft", 2, 2, 2}, {"OUTPUT", "inet", "nft", 1, 1, 2},
		}, Redirects: redirects[:2], Outbound: redirects[:1]}},
		{legacy, Filter{Hooks: []HookRules{v4[0], v6[0], v4[1], v6[1], v4[2], v6[2], v4[3], v6[3]}, Redirects: redirects, Outbound: redirects[:1]}},
		{none, Filter{}},
	} {
		if diff := cmp.Diff(c.want, c.n.Filter); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.n.Name, diff)
		}
		if c.n.Redirects() != (len(c.want.Redirects) > 0) {
			t.Errorf("%s: redirects %v", c.n.Name, c.n.Redirects())
		}
	}
	if chains, rules := nft.Filter.Count("PREROUTING"); chains != 2 || rules != 5 {
		t.Errorf("PREROUTING has %d chains, %d rules, want 2, 5", chains, rules)
	}
}

// TestReadingRulesCreatesNone guards against asking for legacy tables that do not exist: the kernel would make them, and
// every packet would pass them.
func TestReadingRulesCreatesNone(t *testing.T) {
	privileged(t, "ip")
	makeNetns(t, "clean")
	for range 2 {
		s, _, err := Scan()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Named(netnsName("clean")).Do(func() error {
			if sig := legacySignature(); sig != "" {
				t.Errorf("legacy tables %q after a scan", sig)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, family := range []string{"ip_tables_names", "ip6_tables_names"} {
		if out, err := try("ip netns exec {clean} cat /proc/thread-self/net/" + family); err == nil && out != "" {
			t.Errorf("%s has %q", family, out)
		}
	}
}

// recordRules writes testdata, with -update.
func recordRules(tb testing.TB, nft, native, legacy *Namespace) {
	tb.Helper()
	for name, n := range map[string]*Namespace{"iptables-nft.bin": nft, "nft.bin": native} {
		var parts [][]byte
		keep := func(tag byte) func([]byte) {
			return func(msg []byte) { parts = append(parts, append([]byte{tag}, msg...)) }
		}
		if err := n.Do(func() error {
			if err := nftDump(unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, keep('c')); err != nil {
				return err
			}
			return nftDump(unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, keep('r'))
		}); err != nil {
			tb.Fatal(err)
		}
		record(tb, name, parts)
	}
	if err := legacy.Do(func() error {
		return eachTable(func(fd int, l *layout, table string) error {
			info, entries, err := getTable(fd, l, table)
			if err != nil || l.family != "ip" {
				return err
			}
			raw := unsafe.Slice((*byte)(unsafe.Pointer(info)), unsafe.Sizeof(*info))
			record(tb, "legacy-nat.bin", [][]byte{raw, entries})
			return nil
		})
	}); err != nil {
		tb.Fatal(err)
	}
}
