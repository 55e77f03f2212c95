package meshwatch

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/meshwatch/meshwatch/meshwatch/head"
	"github.com/meshwatch/meshwatch/meshwatch/join"
)

// treeOf is one answered request that took some time.
func treeOf(id head.ID, took time.Duration, status int, problem string) *join.Tree {
	start := uint64(time.Hour)
	return &join.Tree{ID: id, Exchanges: []*join.Exchange{{
		Req:    &join.Message{StartNs: start, RecvNs: start + 1},
		Resp:   &join.Message{StartNs: start + 2, RecvNs: start + uint64(took), RecvEndNs: start + uint64(took), Status: uint16(status)},
		Parent: -1, Error: problem,
	}}}
}

func TestKeepWhat(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Keep
		tree *join.Tree
		want bool
	}{
		"all":              {Keep{Ratio: 1}, treeOf(head.ID{}, 1, 200, ""), true},
		"none":             {Keep{Errors: true, Slow: time.Second}, treeOf(head.ID{}, time.Second-1, 499, ""), false},
		"none without id":  {Keep{}, treeOf(head.ID{}, 1, 200, ""), false},
		"slow":             {Keep{Slow: time.Second}, treeOf(head.ID{}, time.Second, 200, ""), true},
		"slow is off":      {Keep{}, treeOf(head.ID{}, time.Hour, 200, ""), false},
		"5xx":              {Keep{Errors: true}, treeOf(head.ID{}, 1, 503, ""), true},
		"reset":            {Keep{Errors: true}, treeOf(head.ID{}, 1, 200, "reset"), true},
		"errors are off":   {Keep{}, treeOf(head.ID{}, 1, 503, "reset"), false},
		"all of a failing": {Keep{Ratio: 1, Errors: true}, treeOf(head.ID{}, 1, 503, ""), true},
	} {
		t.Run(name, func(t *testing.T) {
			if keep, limited := newKeeper(tt.cfg).wants(tt.tree, uint64(time.Hour)); keep != tt.want || limited {
				t.Errorf("keep %v, limited %v", keep, limited)
			}
		})
	}
}

// Whatever ids are like, the share of them that is kept is near the ratio, and another agent keeps the same.
func TestKeepRatio(t *testing.T) {
	const n = 20000
	kinds := map[string]func(i int) *join.Tree{
		"UUIDs": func(int) *join.Tree {
			var raw head.ID
			_, _ = rand.Read(raw[:])
			id, _ := head.ParseID(fmt.Appendf(nil, "%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:]))
			return treeOf(id, 1, 200, "")
		},
		"UUIDs that count": func(i int) *join.Tree {
			id, _ := head.ParseID(fmt.Appendf(nil, "5a0c8b1e-33a4-4c0e-9d6e-%012d", i))
			return treeOf(id, 1, 200, "")
		},
		"traces that count": func(i int) *join.Tree {
			t := treeOf(head.ID{}, 1, 200, "")
			t.Exchanges[0].TraceID = [16]byte{15: byte(i), 14: byte(i >> 8)}
			return t
		},
		"no ids": func(i int) *join.Tree {
			t := treeOf(head.ID{}, 1, 200, "")
			t.Exchanges[0].Req.Seq, t.Exchanges[0].Req.Ack = uint32(i*78), uint32(i*230)
			return t
		},
	}
	for name, tree := range kinds {
		for _, ratio := range []float64{0, 0.01, 0.1, 0.5, 1} {
			here, there := newKeeper(Keep{Ratio: ratio}), newKeeper(Keep{Ratio: ratio})
			kept := 0
			for i := range n {
				x := tree(i)
				a, _ := here.wants(x, uint64(time.Hour))
				b, _ := there.wants(x, uint64(2*time.Hour))
				if a != b {
					t.Fatalf("%s: two agents disagree on %x", name, x.ID)
				}
				if a {
					kept++
				}
			}
			// five standard deviations of a fair draw
			if off := math.Abs(float64(kept) - ratio*n); off > 5*math.Sqrt(n*ratio*(1-ratio)) {
				t.Errorf("%s at ratio %v: kept %d of %d", name, ratio, kept, n)
			}
		}
	}
}

// The choice is by request id where there is one, as the node of the server may not see the client's trace context.
func TestKeepByRequestIDFirst(t *testing.T) {
	k := newKeeper(Keep{Ratio: 0.5})
	for i := range 100 {
		var id head.ID
		binary.BigEndian.PutUint32(id[12:], uint32(i+1))
		plain, traced := treeOf(id, 1, 200, ""), treeOf(id, 1, 200, "")
		traced.Exchanges[0].TraceID = [16]byte{1}
		if a, b := k.chosen(plain), k.chosen(traced); a != b {
			t.Fatalf("id %d: chosen %v, with a trace context %v", i, a, b)
		}
	}
}

// What spread gives must stay as it is: agents of two releases keep the same requests.
func TestSpreadStays(t *testing.T) {
	id, _ := head.ParseID([]byte("5a0c8b1e-33a4-4c0e-9d6e-000000000001"))
	if got, want := spread(id), uint64(0x15f25880ecb40ec5); got != want {
		t.Errorf("spread is %#x, was %#x", got, want)
	}
}

func TestKeepPerSecond(t *testing.T) {
	k := newKeeper(Keep{Ratio: 1, PerSecond: 10})
	now := uint64(time.Hour)
	seconds := func(n int, every time.Duration) (kept, limited int) {
		for range n * int(time.Second/every) {
			now += uint64(every)
			a, b := k.wants(treeOf(head.ID{}, time.Hour, 500, "reset"), now)
			if a == b {
				t.Fatalf("kept %v and limited %v", a, b)
			}
			if a {
				kept++
			} else {
				limited++
			}
		}
		return kept, limited
	}
	if kept, limited := seconds(10, time.Millisecond); kept < 100 || kept > 111 || kept+limited != 10000 {
		t.Errorf("10 s of 1,000 a second: kept %d, limited %d", kept, limited)
	}
	if kept, limited := seconds(10, 200*time.Millisecond); kept != 50 || limited != 0 {
		t.Errorf("10 s of 5 a second: kept %d, limited %d", kept, limited)
	}
	now += uint64(time.Hour)
	if kept, _ := seconds(1, time.Millisecond); kept > 20 {
		t.Errorf("a pause was saved up: kept %d in a second", kept)
	}
	if k.kept == 0 {
		t.Error("nothing counted as kept")
	}
}
