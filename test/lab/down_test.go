package lab

import (
	"bufio"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func itoa(n int) string { return strconv.Itoa(n) }

// gone checks that nothing of a lab is left on the machine.
func gone(t *testing.T, id string, procs []Process) {
	t.Helper()
	names, err := netnsOf(id)
	if err != nil || len(names) > 0 {
		t.Errorf("namespaces left: %q, %v", names, err)
	}
	for _, p := range append(procs, tagged(id)...) {
		if p.Running() {
			t.Errorf("process left: %+v", p)
		}
	}
	if dirs := cgroups(id); len(dirs) > 0 {
		t.Errorf("cgroups left: %q", dirs)
	}
	ids, err := IDs()
	if err != nil || slices.Contains(ids, id) {
		t.Errorf("state left: %q, %v", ids, err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestDownLeavesNothing takes a lab down that has all a lab can have.
func TestDownLeavesNothing(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarHAProxy}) // before counting: the runtime opens descriptors of its own
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	l = up(t, Options{AccessLogs: true})
	if _, err := l.AddPod(t.Context(), "late"); err != nil {
		t.Fatal(err)
	}
	for _, kind := range FaultKinds {
		if err := l.StartFault(Fault{Kind: kind, Rules: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Requests(); err != nil {
		t.Fatal(err)
	}
	procs, err := l.Processes()
	if err != nil || len(procs) != 8 {
		t.Fatalf("%d processes, %v: want 8", len(procs), err)
	}
	for range 2 {
		if err := l.Down(); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, l.ID, procs)
	eventually(t, fmt.Sprintf("%d descriptors as before", before), func() bool { return descriptors(t) <= before })
}

func TestSideBySide(t *testing.T) {
	a, b := up(t, Options{Sidecar: SidecarHAProxy}), up(t, Options{Sidecar: SidecarHAProxy, IPv6: true})
	get(t, a, "/", nil)
	get(t, b, "/", nil)
	if err := a.Down(); err != nil {
		t.Fatal(err)
	}
	gone(t, a.ID, nil)
	if resp := get(t, b, "/", nil); resp.Status != http.StatusOK {
		t.Errorf("status %d after the other lab went down", resp.Status)
	}
	again, err := Open(b.ID)
	if err != nil {
		t.Fatal(err)
	}
	get(t, again, "/", nil)
}

// TestCrashVictim is what TestCrash runs and kills.
func TestCrashVictim(t *testing.T) {
	mode := os.Getenv("MESHWATCH_LAB_VICTIM")
	if mode == "" {
		t.Skip("is run by TestCrash")
	}
	l, err := Up(t.Context(), Options{Sidecar: SidecarHAProxy, Detached: mode == "detached"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StartFault(Fault{Kind: FaultSidecar}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("victim", l.ID)
	select {}
}

// TestCrash kills a process that built a lab, and cleans up after it.
func TestCrash(t *testing.T) {
	need(t, SidecarHAProxy)
	for _, mode := range []string{"attached", "detached"} {
		t.Run(mode, func(t *testing.T) {
			id := crash(t, mode)
			t.Cleanup(func() { _ = Clean(id) })
			l, err := Open(id)
			if err != nil {
				t.Fatal(err)
			}
			procs, err := l.Processes()
			if err != nil || len(procs) != 7 {
				t.Fatalf("%d processes recorded, %v: want 7", len(procs), err)
			}
			if mode == "attached" {
				eventually(t, "processes end with their lab", func() bool {
					return !slices.ContainsFunc(procs, Process.Running)
				})
			} else {
				get(t, l, "/", nil)
			}
			if want := mode == "attached"; Stale(id) != want {
				t.Errorf("stale: %t, want %t", !want, want)
			}
			if mode == "detached" { // records lost as well: processes are known by their environment
				if err := os.RemoveAll(l.path("procs")); err != nil {
					t.Fatal(err)
				}
			}
			if err := Clean(id); err != nil {
				t.Fatal(err)
			}
			gone(t, id, procs)
		})
	}
}

// crash builds a lab in another process, kills it, and returns the lab's id.
func crash(t *testing.T, mode string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCrashVictim$")
	cmd.Env = append(os.Environ(), "MESHWATCH_LAB_VICTIM="+mode)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var id string
	lines := bufio.NewScanner(out)
	for id == "" && lines.Scan() {
		id, _ = strings.CutPrefix(lines.Text(), "victim ")
		if id == lines.Text() {
			t.Log(id)
			id = ""
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if id == "" {
		t.Fatal("the victim built no lab")
	}
	return id
}

func TestPodsComeAndGo(t *testing.T) {
	l := up(t, Options{Sidecar: SidecarHAProxy})
	for range 2 {
		p, err := l.AddPod(t.Context(), "late")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Dial(t.Context(), "client", netip.AddrPortFrom(p.V4, appPort).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := l.DeletePod("late"); err != nil {
			t.Fatal(err)
		}
		if names, err := netnsOf(l.ID); err != nil || slices.Contains(names, p.Netns) {
			t.Errorf("namespaces %q, %v: still has %s", names, err, p.Netns)
		}
	}
	if err := l.DeletePod("late"); err == nil {
		t.Error("a pod that is not there was deleted")
	}
	if _, err := l.AddPod(t.Context(), "frontend"); err == nil {
		t.Error("a second frontend was added")
	}
}

func TestWorkloadsYAML(t *testing.T) {
	l := &Lab{ID: "0a0b"}
	for i, p := range demoPods() {
		p.V4, p.V6 = address(l.ID, byte(firstHost+i)) //nolint:gosec // five pods
		l.List = append(l.List, p)
	}
	out, err := l.WorkloadsYAML()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Workloads []workload }
	if err := yaml.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Workloads) != 5 {
		t.Fatalf("%d workloads, want 5:\n%s", len(got.Workloads), out)
	}
	want := fmt.Sprint(workload{"backend", "demo", "backend", "node-1", []string{"10.10.11.5", "fd77:a0b::5"}, RoleApp})
	if w := fmt.Sprint(got.Workloads[3]); w != want {
		t.Errorf("got %s, want %s", w, want)
	}
}
