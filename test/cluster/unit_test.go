package cluster

import (
	"archive/tar"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReadAccess(t *testing.T) {
	const at = "2026-11-22T20:00:00.1Z "
	log := at + "stderr F 2026-11-22 info Envoy proxy is ready\n" +
		at + `stdout F {"start":"1795000000.123456","request_id":"r1","path":"/a","code":200,"flags":"-","duration_ms":3,"attempts":1,` +
		`"downstream_direct":"10.244.1.7:41000","upstream_local":null,"upstream_host":"envoy://internal_client_address/","cluster":"inbound|8080||"}` + "\n" +
		at + `stdout P {"request_id":` + "\n" + at + "stderr F meanwhile\n" + at + `stdout F "r2","code":0}` + "\n" +
		at + `stdout F {"request_id":}` + "\n" +
		at + `stdout F {"request_id":"still being written`
	var got []Access
	var broken int
	readAccess(strings.NewReader(log), func(a Access, err error) bool {
		if err != nil {
			broken++
		} else {
			got = append(got, a)
		}
		return true
	})
	want := []Access{
		{Start: Seconds{time.Unix(1795000000, 123456000)}, RequestID: "r1", Path: "/a", Code: 200, Flags: "-", DurationMS: 3, Attempts: 1,
			DownstreamDirect: addr("10.244.1.7:41000"), Cluster: "inbound|8080||"},
		{RequestID: "r2"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(Addr{})); diff != "" || broken != 1 {
		t.Errorf("%d broken (-want +got):\n%s", broken, diff)
	}
}

func addr(s string) Addr { return Addr{netip.MustParseAddrPort(s)} }

func TestMatch(t *testing.T) {
	a, b := addr("10.244.1.2:1"), addr("10.244.1.2:2")
	callers := []Access{
		{RequestID: "1", UpstreamLocal: a}, {RequestID: "1", UpstreamLocal: b}, {RequestID: "2", UpstreamLocal: a},
		{RequestID: "3"}, // never left
		{RequestID: "4", UpstreamLocal: a}, {RequestID: "4", UpstreamLocal: a},
	}
	callees := []Access{
		{RequestID: "1", DownstreamDirect: b}, {RequestID: "1", DownstreamDirect: a}, {RequestID: "2", DownstreamDirect: b},
		{RequestID: "4", DownstreamDirect: a},
	}
	matched, lost := Match(callers, callees)
	if matched != 3 || len(lost) != 2 || lost[0].RequestID != "2" || lost[1].RequestID != "4" {
		t.Errorf("matched %d, lost %+v", matched, lost)
	}
}

func TestWriteImage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	img := Image{Name: "lab.local/x:1", Entrypoint: []string{"/bin/tool"}, Dirs: []string{"/var/run"},
		Text:  map[string]string{"/etc/passwd": "root"},
		Files: map[string]string{"/bin/tool": filepath.Join(dir, "link"), "/lib": dir}}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := WriteImage(file, img); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var layer string
	var names []string
	for r := tar.NewReader(f); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimRight(head.Name, "0123456789abcdef"))
		layer = string(data) // the last
	}
	if diff := cmp.Diff([]string{"oci-layout", "index.json", "blobs/sha256/", "blobs/sha256/", "blobs/sha256/"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var got []string
	for r := tar.NewReader(strings.NewReader(layer)); ; {
		head, err := r.Next()
		if err != nil {
			break
		}
		got = append(got, head.Name+head.Linkname)
	}
	want := []string{"tmp/", "var/", "var/run/", "etc/", "etc/passwd", "bin/", "bin/tool", "lib/", "lib/linktool", "lib/tool"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOptions(t *testing.T) {
	for nodes, want := range map[int]int{0: 1, 1: 1, 3: 3, 4: -1, -1: -1} {
		o, err := Options{Nodes: nodes}.check()
		if (err != nil) != (want < 0) || err == nil && o.Nodes != want {
			t.Errorf("%d nodes: %+v, %v", nodes, o, err)
		}
	}
}

func TestDiff(t *testing.T) {
	before := Snapshot{"link eth0": true, "process 1": true, "mount /x": true}
	after := Snapshot{"link eth0": true, "process 2": true}
	if diff := cmp.Diff([]string{"gone: mount /x", "new: process 2"}, before.Diff(after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
