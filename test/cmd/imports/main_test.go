package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	p := func(name string, imports ...string) pkg { return pkg{module + name, imports} }
	for _, c := range []struct {
		p      pkg
		broken int
	}{
		{p("netpath", "net", "os", "github.com/vishvananda/netlink"), 0},
		{p("netpath", module+"bpf"), 1},
		{p("bpf", module+"meshwatch/journey", "github.com/vishvananda/netns"), 2},
		{p("meshwatch/head", "net/netip", "net/url", module+"meshwatch/journey"), 0},
		{p("meshwatch/head", "net", "net/http", "os", "golang.org/x/sys/unix"), 4},
		{p("meshwatch/join", module+"bpf"), 0},
		{p("meshwatch/join", module+"netpath"), 1},
		{p("meshwatch/journey", module+"meshwatch/head"), 1},
		{p("meshwatch/control", "net/http", module+"netpath"), 0},
		{p("meshwatch/control", module+"cmd/meshwatch", module+"test/lab"), 2},
		{p("meshwatch", "github.com/cilium/ebpf/link"), 1},
		{p("topology/proxy", "net/netip", module+"topology"), 0},
		{p("topology/proxy", "net", module+"topology/xds"), 2 + 1}, // the second breaks both rules
		{p("topology/xds", "net", module+"topology", module+"topology/proxy"), 0},
		{p("cmd/meshwatch", module+"meshwatch", module+"netpath", "os"), 0},
		{p("cmd/meshwatch", module+"bpf"), 1},
		{p("topology/kube", module+"topology", "k8s.io/client-go/kubernetes"), 0},
		{p("topology/xds", module+"topology/kube", "k8s.io/api/core/v1"), 2},
		{p("meshwatch", module+"topology/kube", "istio.io/client-go/pkg/clientset/versioned"), 1},
		{p("test/lab", module+"bpf", "net", "github.com/cilium/ebpf"), 0},
	} {
		if got := check([]pkg{c.p}, rules); len(got) != c.broken {
			t.Errorf("%s: %d broken, want %d: %s", c.p.ImportPath, len(got), c.broken, cmp.Diff(nil, got))
		}
	}
}
