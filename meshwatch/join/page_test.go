package join

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/meshwatch/meshwatch/bpf"
)

// Whatever is kept and dropped in which order, each message finds its own flight and bytes, and the pages are as many as messages
// need that are there at one time, though some stay for ever.
func TestPages(t *testing.T) {
	var s pages
	r := rand.New(rand.NewPCG(1, 2))
	kept := map[*Message]uint64{}
	text := func(id uint64) []byte { return bytes.Repeat(fmt.Append(nil, id, " "), int(id%50)) }
	var order []*Message
	most := 0
	for id := uint64(1); id < 200_000; id++ {
		m := &Message{}
		s.put(m, &bpf.Flight{Id: id}, text(id))
		kept[m] = id
		if id%1000 != 0 { // the others stay
			order = append(order, m)
		}
		for len(order) > 500 {
			i := r.IntN(len(order))
			s.drop(order[i])
			delete(kept, order[i])
			order = slices.Delete(order, i, i+1)
		}
		most = max(most, len(kept))
	}
	for m, id := range kept {
		if m.Flight.Id != id || !bytes.Equal(m.captured(), text(id)) {
			t.Fatalf("message %d has flight %d and %q", id, m.Flight.Id, m.captured())
		}
	}
	if n := len(s.all); n > 8*(most/pageFlights+1) {
		t.Errorf("%d pages for %d messages at a time", n, most)
	}
	for m := range kept {
		s.drop(m)
	}
	for _, p := range s.all {
		if p.live != 0 || p.n != 0 || slices.ContainsFunc(p.owners[:], func(m *Message) bool { return m != nil }) {
			t.Errorf("%d of %d flights are left on a page", p.live, p.n)
		}
	}
}

// A head that is longer than a page's room has a page that is larger.
func TestPageOfLongHead(t *testing.T) {
	var s pages
	long := bytes.Repeat([]byte("x"), 2*pageBytes)
	var ms [3]Message
	for i := range ms {
		s.put(&ms[i], &bpf.Flight{Id: uint64(i)}, long[i:])
	}
	for i := range ms {
		if len(ms[i].captured()) != len(long)-i || ms[i].Flight.Id != uint64(i) {
			t.Errorf("message %d: %d bytes of flight %d", i, len(ms[i].captured()), ms[i].Flight.Id)
		}
	}
}

// What every request needs of a message while it waits for the others stays small.
func TestMessageIsTwoCacheLines(t *testing.T) {
	if n := unsafe.Sizeof(Message{}); n > 128 {
		t.Errorf("%d bytes", n)
	}
}
