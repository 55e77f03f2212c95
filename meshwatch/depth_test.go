package meshwatch

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshwatch/meshwatch/meshwatch/attach"
	"github.com/meshwatch/meshwatch/netpath"
)

// deepened remembers what was to be in full depth last.
type deepened struct {
	all  bool
	some []uint32
}

func (d *deepened) Deepen(all bool, some ...uint32) { d.all, d.some = all, some }

func (d *deepened) Counts() attach.Counts { return attach.Counts{Deep: len(d.some)} }

// pods are namespaces that something reaches, numbered from 1.
func pods(n int) func() *netpath.State {
	var all []*netpath.Namespace
	for i := range n {
		all = append(all, &netpath.Namespace{
			Inum: uint32(i + 1), Name: fmt.Sprintf("pod%d", i+1), Links: []netpath.Link{{Index: 2, Name: "eth0", Kind: netpath.KindVeth, Up: true}},
		})
	}
	state := netpath.NewState(all, nil)
	return func() *netpath.State { return state }
}

func (d *deepened) wants(t *testing.T, when string, some ...uint32) {
	t.Helper()
	if diff := cmp.Diff(some, d.some, cmp.Transformer("", func(s []uint32) []uint32 { return append([]uint32{}, s...) })); diff != "" || d.all {
		t.Errorf("%s: all %v, some (-want +got):\n%s", when, d.all, diff)
	}
}

// Each namespace has a second, in the order of their numbers, and there are nine between.
func TestTurns(t *testing.T) {
	var got deepened
	d := newDepths(DepthAuto, &got, pods(3))
	now := time.Now()
	for i := range 4 {
		d.step(now)
		got.wants(t, fmt.Sprint("turn ", i), uint32(i%3+1))
		for s := range 9 {
			d.step(now.Add(time.Duration(s+1) * turnTime))
			got.wants(t, fmt.Sprint("after turn ", i))
		}
		now = now.Add(turnEvery)
	}
}

// What left its baseline stays for ten seconds, what is asked for as long as asked, and there are not too many of the first.
func TestDoubtsAndQuestions(t *testing.T) {
	var got deepened
	d := newDepths(DepthAuto, &got, pods(20))
	d.next = time.Now().Add(time.Hour) // no turns
	d.look([]uint32{5, 7})
	got.wants(t, "left", 5, 7)
	if names := d.ask("pod6", time.Minute); len(names) != 1 || names[0] != "pod6" {
		t.Errorf("asked for %v", names)
	}
	if names := d.ask("none", time.Minute); names != nil {
		t.Errorf("asked for %v", names)
	}
	d.ask("6", time.Second) // less than was asked before
	got.wants(t, "asked", 5, 6, 7)
	d.step(time.Now().Add(turnEvery + time.Second))
	got.wants(t, "no more doubt", 6)
	d.step(time.Now().Add(2 * time.Minute))
	got.wants(t, "answered")
	d.look([]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	got.wants(t, "many", 1, 2, 3, 4, 5, 6, 7, 8)
	d.allow(false)
	got.wants(t, "not within the budget")
	d.allow(true)
	if len(got.some) != maxDeep {
		t.Errorf("within the budget again: %v", got.some)
	}
}

func TestDepthModes(t *testing.T) {
	for mode, want := range map[string]string{
		DepthFull: "full", DepthEdges: "edges", DepthAuto: "auto, 0 namespaces in full depth now",
	} {
		var got deepened
		d := newDepths(mode, &got, pods(3))
		d.left([]uint32{1})
		d.step(time.Now())
		if got.all != (mode == DepthFull) || mode == DepthEdges && len(got.some) > 0 {
			t.Errorf("%s: all %v, some %v", mode, got.all, got.some)
		}
		if d.doubt = map[uint32]time.Time{}; mode == DepthAuto {
			got.some = nil
		}
		if s := d.String(); s != want {
			t.Errorf("%s: says %q", mode, s)
		}
		d.allow(false)
		if s := d.String(); got.all || s != mode+", but none in full depth: that was above the budget" {
			t.Errorf("%s, not within the budget: says %q", mode, s)
		}
	}
}
