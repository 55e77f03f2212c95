package netpath

import (
	"bytes"
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "record testdata from this kernel")

func TestParseMountinfo(t *testing.T) {
	const dump = `22 28 0:21 / /proc rw,nosuid shared:13 - proc proc rw
43 42 0:4 net:[4026532177] /run/netns/a rw shared:2 - nsfs nsfs rw
44 42 0:4 net:[4026532178] /run/docker/netns/b\040c\134 rw - nsfs nsfs rw
45 42 0:4 mnt:[4026532179] /run/snapd/ns/x.mnt rw - nsfs nsfs rw
46 42 0:4 net:[4026532177] /run/netns/again rw master:3 - nsfs nsfs rw
47 42 0:4 net:[99999999999] /run/netns/toobig rw - nsfs nsfs rw
48 42 0:40 / /mnt/net:[7] rw - nsfs-like nsfs rw
49 42 0:4 net:[7 /x rw - nsfs nsfs rw
`
	want := []mount{
		{4026532177, "/run/netns/a"}, {4026532178, `/run/docker/netns/b c\`}, {4026532177, "/run/netns/again"},
	}
	if diff := cmp.Diff(want, parseMountinfo([]byte(dump)), cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add([]byte("43 42 0:4 net:[4026532177] /run/netns/a rw shared:2 - nsfs nsfs rw\n"))
	f.Add([]byte(`43 42 0:4 net:[1] /\04\400\ - nsfs `))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range parseMountinfo(data) {
			if m.inum == 0 || m.path == "" {
				t.Errorf("mount %+v", m)
			}
		}
	})
}

// recording is a namespace's rules as the kernel gave them: messages, or a table's info and entries.
func recording(tb testing.TB, name string) [][]byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	var out [][]byte
	for len(data) > 0 {
		size := binary.LittleEndian.Uint32(data)
		out = append(out, data[4:4+size])
		data = data[4+size:]
	}
	return out
}

func record(tb testing.TB, name string, parts [][]byte) {
	tb.Helper()
	var out []byte
	for _, p := range parts {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(p))), p...) //nolint:gosec // small
	}
	if err := os.WriteFile(filepath.Join("testdata", name), out, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// replayNFT reads a recording of chains and rules.
func replayNFT(messages [][]byte) *ruleset {
	set := newRuleset("nft")
	for _, m := range messages {
		if len(m) > 0 && m[0] == 'c' {
			set.addNFTChain(m[1:])
		} else if len(m) > 0 {
			set.addNFTRule(m[1:])
		}
	}
	return set
}

func TestRecordedRules(t *testing.T) {
	for _, c := range []struct {
		name string
		want Filter
	}{
		{"iptables-nft.bin", Filter{
			Hooks: []HookRules{
				{"PREROUTING", "ip", "nft", 1, 1, 4}, {"PREROUTING", "ip6", "nft", 1, 1, 1}, {"OUTPUT", "ip", "nft", 1, 1, 4},
			},
			Redirects: []uint16{15001, 15006, 15053}, Outbound: []uint16{15001},
		}},
		{"nft.bin", Filter{
			Hooks:     []HookRules{{"PREROUTING", "inet", "nft", 2, 2, 2}, {"OUTPUT", "inet", "nft", 1, 1, 2}},
			Redirects: []uint16{15001, 15006}, Outbound: []uint16{15001},
		}},
	} {
		if diff := cmp.Diff(c.want, summarise(replayNFT(recording(t, c.name)))); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
}

func TestRecordedLegacyTable(t *testing.T) {
	parts := recording(t, "legacy-nat.bin")
	set := newRuleset("legacy")
	if err := set.addTable(&layouts[0], "nat", infoOf(parts[0]), parts[1]); err != nil {
		t.Fatal(err)
	}
	want := Filter{
		Hooks: []HookRules{
			{"PREROUTING", "ip", "legacy", 1, 1, 4}, {"INPUT", "ip", "legacy", 1, 0, 0},
			{"OUTPUT", "ip", "legacy", 1, 1, 4}, {"POSTROUTING", "ip", "legacy", 1, 0, 0},
		},
		Redirects: []uint16{15001, 15006, 15053}, Outbound: []uint16{15001},
	}
	if diff := cmp.Diff(want, summarise(set)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// infoOf reads struct ipt_getinfo of a recording; what is cut short is zero.
func infoOf(b []byte) *tableInfo {
	info := &tableInfo{}
	padded := append(bytes.Clone(b), make([]byte, 128)...)
	if _, err := binary.Decode(padded, binary.LittleEndian, info); err != nil {
		panic(err) // 128 bytes are enough
	}
	return info
}

func FuzzNFT(f *testing.F) {
	for _, name := range []string{"iptables-nft.bin", "nft.bin"} {
		for _, m := range recording(f, name) {
			f.Add(m[1:])
		}
	}
	f.Fuzz(func(_ *testing.T, msg []byte) {
		set := newRuleset("nft")
		set.addNFTChain(msg)
		set.addNFTRule(msg)
		set.addNFTRule(msg)
		summarise(set)
		parseGeneration(msg)
	})
}

func FuzzLegacyTable(f *testing.F) {
	parts := recording(f, "legacy-nat.bin")
	f.Add(parts[0], parts[1], false)
	f.Add(parts[0], parts[1], true)
	f.Fuzz(func(_ *testing.T, info, entries []byte, six bool) {
		l := &layouts[0]
		if six {
			l = &layouts[1]
		}
		set := newRuleset("legacy")
		_ = set.addTable(l, "nat", infoOf(info), entries)
		summarise(set)
	})
}

func TestParseGeneration(t *testing.T) {
	msg := make([]byte, 28)
	binary.NativeEndian.PutUint16(msg[4:], nftMsg|unix.NFT_MSG_NEWGEN)
	binary.NativeEndian.PutUint16(msg[20:], 8)
	binary.NativeEndian.PutUint16(msg[22:], unix.NFTA_GEN_ID)
	binary.BigEndian.PutUint32(msg[24:], 77)
	if got, ok := parseGeneration(msg); got != 77 || !ok {
		t.Errorf("generation %d, %v, want 77", got, ok)
	}
	for i := range msg {
		if _, ok := parseGeneration(msg[:i]); ok {
			t.Errorf("%d bytes of a message are taken for one", i)
		}
	}
}
