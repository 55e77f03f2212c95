package bpf

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// The lists say what the sources use, no more and no less.
func TestFeatureLists(t *testing.T) {
	var used []string
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadNetfilter, loadTc, loadDevice, loadSocket, loadTrouble} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range spec.Programs {
			if p.Type == ebpf.Tracing {
				used = append(used, p.AttachTo)
			}
		}
	}
	same(t, tracepoints, used)

	used = nil
	extern := regexp.MustCompile(`\*?(\w+)\([^;]*\) __ksym;`)
	sources, err := filepath.Glob("*.bpf.c")
	if err != nil {
		t.Fatal(err)
	}
	headers, err := filepath.Glob("c/*.h")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(sources, headers...) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range extern.FindAllSubmatch(b, -1) {
			used = append(used, string(m[1]))
		}
	}
	same(t, kfuncs, used)
}

func same(t *testing.T, list []Feature, used []string) {
	t.Helper()
	var names []string
	for i := range list {
		names = append(names, list[i].Name)
	}
	slices.Sort(names)
	slices.Sort(used)
	if diff := cmp.Diff(slices.Compact(used), names); diff != "" {
		t.Errorf("features (-used +listed):\n%s", diff)
	}
}

func TestFeaturesOfThisKernel(t *testing.T) {
	privileged(t)
	if err := CheckFeatures(); err != nil {
		t.Error(err)
	}
}

func TestMissingFeatureText(t *testing.T) {
	err := &MissingFeature{Names: []string{"tracepoint a (Linux 6.3)", "kernel function b (Linux 6.4)"}, Err: os.ErrNotExist}
	want := "this kernel lacks tracepoint a (Linux 6.3), kernel function b (Linux 6.4): meshwatch needs Linux 6.6 or later with " +
		"CONFIG_DEBUG_INFO_BTF; `meshwatch check` tells more (file does not exist)"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
	if !Refused(err) || Refused(os.ErrNotExist) {
		t.Error("Refused is wrong")
	}
}
