// Command imports checks which package of this module imports what, by the rules below, and exits 1 when one is broken.
// Tests may import anything.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
)

const module = "github.com/meshwatch/meshwatch/"

// rule is for the packages that match one of its patterns.
type rule struct {
	packages []string // path.Match patterns below the module; a final /... takes everything below
	only     []string // of this module, nothing else may be imported; nil: no such rule
	not      []string // may not be imported
	why      string
}

// io packages reach the world; pure packages compute.
var world = []string{"net", "net/...", "os", "os/...", "syscall", "golang.org/x/sys/...", "io/ioutil", "log", "log/..."}

var rules = []rule{
	{[]string{"bpf", "netpath", "topology"}, []string{}, nil, "bpf, netpath and topology own one outside world each and never import each other or what is above them"},
	{[]string{"topology/proxy"}, []string{"topology"}, world, "the middle is pure: values in, values out"},
	{[]string{"topology/..."}, []string{"topology", "topology/proxy"}, nil, "topology owns an outside world and never imports bpf, netpath or what is above them"},
	{[]string{"meshwatch/journey", "meshwatch/loss"}, []string{}, world, "the words are plain values"},
	{[]string{"meshwatch/head", "meshwatch/verdict"}, []string{"meshwatch/journey"}, world, "the middle is pure: values in, values out"},
	{[]string{"meshwatch/h2"}, []string{"meshwatch/head"}, world, "the middle is pure: values in, values out"},
	{[]string{"meshwatch/tlsfind"}, []string{}, world, "the middle is pure: values in, values out"},
	{[]string{"meshwatch/join"}, []string{"bpf", "meshwatch/h2", "meshwatch/head", "meshwatch/journey", "meshwatch/loss"}, world, "the middle is pure: values in, values out"},
	{[]string{"meshwatch/audit"}, []string{"meshwatch/head", "meshwatch/journey", "meshwatch/loss"}, world, "the middle is pure: values in, values out"},
	{[]string{"meshwatch/proxylog"}, []string{"meshwatch/journey", "meshwatch/loss"}, nil, "proxylog owns what proxies say, and knows nothing of what is made of it"},
	{[]string{"meshwatch/report"}, []string{"meshwatch/journey", "meshwatch/verdict"}, world, "reports are pure but for the io.Writer they are given"},
	{[]string{"bpf", "netpath", "topology", "meshwatch", "meshwatch/..."}, nil, []string{module + "cmd/...", module + "test/..."}, "nothing imports cmd or test"},
	{[]string{"cmd/..."}, nil, []string{module + "bpf", module + "topology", module + "test/..."}, "imports run cmd → meshwatch → bpf, netpath, topology"},
	{[]string{"netpath", "topology", "meshwatch", "meshwatch/...", "cmd/..."}, nil, []string{"github.com/cilium/ebpf", "github.com/cilium/ebpf/..."}, "bpf owns bpf(2)"},
	{[]string{"bpf", "topology", "meshwatch", "meshwatch/...", "cmd/..."}, nil, []string{"github.com/vishvananda/...", "github.com/mdlayher/...", "github.com/google/nftables", "github.com/google/nftables/..."}, "netpath owns netlink and namespaces"},
	{[]string{"bpf", "netpath", "topology", "topology/xds", "topology/proxy", "meshwatch", "meshwatch/...", "cmd/..."}, nil, []string{"k8s.io/...", "istio.io/client-go/..."}, "topology/kube owns the API server"},
}

// exempt are values of an outside world that are not its doors.
var exempt = map[string]bool{"net/netip": true, "net/url": true}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
}

func main() {
	packages, err := list()
	if err != nil {
		fmt.Fprintln(os.Stderr, "imports:", err)
		os.Exit(1)
	}
	broken := check(packages, rules)
	for _, line := range broken {
		fmt.Println(line)
	}
	if broken != nil {
		os.Exit(1)
	}
}

func list() (out []pkg, err error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("read go list: %w", err)
		}
		out = append(out, p)
	}
}

// check says which import breaks which rule.
func check(packages []pkg, rules []rule) (broken []string) {
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, r := range rules {
			if !matches(r.packages, name) {
				continue
			}
			for _, imported := range p.Imports {
				inner, ours := strings.CutPrefix(imported, module)
				if matches(r.not, imported) && !exempt[imported] || ours && r.only != nil && !matches(r.only, inner) {
					broken = append(broken, fmt.Sprintf("%s imports %s: %s", name, imported, r.why))
				}
			}
		}
	}
	return broken
}

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if below, ok := strings.CutSuffix(p, "..."); ok && strings.HasPrefix(name, below) {
			return true
		}
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}
