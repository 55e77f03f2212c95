package topology

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

type update struct {
	store *Store
	err   error
}

// watch starts Watch and stops it with the test; the channel has every call.
func watch(t *testing.T, path string) <-chan update {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	updates, done := make(chan update, 100), make(chan error, 1)
	go func() {
		done <- Watch(ctx, path, NewBuilder("", 0), func() uint64 { return 1 }, func(s *Store, err error) { updates <- update{s, err} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return updates
}

// await waits for the update that says the address is name's, "" for nobody's, with or without an error.
func await(t *testing.T, updates <-chan update, name string, bad bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case u := <-updates:
			if w := who(u.store, "10.0.0.1", 1); w.Name == name && (u.err != nil) == bad {
				return
			}
		case <-deadline:
			t.Fatalf("10.0.0.1 never became %q (error: %v)", name, bad)
		}
	}
}

func named(name string) string {
	return "workloads: [{name: " + name + ", addresses: [10.0.0.1]}]"
}

func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "topology.yaml")
	updates := watch(t, path)
	await(t, updates, "", true) // absent
	write(t, path, named("a"))
	await(t, updates, "a", false)
	write(t, path, "workloads: [{name: b}]")
	await(t, updates, "a", true)
	write(t, path, named("c"))
	await(t, updates, "c", false)
	write(t, path+".new", named("d")) // as editors do
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	await(t, updates, "d", false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	await(t, updates, "d", true)
}

// Kubernetes: topology.yaml → ..data/topology.yaml, ..data → a directory, and a rename puts another in its place.
func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(dir, ".."+v), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, ".."+v, "topology.yaml"), named("v"+v))
	}
	link("..1", "..data")
	link("..data/topology.yaml", "topology.yaml")
	updates := watch(t, filepath.Join(dir, "topology.yaml"))
	await(t, updates, "v1", false)
	link("..2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	await(t, updates, "v2", false)
}

func TestWatchNoDirectory(t *testing.T) {
	err := Watch(context.Background(), filepath.Join(t.TempDir(), "none", "topology.yaml"), NewBuilder("", 0), func() uint64 { return 1 }, func(*Store, error) {})
	if err == nil {
		t.Error("no error")
	}
}

// What did not change is not told again.
func TestReloadSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "topology.yaml")
	calls := 0
	f := watched{path: path, builder: NewBuilder("", 0), clock: func() uint64 { return 1 }, changed: func(*Store, error) { calls++ }}
	for _, step := range []struct {
		content string
		want    int
	}{{"", 1}, {"", 1}, {named("a"), 2}, {named("a"), 2}, {"bad", 3}, {"bad", 3}, {named("a"), 4}} {
		if step.content != "" {
			write(t, path, step.content)
		}
		f.reload()
		if calls != step.want {
			t.Errorf("%q: %d calls, want %d", step.content, calls, step.want)
		}
	}
}

// Services and resources come and go with the file, too.
func TestReloadAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "topology.yaml")
	var store *Store
	f := watched{path: path, builder: NewBuilder("", 0), clock: func() uint64 { return 1 }, changed: func(s *Store, err error) {
		if err != nil {
			t.Error(err)
		}
		store = s
	}}
	const all = "workloads: []\nservices: [{host: a}, {host: b}]\nresources: [{kind: K, name: a}, {kind: K, name: b, detail: x}]"
	for _, step := range []struct {
		content             string
		services, resources []string
	}{
		{all, []string{"a", "b"}, []string{"a ", "b x"}},
		{"workloads: []\nservices: [{host: b}]\nresources: [{kind: K, name: b, detail: y}]", []string{"b"}, []string{"b y"}},
		{"workloads: []", nil, nil},
		{all, []string{"a", "b"}, []string{"a ", "b x"}},
	} {
		write(t, path, step.content)
		f.reload()
		var services, resources []string
		for _, s := range store.Services() {
			services = append(services, s.Host)
		}
		for _, r := range store.Resources() {
			resources = append(resources, r.Name+" "+r.Detail)
		}
		if !slices.Equal(services, step.services) || !slices.Equal(resources, step.resources) {
			t.Errorf("%q: services %q, resources %q", step.content, services, resources)
		}
	}
}
